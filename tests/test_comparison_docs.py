"""docs/comparison.md names every field of the JSON, every column of the CSV and every option, and no other."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from compare import commands, cost
from compare.comparison import SCHEMA, as_json
from compare.csv_rows import columns
from tests.costs import INT8, VGG, comparison

PAGE = (Path(__file__).parents[1] / "docs/comparison.md").read_text(encoding="utf-8")
WHERE = {
    "Comparison": (),
    "CostCard": ("cards", 0),
    "Repeated": ("cards", 0, "cold_start", "total"),
    "Disk": ("cards", 0, "disk"),
    "Layer": ("cards", 0, "disk", "layers", 0),
    "ColdStart": ("cards", 0, "cold_start"),
    "Memory": ("cards", 0, "memory"),
    "SingleStream": ("cards", 0, "single_stream"),
    "Latencies": ("cards", 0, "single_stream", "latency"),
    "Saturation": ("cards", 0, "saturation"),
    "Offline": ("cards", 0, "offline"),
    "Server": ("cards", 0, "server"),
    "Probe": ("cards", 0, "server", "probes", 0),
    "BatchPoint": ("cards", 0, "batches", 0),
    "Accuracy": ("cards", 0, "accuracy"),
    "Published": ("cards", 0, "published"),
    "Caller": ("callers", 0),
    "Busy": ("busy",),
    "Settings": ("settings",),
}
"""Where in the JSON one of each record stands."""


def section(heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}.*?$(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows(heading: str) -> list[str]:
    return re.findall(r"^\| `([a-z0-9_]+)`(?: \+)? \|", section(heading), re.MULTILINE)


@pytest.mark.parametrize("name", WHERE)
def test_every_field_of_the_json(name: str) -> None:
    """Each record's table has the keys that stand in the JSON, in their order."""
    value: Any = json.loads(as_json(comparison(INT8, VGG)))
    for step in WHERE[name]:
        value = value[step]
    assert rows(f"`{name}`") == list(value)


def test_every_record() -> None:
    """No record of compare/cost.py is missing, and the page names the schema that is written."""
    declared = {name for name, each in inspect.getmembers(cost) if is_dataclass(each)}
    assert declared | {"Comparison"} == set(WHERE)
    assert f"`{SCHEMA}`" in PAGE


def test_every_column_of_the_csv() -> None:
    """The table has the CSV's columns in their order; those with + have a lowest and a highest beside them."""
    told = re.findall(r"^\| `([a-z0-9_]+)`( \+)? \|", section("The CSV"), re.MULTILINE)
    named = [column for name, plus in told for column in ([name, f"{name}_low", f"{name}_high"] if plus else [name])]
    assert named == columns()


@pytest.mark.parametrize(("command", "heading"), [("compare", "`netweight compare`"), ("choose", "Which to deploy")])
def test_every_option(command: str, heading: str) -> None:
    """Every option of the commands is told in its section, and no option that there is not."""
    words = getattr(commands, command)
    declared = {
        option for each in words.params if isinstance(each, click.Option) for option in each.opts if option != "--help"
    }
    assert set(re.findall(r"`(--[a-z0-9-]+)`", section(heading))) == declared

"""The documentation names what there is: every setting, every metric, every command; and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.config import Settings
from server.config_fields import FIELDS
from server.gpu import GpuMetrics, Gpus
from server.metrics import Metrics
from tests.fake_nvml import FakeNvml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def test_every_setting_is_documented() -> None:
    """docs/settings.md has a row for each setting and its environment variable, with its default, and no other."""
    rows = re.findall(
        r"^\| `--([a-z-]+)[^|`]*(?:\\\|[^|`]*)*`[^|]*\| `(NETWEIGHT_[A-Z_]+)`[^|]*\| ([^|]+) \|",
        read("settings.md"),
        re.MULTILINE,
    )
    told = {variable.removeprefix("NETWEIGHT_").lower(): default.strip("`") for _, variable, default in rows}
    assert told.keys() == {field.name for field in fields(Settings)}
    for field in fields(Settings):
        if field.name != "models":
            default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            assert told[field.name] == default, field.name


def test_every_metric_is_documented() -> None:
    """docs/metrics.md has a row for each metric that the server declares, and no other."""
    registry = CollectorRegistry()
    Metrics(registry)
    registry.register(GpuMetrics(Gpus(FakeNvml())))
    declared = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if not family.name.endswith("_created")
    }
    told = set(re.findall(r"^\| `((?:netweight|nv_gpu)_[a-z_]+)`", read("metrics.md"), re.MULTILINE))
    assert told == declared


def test_every_field_of_a_configuration_is_documented() -> None:
    """docs/triton.md has a row for each field of ModelConfig, with what the server does about it, and no other."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([a-z ]+) \|", read("triton.md"), re.MULTILINE)
    assert len(rows) == len(FIELDS)
    assert dict(rows) == FIELDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link and picture leads to a file that is there, and to a heading of it where it names one."""
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading and a missing picture are found; what stands in code is no link."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three\n[a](#one-two-three) [b](page.md#one-two-three) [c](https://example.com/none) `[d](none)`\n"
        "```\n# four\n[e](none)\n```\n"
        '[f](none.md) [g](#four) ![h](none.png "title")\n<source srcset="none.svg"><img src="page.md">\n'
    )
    assert list(broken(page)) == ["none.md", "#four", "none.png", "none.svg"]


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a Markdown page that lead nowhere."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for link, source in re.findall(r'\]\(([^)\s]+)|(?:src|srcset|href)="([^"]+)"', text):
        target = link or source
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        there = file.exists() and (not heading or file.suffix != ".md" or heading in headings(file))
        if not there and not re.match(r"[a-z]+:", target):
            yield target


def headings(page: Path) -> set[str]:
    """Return the names by which links call a page's headings, made as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")

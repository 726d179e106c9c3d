"""The documentation names what there is: every setting, every metric, every command."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from prometheus_client import CollectorRegistry

from server.config import Settings
from server.config_fields import FIELDS
from server.gpu import GpuMetrics, Gpus
from server.metrics import Metrics
from tests.fake_nvml import FakeNvml

DOCS = Path(__file__).parents[1] / "docs"


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


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")

"""A whole comparison: its cost cards, how and on what machine they were measured; as JSON and back.

The schema is told field by field in docs/comparison.md. Every `Repeated` is written as
``{"median": ..., "low": ..., "high": ..., "rounds": [...]}``; only its rounds are read back. Raw latencies are whole
microseconds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn

from compare.cost import Accuracy, Busy, Caller, CostCard, Latencies, Repeated, Settings
from compare.files import write_text
from models.spec import NetweightError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "netweight-comparison/1"
MICROSECOND = 1e-6


@dataclass(frozen=True)
class Comparison:
    """Cost cards in the order in which the models were named, and what a reader must know of how they came about.

    Attributes:
        created: UTC, ISO 8601.
        environment: what `models.environment.environment` says of the machine.
        busy: what else the machine did meanwhile; None: the system does not tell.
        settings: how it was measured.
        callers: the caller's own ceilings, by request size.
        cards: one for each model.
    """

    created: str
    environment: dict[str, Any]
    busy: Busy | None
    settings: Settings
    callers: tuple[Caller, ...]
    cards: tuple[CostCard, ...]


def as_json(comparison: Comparison) -> str:
    """Return the comparison as JSON text, its schema first."""
    values = {"schema": SCHEMA, **_converter().unstructure(comparison)}
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def write(path: Path, comparison: Comparison) -> None:
    """Write the JSON file, whole or not at all."""
    write_text(path, as_json(comparison))


def read(path: Path) -> Comparison:
    """Return the comparison in a JSON file.

    Raises:
        NetweightError: there is none, or it is of another schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetweightError(
            f"{path}: expected a comparison as `netweight compare --output` writes it: {error}"
        ) from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise NetweightError(f"{path}: expected schema {SCHEMA}, got {schema!r}: compare again with this netweight")
    try:
        return _converter().structure(values, Comparison)
    except Exception as error:
        raise NetweightError(f"{path}: not a whole comparison ({error!r}): compare again") from error


@cache
def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(Repeated, _write_repeated)
    converter.register_structure_hook(Repeated, lambda value, _: Repeated(tuple(map(float, value["rounds"]))))
    converter.register_unstructure_hook(Latencies, _write_latencies)
    converter.register_structure_hook(Latencies, lambda value, _: _read_latencies(value))
    plain = make_dict_unstructure_fn(Accuracy, converter)
    converter.register_unstructure_hook(
        Accuracy, lambda value: {**plain(value), "top1": value.top1, "agreement": value.agreement}
    )
    return converter


def _write_repeated(value: Repeated) -> dict[str, Any]:
    return {"median": value.median, "low": value.low, "high": value.high, "rounds": list(value.rounds)}


def _write_latencies(value: Latencies) -> dict[str, Any]:
    percentiles = {f"p{percent}_seconds": value.percentile(percent) for percent in (50, 90, 99)}
    return {
        **{name: None if math.isnan(seconds) else seconds for name, seconds in percentiles.items()},
        "count": value.count,
        "microseconds": [[round(sample / MICROSECOND) for sample in samples] for samples in value.rounds],
    }


def _read_latencies(value: dict[str, Any]) -> Latencies:
    return Latencies(tuple(tuple(sample * MICROSECOND for sample in samples) for samples in value["microseconds"]))

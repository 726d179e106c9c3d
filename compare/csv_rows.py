"""The comparison as CSV: a line for each model, base units in the columns' names, what is unknown left empty.

The columns are always the same, whatever was measured, so that files can be put together. A figure that each round
measured has its lowest and its highest round beside it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO

from compare.comparison import Comparison
from compare.cost import CostCard
from compare.figures import FIGURES, Figure, part

FACTS: dict[str, Callable[[CostCard], str | int | float | bool | None]] = {
    **{
        name: part(name)
        for name in ("model", "version", "title", "family", "variant", "reference", "trained", "adaptation", "provider")
    },
    "input": part("input"),
    "errors": part("errors"),
    "saturation_callers": part("saturation.callers"),
    "offline_batch": part("offline.batch"),
    "offline_callers": part("offline.callers"),
    "bound_seconds": part("server.bound_seconds"),
    "correct": part("accuracy.correct"),
    "images": part("accuracy.images"),
    "published_top1_percent": part("published.top1_percent"),
    "published_data": part("published.data"),
}
"""Columns that say what a line is about; the figures' follow."""
EXACT = frozenset({"parameters", "multiply_accumulates", "top1", "agreement"})
"""Figures, beside bytes on disk, that no round measures."""
ON_DISK = frozenset({"onnx_bytes", "compressed_bytes", "checkpoint_bytes"})


def as_csv(comparison: Comparison) -> str:
    """Return the head and a line for each model, in the comparison's order."""
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns())
    for card in comparison.cards:
        row = {"created": comparison.created, **{name: read(card) for name, read in FACTS.items()}, **_figures(card)}
        writer.writerow(["" if row[name] is None else row[name] for name in columns()])
    return written.getvalue()


def columns() -> list[str]:
    """Return the names of the columns in their order."""
    return ["created", *FACTS, *(name for figure in FIGURES for name in _names(figure))]


def _names(figure: Figure) -> list[str]:
    if figure.name in EXACT | ON_DISK:
        return [figure.name]
    return [figure.name, f"{figure.name}_low", f"{figure.name}_high"]


def _figures(card: CostCard) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {}
    for figure in FIGURES:
        value = figure.value(card)
        numbers = (value.typical, value.low, value.high) if value else (None, None, None)
        values |= {name: _number(number) for name, number in zip(_names(figure), numbers, strict=False)}
    return values


def _number(value: float | None) -> float | int | None:
    """Return whole numbers without a point, others with nine significant digits."""
    if value is None or float(value).is_integer():
        return None if value is None else int(value)
    return float(f"{value:.9g}")

"""The page's table: every figure of every card, in groups, with what sorts and what is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.columns import DASH, PLUS_MINUS, WORTH_TELLING, show_number
from compare.cost import MB, MIB
from compare.figures import FIGURES, Figure, batch_figures
from compare.page.amounts import GLUE, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.cost import CostCard

GROUPS = (
    ("accuracy", ("top1", "agreement")),
    ("the network", ("parameters", "multiply_accumulates")),
    ("to ship", ("onnx_bytes", "compressed_bytes", "checkpoint_bytes")),
    ("one caller", ("p50_", "p90_", "p99_", "single_stream")),
    ("saturation", ("saturation", "price_per_million")),
    ("other loads", ("highest_rate", "offline")),
    ("memory", ("memory",)),
    ("GPU memory", ("gpu_memory",)),
    ("cold start", ("cold_start",)),
    ("batches, one caller", ("batch_",)),
)
"""Title of each group, and how the names of its figures begin."""
TITLES = {
    "top1": "measured top-1",
    "agreement": "agreement",
    "multiply_accumulates": "GMACs",
    "onnx": "ONNX",
    "highest_rate": "highest Poisson rate",
    "price_per_million": "price of a million",
    "cold_start": "in all",
}


@dataclass(frozen=True)
class Column:
    """One figure of the table.

    Attributes:
        group: what stands above it.
        title: what it is, its unit apart.
        unit: of the numbers shown.
        figure: how it is read off a card, in base units.
        write: the number in words, from base units.
    """

    group: str
    title: str
    unit: str
    figure: Figure
    write: Callable[[float], str]


@dataclass(frozen=True)
class Cell:
    """A figure of one card: the text, the number that it sorts by, what each round measured, how far they lie apart."""

    text: str
    number: float | None
    rounds: str = ""
    spread: str = ""


def columns(cards: Sequence[CostCard]) -> list[Column]:
    """Return a column for each figure that any of the cards has, group by group."""
    known = [each for each in (*FIGURES, *batch_figures(cards)) if any(each.value(card) is not None for card in cards)]
    return [_column(group, figure) for group, starts in GROUPS for figure in known if figure.name.startswith(starts)]


def cell(column: Column, card: CostCard) -> Cell:
    """Return what stands in a column of a card's row; a dash where it was not measured."""
    value = column.figure.value(card)
    if value is None:
        return Cell(DASH, None)
    rounds = ", ".join(column.write(each) for each in value.rounds) if len(value.rounds) > 1 else ""
    spread = f"{PLUS_MINUS}{value.spread / 2 * 100:.0f}{GLUE}%" if value.spread > WORTH_TELLING else ""
    return Cell(column.write(value.typical), value.typical, rounds, spread)


def _column(group: str, figure: Figure) -> Column:
    base, unit, write = _unit(figure.name)
    title = TITLES.get(base) or _within(group, base)
    return Column(group, title, unit, figure, write)


def _within(group: str, base: str) -> str:
    """Return the rest of a name beneath the title of its group."""
    for start in ("cold_start_", "gpu_memory_", "memory_", "saturation_", "single_stream_"):
        base = base.removeprefix(start)
    words = re.sub(r"^batch_(\d+)_?", r"batch \1 ", base).replace("_", " ").replace("warm up", "warm-up").strip()
    return {"saturation": "throughput", "": group, "cpu": "CPU"}.get(words, words)


def _unit(name: str) -> tuple[str, str, Callable[[float], str]]:
    """Return a figure's name without its unit, the unit shown, and how its number is written in it."""
    for end, unit, scale in (
        ("_per_second", "/s", 1.0),
        ("_bytes", "MiB" if "memory" in name else "MB", 1 / MIB if "memory" in name else 1 / MB),
        ("_seconds", "s" if name.startswith("cold") else "ms", 1.0 if name.startswith("cold") else 1e3),
        ("_joules", "J", 1.0),
    ):
        if name.endswith(end):
            return name.removesuffix(end) + ("_energy" if end == "_joules" else ""), unit, _scaled(scale)
    if name in {"top1", "agreement"}:
        return name, "", percent
    if name == "parameters":
        return name, "", lambda value: f"{value:,.0f}"
    return name, "", _scaled(1e-9 if name == "multiply_accumulates" else 1.0)


def _scaled(scale: float) -> Callable[[float], str]:
    return lambda value: show_number(value * scale)

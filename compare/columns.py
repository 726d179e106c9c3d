"""What tables show of the figures: titles for people, units as people read them, and how each number is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compare.cost import MB, MIB, CostCard
from compare.figures import BY_NAME, Figure, Value

DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
WORTH_TELLING = 0.1
"""Rounds that differ by more than this share of the figure have their spread shown beside it."""


def show_number(value: float) -> str:
    """Return three or more significant digits: ``0.0012``, ``0.246``, ``8.94``, ``42.8``, ``537.2``, ``1,234``."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"
    for limit, digits in ((1, 3), (10, 2), (1000, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def show_ratio(ratio: float) -> str:
    """Return a ratio with the times sign: 0.0016, 0.25, 3.4, 36 or 2,180 times."""
    if ratio < 0.0995:
        return f"{ratio:.2g}{TIMES}"
    digits = 2 if ratio < 0.995 else 1 if ratio < 9.95 else 0
    return f"{ratio:,.{digits}f}{TIMES}"


@dataclass(frozen=True)
class Column:
    """One figure as a table shows it; `scale` makes the base unit the shown one."""

    title: str
    unit: str
    figure: Figure
    scale: float = 1
    write: Callable[[float], str] = show_number
    has_ratio: bool = True

    @property
    def label(self) -> str:
        """Return title and unit in one line."""
        return f"{self.title}{self.unit}" if self.unit.startswith("/") else f"{self.title} {self.unit}".strip()

    def value(self, card: CostCard) -> Value | None:
        """Return the figure in base units; None: not measured."""
        return self.figure.value(card)

    def show(self, card: CostCard) -> str:
        """Return the figure as text, with its spread where that is worth telling; a dash where it is not known."""
        value = self.value(card)
        if value is None:
            return DASH
        text = self.write(value.typical * self.scale)
        if value.spread > WORTH_TELLING:
            return f"{text} {PLUS_MINUS}{value.spread / 2:.0%}".replace("%", " %")
        return text

    def ratio(self, card: CostCard, lightest: CostCard) -> str:
        """Return how many times the lightest model's figure this is; empty where that says nothing."""
        value, unit = self.value(card), self.value(lightest)
        if not self.has_ratio or value is None or unit is None or unit.typical <= self.figure.resolution:
            return ""
        return show_ratio(value.typical / unit.typical)


def show_share(value: float) -> str:
    """Return a share as ``98.6 %``."""
    return f"{value:.1%}".replace("%", " %")


TITLES = {
    "onnx": "ONNX",
    "top1": "accuracy",
    "memory_added": "memory added",
    "memory_peak": "peak memory",
    "gpu_memory_added": "GPU memory added",
    "gpu_memory_peak": "GPU peak memory",
    "single_stream_cpu": "CPU at one caller",
    "single_stream_joules": "energy at one caller",
    "saturation": "saturation rate",
    "saturation_cpu": "CPU at saturation",
    "saturation_joules": "energy at saturation",
    "highest_rate": "Poisson rate",
    "price_per_million": "price",
}


def in_title(name: str) -> str:
    """Return a figure's name for people, without its unit: ``cold_start_session_seconds`` is ``cold start session``."""
    for unit in ("_seconds", "_bytes", "_per_second"):
        name = name.removesuffix(unit)
    if name.startswith("batch_") and name.removeprefix("batch_").isdigit():
        name += "_rate"
    return TITLES.get(name) or name.replace("_", " ")


def in_words(name: str, value: float) -> str:
    """Return a figure of `compare.figures` with its unit: MB on disk, MiB in memory, ms or s, %, for each second."""
    if name in ("top1", "agreement"):
        return show_share(value)
    if name.endswith("_bytes"):
        return f"{show_number(value / MIB)} MiB" if "memory" in name else f"{show_number(value / MB)} MB"
    if name.endswith("_seconds"):
        return f"{show_number(value)} s" if "start" in name or value >= 10 else f"{show_number(value * 1000)} ms"
    if name.endswith("_per_second"):
        return f"{show_number(value)}/s"
    if name.endswith("_joules"):
        return f"{show_number(value)} J"
    return f"{value:,.0f}" if float(value).is_integer() else show_number(value)


def published_top1(card: CostCard) -> float | None:
    """Return the share that others published, of a model whose accuracy was not measured here."""
    return card.published.top1_percent / 100 if card.published and not card.accuracy else None


def _column(title: str, unit: str, name: str, scale: float = 1, **facts: object) -> Column:
    return Column(title, unit, BY_NAME[name], scale, **facts)  # type: ignore[arg-type]  # the two fields that are left


COLUMNS = (
    _column("parameters", "", "parameters", write=lambda value: f"{value:,.0f}"),
    _column("GMACs", "", "multiply_accumulates", 1e-9),
    _column("ONNX", "MB", "onnx_bytes", 1 / MB),
    _column("ONNX", "MiB", "onnx_bytes", 1 / MIB),
    _column("compressed", "MB", "compressed_bytes", 1 / MB),
    _column("cold start", "s", "cold_start_seconds"),
    _column("memory added", "MiB", "memory_added_bytes", 1 / MIB),
    _column("peak", "MiB", "memory_peak_bytes", 1 / MIB),
    _column("GPU added", "MiB", "gpu_memory_added_bytes", 1 / MIB),
    _column("GPU peak", "MiB", "gpu_memory_peak_bytes", 1 / MIB),
    _column("p50", "ms", "p50_seconds", 1000),
    _column("p99", "ms", "p99_seconds", 1000),
    _column("saturation", "/s", "saturation_per_second"),
    _column("Poisson", "/s", "highest_rate_per_second"),
    _column("CPU", "ms", "saturation_cpu_seconds", 1000),
    _column("energy", "J", "saturation_joules"),
    _column("held-out", "correct", "top1", write=show_share, has_ratio=False),
    _column("agreement", "", "agreement", write=show_share, has_ratio=False),
    Column("published", "top-1", Figure("published_top1", "more", published_top1), write=show_share, has_ratio=False),
    _column("price", "per million", "price_per_million"),
)


def columns_of(cards: Sequence[CostCard]) -> tuple[Column, ...]:
    """Return the columns in which at least one of the cards has a figure."""
    return tuple(column for column in COLUMNS if any(column.value(card) is not None for card in cards))


def lightest(cards: Sequence[CostCard]) -> CostCard:
    """Return the card with the fewest ONNX bytes, to which ratios are given; of those that were called, if any was."""
    called = [card for card in cards if card.single_stream]
    return min(called or cards, key=lambda card: card.disk.onnx_bytes)


def by_weight(cards: Sequence[CostCard]) -> list[CostCard]:
    """Return the cards, lightest first."""
    return sorted(cards, key=lambda card: card.disk.onnx_bytes)

"""Every figure of a cost card that is a number, in base units: bytes, seconds, joules, shares.

One list for the CSV's columns, for the comparison of two comparisons, and for what tables show of it (`compare.columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compare.cost import MIB, CostCard, Repeated

Direction = Literal["less", "more"]


@dataclass(frozen=True)
class Value:
    """A figure of one card: what it typically is, and what each round measured; no rounds: it is exact."""

    typical: float
    rounds: tuple[float, ...] = ()

    @property
    def low(self) -> float:
        """The smallest of the rounds."""
        return min(self.rounds, default=self.typical)

    @property
    def high(self) -> float:
        """The largest of the rounds."""
        return max(self.rounds, default=self.typical)

    @property
    def spread(self) -> float:
        """The distance from the lowest to the highest round as a share of what is typical; 0 where that is 0."""
        return (self.high - self.low) / abs(self.typical) if self.typical else 0.0


@dataclass(frozen=True)
class Figure:
    """One number of a cost card.

    Attributes:
        name: with its unit, as in the CSV's head and in the comparison of two.
        better: which direction is.
        read: the number, None where it was not measured.
        basis: what must be the same for two values to be compared, such as the number of callers.
        counted: how many were asked, of a share; its noise is the binomial's.
        resolution: in base units; a smaller difference says nothing, however small the spread.
    """

    name: str
    better: Direction
    read: Callable[[CostCard], Repeated | Value | float | None]
    basis: Callable[[CostCard], Hashable] = lambda _: None
    counted: Callable[[CostCard], int] | None = None
    resolution: float = 0.0

    def value(self, card: CostCard) -> Value | None:
        """Return the figure of a card; None: not measured."""
        raw = self.read(card)
        if isinstance(raw, Repeated):
            return Value(raw.median, raw.rounds)
        return raw if raw is None or isinstance(raw, Value) else Value(float(raw))


def part(path: str) -> Callable[[CostCard], Any]:
    """Return what reads ``saturation.p50_seconds`` off a card; None where any part on the way is None."""

    def read(card: CostCard) -> Any:
        value: Any = card
        for name in path.split("."):
            value = None if value is None else getattr(value, name)
        return value

    return read


def plain(name: str, path: str, better: Direction = "less", basis: str = "model", resolution: float = 0.0) -> Figure:
    """Return the figure that stands at `path` of a card, compared where `basis` (a path too) is the same."""
    return Figure(name, better, part(path), part(basis), resolution=resolution)


def percentile(percent: int) -> Figure:
    """Return the latency of one caller at `percent`: typically of all samples together, and of each round."""

    def read(card: CostCard) -> Value | None:
        latency = card.single_stream and card.single_stream.latency
        if not latency or not latency.count:
            return None
        return Value(latency.percentile(percent), latency.by_round(percent).rounds)

    return Figure(f"p{percent}_seconds", "less", read)


def memory_figures(prefix: str, path: str) -> tuple[Figure, ...]:
    """Return the four figures of the machine's memory, or of the GPU's."""
    return (
        plain(f"{prefix}_added_bytes", f"{path}.added_bytes", resolution=MIB),
        plain(f"{prefix}_process_bytes", f"{path}.process_bytes", resolution=MIB),
        plain(f"{prefix}_peak_bytes", f"{path}.peak_bytes", resolution=MIB),
        plain(f"{prefix}_given_back_bytes", f"{path}.given_back_bytes", "more", resolution=MIB),
    )


def start_figure(name: str) -> Figure:
    """Return the whole cold start, or a part of it."""
    figure = "cold_start_seconds" if name == "total" else f"cold_start_{name}_seconds"
    return plain(figure, f"cold_start.{name}", resolution=0.005)


def price(card: CostCard) -> Value | None:
    """Return the price of a million inferences; it goes as one over the rate, round by round."""
    if card.price_per_million is None or card.saturation is None:
        return None
    rate = card.saturation.inferences_per_second
    return Value(
        card.price_per_million, tuple(card.price_per_million * rate.median / each for each in rate.rounds if each)
    )


FIGURES = (
    plain("parameters", "parameters"),
    plain("multiply_accumulates", "multiply_accumulates"),
    plain("onnx_bytes", "disk.onnx_bytes"),
    plain("compressed_bytes", "disk.compressed_bytes"),
    plain("checkpoint_bytes", "disk.checkpoint_bytes"),
    *map(start_figure, ("total", "process", "imports", "session", "warm_up", "other", "first_answer")),
    *memory_figures("memory", "memory"),
    *memory_figures("gpu_memory", "gpu_memory"),
    percentile(50),
    percentile(90),
    percentile(99),
    plain("single_stream_cpu_seconds", "single_stream.cpu_seconds"),
    plain("single_stream_joules", "single_stream.joules"),
    plain("saturation_per_second", "saturation.inferences_per_second", "more", "saturation.callers"),
    plain("saturation_p50_seconds", "saturation.p50_seconds", basis="saturation.callers"),
    plain("saturation_p99_seconds", "saturation.p99_seconds", basis="saturation.callers"),
    plain("saturation_cpu_seconds", "saturation.cpu_seconds", basis="saturation.callers"),
    plain("saturation_joules", "saturation.joules", basis="saturation.callers"),
    plain("offline_per_second", "offline.inferences_per_second", "more", "offline.batch"),
    plain("highest_rate_per_second", "server.highest_per_second", "more", "server.bound_seconds"),
    Figure("top1", "more", part("accuracy.top1"), part("accuracy.images"), part("accuracy.images")),
    Figure("agreement", "more", part("accuracy.agreement"), part("accuracy.reference"), part("accuracy.images")),
    Figure("price_per_million", "less", price),
)
BY_NAME = {figure.name: figure for figure in FIGURES}


def batch_figures(cards: Sequence[CostCard]) -> tuple[Figure, ...]:
    """Return p50 and throughput of one caller for each batch size that any of the cards was measured at."""
    sizes = sorted({point.batch for card in cards for point in card.batches})
    return tuple(
        each for size in sizes for each in (_batch(size, "p50_seconds"), _batch(size, "inferences_per_second"))
    )


def _batch(size: int, name: str) -> Figure:
    def read(card: CostCard) -> Repeated | None:
        return next((getattr(point, name) for point in card.batches if point.batch == size), None)

    return Figure(f"batch_{size}_{name.removeprefix('inferences_')}", "less" if name == "p50_seconds" else "more", read)

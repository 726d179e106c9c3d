"""What is traded for what: the two sides of each Pareto front, and how they are read off a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compare.cost import MB, CostCard
from compare.page.amounts import duration, megabytes, percent, rate


@dataclass(frozen=True)
class Trade:
    """What is paid along x and given along y, as the axes show it."""

    name: str
    title: str
    cost: Callable[[CostCard], float | None]
    cost_title: str
    tell_cost: Callable[[float], str]
    value: Callable[[CostCard], float | None]
    value_title: str
    tell_value: Callable[[float], str]
    is_share: bool = False
    area: Callable[[CostCard], float | None] | None = None
    data: Callable[[CostCard], str | None] | None = None
    """On what the value was measured: only models of the commonest data set are put side by side; None: it is the same."""


def megabytes_on_disk(card: CostCard) -> float | None:
    """Return MB of the ONNX file and its weights."""
    return card.disk.onnx_bytes / MB


def milliseconds(card: CostCard) -> float | None:
    """Return the median latency of one caller in milliseconds."""
    stream = card.single_stream
    return stream.latency.percentile(50) * 1e3 if stream and stream.latency.count else None


def saturated(card: CostCard) -> float | None:
    """Return inferences for each second at saturation."""
    return card.saturation.inferences_per_second.median if card.saturation else None


def added_memory(card: CostCard) -> float | None:
    """Return the bytes of resident memory that loading adds."""
    return card.memory.added_bytes.median if card.memory else None


def measured(card: CostCard) -> float | None:
    """Return the measured top-1 in percent."""
    return card.accuracy.top1 * 100 if card.accuracy else None


def published(card: CostCard) -> float | None:
    """Return the published top-1 in percent of a model whose own was not measured."""
    return card.published.top1_percent if card.published and card.accuracy is None else None


def published_data(card: CostCard) -> str | None:
    """Return the data set of the published top-1."""
    return card.published.data if card.published else None


def _tell_mb(value: float) -> str:
    return megabytes(value * MB)


def _tell_ms(value: float) -> str:
    return duration(value / 1e3)


def _tell_percent(value: float) -> str:
    return percent(value / 100)


_BYTES = (megabytes_on_disk, "ONNX, MB", _tell_mb)
_LATENCY = (milliseconds, "latency of one caller, p50, ms", _tell_ms)
_MEASURED = (measured, "measured top-1, %", _tell_percent)
_PUBLISHED = (published, "published top-1, % (not measured here)", _tell_percent)
TRADES = (
    Trade("pareto", "Accuracy for its bytes", *_BYTES, *_MEASURED, is_share=True),
    Trade("pareto-latency", "Accuracy for its latency", *_LATENCY, *_MEASURED, is_share=True),
    Trade("pareto-published", "Published accuracy for its bytes", *_BYTES, *_PUBLISHED, is_share=True, data=published_data),
    Trade("pareto-latency-published", "Published accuracy for its latency", *_LATENCY, *_PUBLISHED, is_share=True, data=published_data),
    Trade(
        "pareto-throughput", "Throughput for its bytes", *_BYTES,
        saturated, "inferences/s at saturation", rate, area=added_memory,
    ),
)  # fmt: skip

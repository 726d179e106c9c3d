"""The rounds of one model become its cost card."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from compare.cost import (
    BatchPoint,
    ColdStart,
    CostCard,
    Latencies,
    Memory,
    Offline,
    Repeated,
    Saturation,
    Server,
    SingleStream,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compare.cold_start import Start
    from compare.cost import Accuracy, Disk
    from compare.held_memory import Held
    from compare.round import Measured
    from compare.subject import Subject

SECONDS_AN_HOUR = 3600
MILLION = 10**6


def card(
    subject: Subject,
    rounds: Sequence[Measured],
    *,
    disk: Disk,
    accuracy: Accuracy | None,
    bound_seconds: float,
    hourly_price: float | None,
) -> CostCard:
    """Return the cost card of a model of which at least one round was measured."""
    told, last = subject.card, rounds[-1]
    per_second = _all(each.per_second for each in rounds)
    return CostCard(
        model=subject.name,
        version=told.version,
        title=told.title,
        family=told.family,
        variant=told.variant,
        reference=told.reference.name if told.reference else None,
        trained=told.trained,
        adaptation=told.adaptation,
        provider=last.figures.provider,
        input=f"{subject.tensor.datatype} {list(subject.tensor.shape)}",
        disk=disk,
        parameters=told.parameters,
        multiply_accumulates=told.multiply_accumulates,
        cold_start=cold_start([each.start for each in rounds if each.start]),
        memory=memory([each.memory for each in rounds if each.memory]),
        gpu_memory=memory([each.gpu_memory for each in rounds if each.gpu_memory]),
        single_stream=SingleStream(
            Latencies(tuple(each.latencies for each in rounds)),
            repeated(each.single.cpu_seconds for each in rounds),
            repeated(each.single.joules for each in rounds),
        ),
        saturation=Saturation(
            subject.callers,
            per_second,
            _all(each.p50_seconds for each in rounds),
            _all(each.p99_seconds for each in rounds),
            repeated(each.saturated.cpu_seconds for each in rounds),
            repeated(each.saturated.joules for each in rounds),
        ),
        offline=Offline(subject.largest_batch, last.offline_callers, _all(each.offline_per_second for each in rounds)),
        server=Server(
            bound_seconds,
            _all(each.highest_per_second for each in rounds),
            tuple(probe for each in rounds for probe in each.probes),
        ),
        batches=tuple(_point(batch, rounds) for batch in sorted(subject.requests)),
        accuracy=accuracy,
        published=told.published,
        price_per_million=price_per_million(hourly_price, per_second.median),
        errors=sum(each.errors for each in rounds),
    )


def price_per_million(hourly_price: float | None, per_second: float) -> float | None:
    """Return what a million inferences cost on a machine that is kept busy; None without a price."""
    return None if hourly_price is None else hourly_price / (per_second * SECONDS_AN_HOUR) * MILLION


def cold_start(starts: Sequence[Start]) -> ColdStart | None:
    """Return the starts part by part; None without any."""
    if not starts:
        return None
    names = [field.name for field in fields(ColdStart)]
    return ColdStart(**{name: _all(getattr(start, name) for start in starts) for name in names})


def memory(rounds: Sequence[Held]) -> Memory | None:
    """Return what each round held; None without any."""
    if not rounds:
        return None
    optional: dict[str, Any] = {
        name: repeated(getattr(each, name) for each in rounds)
        for name in ("process_bytes", "peak_bytes", "given_back_bytes")
    }
    return Memory(_all(each.added_bytes for each in rounds), **optional)


def repeated(values: Iterable[float | None]) -> Repeated | None:
    """Return the values that are known; None where none is."""
    known = tuple(float(value) for value in values if value is not None)
    return Repeated(known) if known else None


def _all(values: Iterable[float]) -> Repeated:
    return Repeated(tuple(float(value) for value in values))


def _point(batch: int, rounds: Sequence[Measured]) -> BatchPoint:
    return BatchPoint(
        batch, _all(each.batches[batch][0] for each in rounds), _all(each.batches[batch][1] for each in rounds)
    )

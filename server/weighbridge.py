"""Weighbridge: each version's cost card, with live figures; made anew for each call of what is kept anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from server.pb import netweight_pb2 as pb

if TYPE_CHECKING:
    from server.card_facts import Facts
    from server.metrics import Load, Metrics
    from server.repository import Repository, VersionStatus
    from server.statistics import Histogram, Statistics

_FACTS: WeakKeyDictionary[Load, pb.Facts] = WeakKeyDictionary()
"""Of the versions in memory."""


def cards(repository: Repository, metrics: Metrics, name: str = "") -> list[pb.Card]:
    """Return the card of every version, or of one model's.

    Raises:
        NotFoundError: the model is unknown.
    """
    if name:
        repository.status(name)
    return [card(status, metrics) for status in repository.index() if name in ("", status.name)]


def card(status: VersionStatus, metrics: Metrics) -> pb.Card:
    """Return a version's card as it is now."""
    key = status.name, status.version
    load, statistics = metrics.held.get(key), metrics.statistics.get(key)
    pending = _pending(status, load)
    return pb.Card(
        model=status.name,
        version=status.version,
        state=status.state,
        reason=status.reason,
        facts=_facts_of(load) if load else None,
        load=_load(load) if load else None,
        traffic=_traffic(statistics, pending) if statistics else pb.Traffic(pending=pending),
    )


def _pending(status: VersionStatus, load: Load | None) -> int | None:
    """Return how many requests wait; None: the version drains, and its status no longer has its model to ask."""
    if status.model is not None:
        return status.model.pending
    return 0 if load is None else None


def _facts_of(load: Load) -> pb.Facts:
    """Return what the card of a loaded version tells; made once, for a network may have a thousand layers."""
    if (made := _FACTS.get(load)) is None:
        made = _FACTS[load] = _facts(load.facts)
    return made


def _facts(facts: Facts) -> pb.Facts:
    parity = facts.parity
    return pb.Facts(
        title=facts.title,
        family=facts.family,
        variant=facts.variant,
        reference=facts.reference,
        trained=facts.trained,
        parameters=facts.parameters,
        multiply_accumulates=facts.multiply_accumulates,
        onnx_bytes=facts.onnx_bytes,
        layers=[
            pb.Layer(
                name=each.name,
                op=each.op,
                parameters=each.parameters,
                bytes=each.bytes,
                multiply_accumulates=each.multiply_accumulates,
            )
            for each in facts.layers
        ],
        heldout_accuracy=facts.heldout_accuracy,
        heldout_images=facts.heldout_images,
        published=[
            pb.PublishedAccuracy(
                top1_percent=each.top1_percent, top5_percent=each.top5_percent, data=each.data, source=each.source
            )
            for each in facts.published
        ],
        parity=None
        if parity is None
        else pb.Parity(
            max_absolute=parity.max_absolute,
            tolerance=parity.tolerance,
            within_tolerance=parity.within_tolerance,
        ),
    )


def _load(load: Load) -> pb.Load:
    return pb.Load(
        provider=load.provider,
        fell_back=load.fell_back,
        seconds=load.seconds,
        session_seconds=load.spent.session,
        warm_up_seconds=load.spent.warm_up,
        file_bytes=load.file_bytes,
        resident_bytes=load.resident_bytes,
        gpu_bytes=load.gpu_bytes,
    )


def _traffic(figures: Statistics, pending: int | None) -> pb.Traffic:
    with figures.lock:
        inferences = sum(size * each.count for size, each in figures.executions.items())
        executions = sum(each.count for each in figures.executions.values())
        return pb.Traffic(
            requests=figures.codes,
            inferences=inferences,
            executions=executions,
            mean_batch_size=inferences / executions if executions else None,
            pending=pending,
            latency=_latency(figures.request),
            input_seconds=figures.input.sum,
            queue_seconds=figures.queue.sum,
            compute_seconds=figures.compute.sum,
            output_seconds=figures.output.sum,
            last_inference=figures.last_inference or None,
        )


def _latency(histogram: Histogram) -> pb.Latency | None:
    if not histogram.count:
        return None
    return pb.Latency(
        p50_seconds=histogram.quantile(0.5),
        p90_seconds=histogram.quantile(0.9),
        p99_seconds=histogram.quantile(0.99),
        sum_seconds=histogram.sum,
    )

"""What a reader must know beside the figures: what comes first, and the notes below the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from compare.ceiling import near_ceiling
from compare.columns import DASH, PLUS_MINUS, TIMES, columns_of, lightest
from compare.comparison import Comparison
from compare.cost import CostCard
from compare.marks import meanings

P99_SAMPLES = 100


def warnings(comparison: Comparison) -> list[str]:
    """Return what must be read before any figure: a busy machine, models that failed to answer."""
    busy, lines = comparison.busy, []
    if busy and busy.is_busy:
        lines.append(
            f"BUSY MACHINE: other processes took {busy.other_cores:.2f} cores on the mean, the hypervisor "
            f"{busy.stolen_cores:.2f}, of {_cores(comparison.environment)}: figures may be worse than what these models cost."
        )
    lines += [
        f"{card.model}: {card.errors:,} requests FAILED while it was measured."
        for card in comparison.cards
        if card.errors
    ]
    rounds = comparison.settings.rounds
    lines += [
        f"{card.model}: only {count} of {rounds} rounds were measured."
        for card in comparison.cards
        if card.single_stream and (count := len(card.single_stream.latency.rounds)) < rounds
    ]
    return lines


def footnotes(comparison: Comparison) -> list[str]:
    """Return marks, units, how each figure was measured, where the caller was the limit, and on what machine."""
    cards = comparison.cards
    shown = {column.figure.name for column in columns_of(cards)}
    return [
        *meanings(cards),
        _units(cards),
        *_rounds(comparison),
        *_ways(comparison, shown),
        *_accuracy(cards),
        *(line for card in cards for line in near_ceiling(card, comparison.callers)),
        *_dash(cards),
        measured_on(comparison),
    ]


def measured_on(comparison: Comparison) -> str:
    """Return when and on what machine, in one line."""
    facts = comparison.environment
    parts = [f"Measured {comparison.created}", str(facts.get("cpu") or "unknown CPU"), _cores(facts)]
    parts += [f"{gpu.get('name')} (driver {gpu.get('driver')})" for gpu in facts.get("gpus") or ()]
    packages = facts.get("packages") or {}
    parts += [f"{name} {packages[name]}" for name in ("onnxruntime", "onnxruntime-gpu") if name in packages]
    busy = comparison.busy
    parts.append(
        "what else the machine did is not known"
        if busy is None
        else f"other processes {busy.other_cores:.2f} cores, hypervisor {busy.stolen_cores:.2f}"
    )
    if not comparison.settings.own_server:
        parts.append("this is the caller's machine; the server was running already, here or elsewhere")
    return "; ".join(parts) + "."


def _units(cards: Sequence[CostCard]) -> str:
    least = lightest(cards)
    return (
        "MB = 1,000,000 bytes, MiB = 1,048,576 bytes. "
        f"Ratios ({TIMES}) are to {least.model}, the lightest: the fewest ONNX bytes."
    )


def _cores(facts: dict[str, Any]) -> str:
    usable = facts.get("usable_cores")
    return "an unknown number of cores" if usable is None else f"{usable} usable core{'' if usable == 1 else 's'}"


def _rounds(comparison: Comparison) -> list[str]:
    rounds = comparison.settings.rounds
    told = f"Plan {comparison.settings.plan}: "
    if rounds == 1:
        return [f"{told}one round, so that nothing is known of the spread."]
    told += f"medians of {rounds} rounds, each through all models in turn (p50 and p99 of all samples together)"
    between = "half of what lies between the lowest and the highest round, where that is more than a tenth in all"
    return [f"{told}; {PLUS_MINUS}: {between}."]


def _ways(comparison: Comparison, shown: set[str]) -> list[str]:
    """Return how each shown figure came about."""
    settings, cards = comparison.settings, comparison.cards
    callers = span([card.saturation.callers for card in cards if card.saturation])
    bounds = span([card.server.bound_seconds * 1000 for card in cards if card.server])
    ways = {
        "compressed_bytes": "compressed: by Zstandard at level 3, as an image registry would move it.",
        "cold_start_seconds": "cold start: from starting the server's process to its first answer, files in the page cache.",
        "memory_added_bytes": "memory added: resident memory gained by loading and warming the model; peak: the most that "
        "the server's whole process held.",
        "gpu_memory_added_bytes": "GPU added, GPU peak: the same of the GPU's memory, by NVML.",
        "p50_seconds": _single_stream(cards),
        "saturation_per_second": f"saturation: {callers} callers, batch 1 each, back to back.",
        "highest_rate_per_second": f"Poisson: the highest rate of random arrivals whose p99 stays under {bounds} ms, "
        f"each latency counted from the moment the request was due{_tries(cards)}.",
        "saturation_cpu_seconds": "CPU: of the server for each inference at saturation, all its threads.",
        "saturation_joules": "energy: of the whole machine for each inference at saturation.",
        "price_per_million": f"price: of a million inferences at saturation, the machine at {settings.hourly_price:g} an hour."
        if settings.hourly_price is not None
        else "price: of a million inferences at saturation.",
    }
    return [sentence for name, sentence in ways.items() if name in shown]


def _single_stream(cards: Sequence[CostCard]) -> str:
    counts = [card.single_stream.latency.count for card in cards if card.single_stream]
    few = f"; p99 of fewer than {P99_SAMPLES} is the slowest" if min(counts, default=P99_SAMPLES) < P99_SAMPLES else ""
    return f"p50, p99: latency of one caller, batch 1, seen by the client ({span(counts)} requests; nearest rank{few})."


def _tries(cards: Sequence[CostCard]) -> str:
    """Return what the tries that kept the bound were made of, and what a rate of 0 means."""
    sent = [probe.sent for card in cards if card.server for probe in card.server.probes if probe.met]
    told = f"; tries of {span(sent)} requests" if sent else ""
    if min(sent, default=P99_SAMPLES) < P99_SAMPLES:
        told += f", of fewer than {P99_SAMPLES} the slowest must keep it"
    if any(card.server and not card.server.highest_per_second.median for card in cards):
        told += "; 0: no rate that was tried kept it"
    return told


def _accuracy(cards: Sequence[CostCard]) -> list[str]:
    lines = []
    images = [card.accuracy.images for card in cards if card.accuracy]
    if images:
        lines.append(
            f"held-out: share of {span(images)} images, never trained on, that came back right through the server."
        )
    if any(card.accuracy and card.accuracy.agreed is not None for card in cards):
        lines.append("agreement: share of the same images on which it answers as the model that it was made from.")
    published = Counter(card.published.data for card in cards if card.published and not card.accuracy)
    if published:
        most = published.most_common(1)[0][0]
        others = [
            f"{card.model}'s on {card.published.data}"
            for card in cards
            if card.published and not card.accuracy and card.published.data != most
        ]
        data = ", ".join([most, *others])
        lines.append(
            f"published: top-1 of the trained architecture on {data}, as others published it; NOT measured here."
        )
    return lines


def _dash(cards: Sequence[CostCard]) -> list[str]:
    if any(column.value(card) is None for column in columns_of(cards) for card in cards):
        return [f"{DASH} not measured, or nothing to measure it with."]
    return []


def span(values: Sequence[float]) -> str:
    """Return ``400`` or ``18 to 400``; a dash for nothing."""
    if not values:
        return DASH
    low, high = min(values), max(values)
    return f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"

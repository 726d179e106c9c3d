"""What the page says in words: of the machine, of how it was measured, and of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compare.ceiling import near_ceiling
from compare.columns import PLUS_MINUS, WORTH_TELLING, show_number
from compare.marks import meanings
from compare.page.amounts import GLUE, duration, mebibytes, megabytes, percent

if TYPE_CHECKING:
    from compare.comparison import Comparison
    from compare.cost import CostCard

Facts = list[tuple[str, str]]


def machine(environment: dict[str, Any]) -> Facts:
    """Return the machine, fact by fact; what is not told is left out."""
    packages = environment.get("packages") or {}
    settings = environment.get("settings") or {}
    cores = f"{environment.get('usable_cores', '?')} usable of {environment.get('cores', '?')}"
    quota = environment.get("cpu_quota_cores")
    memory = environment.get("memory_limit_bytes") or environment.get("memory_bytes")
    gpus = [
        f"{gpu.get('name')}, {gpu.get('memory')}, driver {gpu.get('driver')}" for gpu in environment.get("gpus") or []
    ]
    facts = [
        ("CPU", environment.get("cpu")),
        ("cores", f"{cores}, quota {show_number(quota)}" if quota else cores),
        ("memory", mebibytes(memory) if memory else None),
        ("GPU", "; ".join(gpus) or "none"),
        ("system", environment.get("system")),
        ("Python", environment.get("python")),
        ("versions", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("server settings", ", ".join(f"{name}={value}" for name, value in settings.items()) or "as shipped"),
        ("server's threads", environment.get("server_threads")),
        ("load average", _load(environment.get("load_average"))),
    ]
    return [(name, str(fact)) for name, fact in facts if fact]


def measurement(comparison: Comparison) -> Facts:
    """Return how it was measured, fact by fact."""
    settings = comparison.settings
    return [
        ("plan", settings.plan),
        ("rounds", f"{settings.rounds}, each through all models in turn"),
        ("timed window", duration(settings.seconds)),
        ("callers at saturation", str(settings.callers)),
        ("bound of the Poisson rate", f"p99 within {duration(settings.bound_seconds)}"),
        ("seed", str(settings.seed)),
        ("server", "one for each model, started for it" if settings.own_server else "one that was running already"),
        ("hourly price", "not given" if settings.hourly_price is None else show_number(settings.hourly_price)),
        ("the caller's own ceiling", ceilings(comparison) or "not measured"),
        ("other load", _busy(comparison)),
    ]


def ceilings(comparison: Comparison) -> str:
    """Return what the caller itself reaches, by size of its requests; empty: not measured."""
    return "; ".join(
        f"{show_number(caller.requests_per_second)}{GLUE}requests/s and {duration(caller.latency_p50_seconds)} p50 with "
        f"{show_number(caller.request_bytes / 1e3)}{GLUE}kB each"
        for caller in comparison.callers
    )


def model(card: CostCard) -> Facts:
    """Return what one model is, fact by fact."""
    trained = {True: "yes", False: "no: random weights; it weighs and takes what a trained one does", None: "not known"}
    facts = [
        ("name in the repository", f"{card.model}, version {card.version}"),
        ("family", card.family),
        ("variant", card.variant),
        ("made from", card.reference),
        ("trained", trained[card.trained]),
        ("changed", card.adaptation),
        ("runs on", card.provider),
        ("one sample", card.input),
        ("measured accuracy", _accuracy(card)),
        ("published accuracy", _published(card)),
        ("largest layer", _largest(card)),
        ("saturation by", f"{card.saturation.callers} callers" if card.saturation else None),
        ("offline by", f"{card.offline.callers} callers, batches of {card.offline.batch}" if card.offline else None),
        ("Poisson bound", f"p99 within {duration(card.server.bound_seconds)}" if card.server else None),
        ("latency samples", str(card.single_stream.latency.count) if card.single_stream else None),
        ("requests not answered", f"{card.errors} of the timed windows" if card.errors else None),
    ]
    return [(name, fact) for name, fact in facts if fact]


def footnotes(comparison: Comparison) -> list[str]:
    """Return what the marks and words of the page mean."""
    lines = [line for line in meanings(comparison.cards) if line]
    if any(card.published and card.accuracy is None for card in comparison.cards):
        lines.append(
            "Published: accuracy that somebody else published for the architecture, trained on their data. It was not "
            "measured here, so no chart holds both."
        )
    lines.append("MB are 10⁶ bytes, of files; MiB are 2²⁰ bytes, of memory. A dash: not measured.")
    lines.append(
        "p50, p90, p99 of one caller: half, 90 of 100, 99 of 100 requests took no longer, all rounds' samples together. "
        "Each other figure is the median of the rounds."
    )
    lines.append(
        f"{PLUS_MINUS} beside a figure: half the distance from its lowest to its highest round, where they lie more than "
        f"{percent(WORTH_TELLING)} apart."
    )
    lines += [line for card in comparison.cards for line in near_ceiling(card, comparison.callers)]
    return lines


def _load(averages: list[float] | None) -> str | None:
    if not averages:
        return None
    return f"{', '.join(map(str, averages))} (1, 5, 15 minutes) before it began"


def _busy(comparison: Comparison) -> str:
    busy = comparison.busy
    if busy is None:
        return "the system does not tell"
    return f"{show_number(busy.other_cores)} cores of other processes, {show_number(busy.stolen_cores)} stolen"


def _accuracy(card: CostCard) -> str | None:
    accuracy = card.accuracy
    if accuracy is None:
        return None
    told = f"{percent(accuracy.top1)} top-1: {accuracy.correct} of {accuracy.images} held-out images"
    if accuracy.agreement is None:
        return told
    return f"{told}; agrees with {accuracy.reference or 'its reference'} on {percent(accuracy.agreement)}"


def _published(card: CostCard) -> str | None:
    published = card.published
    if published is None:
        return None
    return f"{published.top1_percent:.1f} % top-1 on {published.data} ({published.source}); not measured here"


def _largest(card: CostCard) -> str | None:
    if not card.disk.layers:
        return None
    layer = max(card.disk.layers, key=lambda each: each.bytes)
    return f"{layer.name} ({layer.op}): {megabytes(layer.bytes)}, {percent(layer.bytes / card.disk.onnx_bytes)} of the ONNX file"

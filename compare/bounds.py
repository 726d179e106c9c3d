"""What a deployment may cost and must give, and by how much a measured model misses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from compare.columns import show_number, show_share
from compare.cost import MB, MIB, CostCard
from compare.figures import BY_NAME
from models.spec import NetweightError


@dataclass(frozen=True)
class Bounds:
    """What is allowed and asked for; None: no bound.

    Attributes:
        max_mb: of the ONNX file or files, in MB (10^6 bytes).
        max_memory_mib: that the server's whole process may hold at its peak, in MiB (2^20 bytes).
        p99_ms: of one caller at a time, batch 1.
        min_rate: inferences for each second: the highest Poisson rate under `p99_ms`, at saturation without that bound.
        min_accuracy: share of the held-out images that must come back right, 0..1.
        max_price: of a million inferences.
    """

    max_mb: float | None = None
    max_memory_mib: float | None = None
    p99_ms: float | None = None
    min_rate: float | None = None
    min_accuracy: float | None = None
    max_price: float | None = None

    def __post_init__(self) -> None:
        """Check that there is a bound, that each is above 0, and that accuracy is a share."""
        given = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}
        if not given:
            raise NetweightError("choose: expected at least one bound, such as --max-mb 50 or --min-accuracy 0.97")
        for name, value in given.items():
            most = 1 if name == "min_accuracy" else float("inf")
            if not 0 < value <= most:
                limit = " and at most 1 (0.97 is 97 %)" if most == 1 else ""
                raise NetweightError(f"--{name.replace('_', '-')}: expected more than 0{limit}, got {value:g}")


@dataclass(frozen=True)
class Miss:
    """A bound that a model does not keep.

    Attributes:
        bound: its field in `Bounds`.
        limit: in the bound's own unit.
        value: in the same unit; None: not measured, which is not passed.
        factor: how many times over (or under) the limit, at least 1; None: not measured.
        told: the sentence.
    """

    bound: str
    limit: float
    value: float | None
    factor: float | None
    told: str


def misses(card: CostCard, bounds: Bounds) -> list[Miss]:
    """Return every bound that the model does not keep."""
    return list(_misses(card, bounds))


def rate_name(bounds: Bounds) -> str:
    """Return the figure that `min_rate` is about."""
    return "saturation_per_second" if bounds.p99_ms is None else "highest_rate_per_second"


def rate_counts(card: CostCard, bounds: Bounds) -> bool:
    """Whether the card's highest Poisson rate was measured at the p99 that is asked for, or at a shorter one."""
    return bool(card.server and bounds.p99_ms and card.server.bound_seconds * 1000 <= bounds.p99_ms * (1 + 1e-9))


@dataclass(frozen=True)
class _Rule:
    """How one bound is read off a card: its figure, what makes the base unit the bound's, and the words."""

    bound: str
    what: str
    figure: str
    scale: float
    unit: str


MOST = (
    _Rule("max_mb", "ONNX", "onnx_bytes", 1 / MB, " MB"),
    _Rule("max_memory_mib", "peak memory", "memory_peak_bytes", 1 / MIB, " MiB"),
    _Rule("p99_ms", "p99", "p99_seconds", 1000.0, " ms"),
    _Rule("max_price", "price", "price_per_million", 1.0, " for a million"),
)


def _misses(card: CostCard, bounds: Bounds) -> Iterator[Miss]:
    for rule in MOST:
        limit = getattr(bounds, rule.bound)
        if limit is not None:
            yield from _too_much(card, rule, limit)
    if bounds.min_rate is not None:
        yield from _too_slow(card, bounds, bounds.min_rate)
    if bounds.min_accuracy is not None:
        yield from _too_wrong(card, bounds.min_accuracy)


def _too_much(card: CostCard, rule: _Rule, limit: float) -> Iterator[Miss]:
    figure = BY_NAME[rule.figure].value(card)
    if figure is None:
        yield Miss(rule.bound, limit, None, None, f"{rule.what} was not measured")
        return
    value = figure.typical * rule.scale
    if value > limit:
        told = f"{rule.what} {show_number(value)}{rule.unit}, {_over(value / limit)} the {limit:g}{rule.unit} allowed"
        yield Miss(rule.bound, limit, value, value / limit, told)


def _too_slow(card: CostCard, bounds: Bounds, limit: float) -> Iterator[Miss]:
    figure = BY_NAME[rate_name(bounds)].value(card)
    if bounds.p99_ms is not None and not rate_counts(card, bounds):
        told = f"its highest rate under a p99 of {bounds.p99_ms:g} ms was not measured"
        if card.server:
            told += f" (only under {card.server.bound_seconds * 1000:g} ms)"
        yield Miss("min_rate", limit, None, None, told)
    elif figure is None:
        yield Miss("min_rate", limit, None, None, "its rate at saturation was not measured")
    elif figure.typical < limit:
        told = f"{show_number(figure.typical)}/s, {figure.typical / limit:.2g} of the {limit:g}/s asked for"
        factor = limit / figure.typical if figure.typical else None
        yield Miss("min_rate", limit, figure.typical, factor, told)


def _too_wrong(card: CostCard, limit: float) -> Iterator[Miss]:
    if card.accuracy is None:
        told = [{True: "", False: "untrained", None: "whether it is trained is not known"}[card.trained]]
        if card.published:
            told.append(f"published {card.published.top1_percent:.1f} % on {card.published.data}")
        why = "; ".join(filter(None, told))
        yield Miss("min_accuracy", limit, None, None, f"accuracy was not measured{f' ({why})' if why else ''}")
    elif card.accuracy.top1 < limit:
        top1, short = card.accuracy.top1, 100 * (limit - card.accuracy.top1)
        told_short = f"accuracy {show_share(top1)}, {short:.2g} points under the {100 * limit:g} % asked for"
        yield Miss("min_accuracy", limit, top1, limit / top1 if top1 else None, told_short)


def _over(factor: float) -> str:
    """Return ``11.1 times``, or ``4 % over`` for a narrow miss."""
    return f"{factor:,.3g} times" if factor >= 1.1 else f"{100 * (factor - 1):.2g} % over"

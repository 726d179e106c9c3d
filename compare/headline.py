"""One sentence: what VGG costs beside a network that is as accurate, computed from the cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compare.columns import lightest, show_number, show_ratio, show_share
from compare.comparison import Comparison
from compare.cost import MB, MIB, CostCard
from compare.figures import BY_NAME
from compare.noise import share_noise

FAMILY = "vgg"
SPOKEN_OF = ("vgg16", "vgg16_bn")
"""The one that people ask about, where it is there; otherwise the heaviest."""
BESIDE = ("resnet50", "mobilenet_v2")
"""What an untrained VGG is set beside, where they are there."""
COSTS = (
    ("onnx_bytes", "the bytes"),
    ("memory_added_bytes", "the memory"),
    ("p50_seconds", "the time for an answer (p50)"),
    ("saturation_per_second", "the rate at saturation"),
)


def headline(comparison: Comparison) -> str | None:
    """Return the sentence that says what VGG costs; None without a VGG or without another network.

    Where accuracy was measured, it is set beside the lightest of the other networks that are at least as accurate (where
    none is, the most accurate of them). Where it was not, beside ResNet-50 and MobileNetV2, or else the lightest with
    no less published accuracy. Variants and lighter heads are left out: they are told apart by `netweight choose`.
    """
    originals = [card for card in comparison.cards if card.reference is None]
    family = [card for card in originals if is_vgg(card)]
    others = [card for card in originals if not is_vgg(card)]
    if not family or not others:
        return None
    heavy = spoken_of(family)
    measured = heavy.accuracy is not None and any(card.accuracy for card in others)
    rivals = [_as_accurate(heavy, others, _measured)] if measured else _published_rivals(heavy, others)
    size = f"{show_number(heavy.disk.onnx_bytes / MB)} MB ({show_number(heavy.disk.onnx_bytes / MIB)} MiB)"
    gain = _measured_gain(heavy, rivals[0]) if measured else _published_gain(heavy, rivals)
    return f"What {heavy.title} costs: {size}, {_costs(heavy, rivals)}; {gain}."


def is_vgg(card: CostCard) -> bool:
    """Whether the model is of the family, or made from one that is."""
    return (card.family or card.model).lower().startswith(FAMILY)


def spoken_of(family: Sequence[CostCard]) -> CostCard:
    """Return the VGG that people ask about: VGG-16 where it is there, otherwise the heaviest."""
    by_name = {card.model: card for card in family}
    for name in SPOKEN_OF:
        if name in by_name:
            return by_name[name]
    return max(family, key=lambda card: card.disk.onnx_bytes)


def _as_accurate(heavy: CostCard, others: Sequence[CostCard], read: Callable[[CostCard], float | None]) -> CostCard:
    """Return the lightest that is no less accurate; the most accurate where none is; the lightest where none is known."""
    known = [(card, top1) for card in others if (top1 := read(card)) is not None]
    wanted = read(heavy)
    if wanted is None or not known:
        return lightest(others)
    as_good = [card for card, top1 in known if top1 >= wanted]
    return lightest(as_good) if as_good else max(known, key=lambda each: each[1])[0]


def _published_rivals(heavy: CostCard, others: Sequence[CostCard]) -> list[CostCard]:
    beside = [card for name in BESIDE for card in others if card.model == name]
    return beside or [_as_accurate(heavy, others, _published)]


def _measured(card: CostCard) -> float | None:
    return None if card.accuracy is None else card.accuracy.top1


def _published(card: CostCard) -> float | None:
    return None if card.published is None else card.published.top1_percent


def _costs(heavy: CostCard, rivals: Sequence[CostCard]) -> str:
    """Return each cost as a ratio to each rival: ``5.4 times the bytes of ResNet-50 and 39 times MobileNetV2's``."""
    told = []
    for name, what in COSTS:
        ratios = [_ratio(heavy, rival, name) for rival in rivals]
        if None not in ratios:
            told.append(f"{' and '.join(ratio for ratio in ratios if ratio)} {what}")
    told[0] += f" of {' and '.join(card.title for card in rivals)}"
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _ratio(heavy: CostCard, rival: CostCard, name: str) -> str | None:
    cost, unit = BY_NAME[name].value(heavy), BY_NAME[name].value(rival)
    if not cost or not unit or unit.typical <= BY_NAME[name].resolution or cost.typical <= 0:
        return None
    return show_ratio(cost.typical / unit.typical)


def _measured_gain(heavy: CostCard, rival: CostCard) -> str:
    own, other = heavy.accuracy, rival.accuracy
    if own is None or other is None:
        return "what accuracy that buys was not measured here"
    if other.top1 >= own.top1:
        gain = "and it is no more accurate"
    elif own.top1 - other.top1 <= share_noise(own.top1, own.images, other.top1, other.images):
        gain = "for more accuracy by no more than the noise of so few images"
    else:
        gain = "for more accuracy than any network measured here that is no VGG"
    counts = f"{own.correct:,} and {other.correct:,} of {own.images:,}"
    of = (
        counts
        if own.images == other.images
        else f"{own.correct:,} of {own.images:,}, {other.correct:,} of {other.images:,}"
    )
    return f"{gain}: {show_share(own.top1)} of the held-out images against {show_share(other.top1)} ({of})"


def _published_gain(heavy: CostCard, rivals: Sequence[CostCard]) -> str:
    shares = [_published(card) for card in (heavy, *rivals)]
    told = [show_share(share / 100) for share in shares if share is not None]
    if len(told) < len(shares) or heavy.published is None:
        return "what accuracy that buys was not measured here"
    return f"published accuracy ({heavy.published.data}, not measured here): {told[0]} against {' and '.join(told[1:])}"

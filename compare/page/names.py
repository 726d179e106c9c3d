"""How a chart names and marks each model: a short label, and a colour and a shape by family."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.page.paints import GREY, SERIES, Paint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.cost import CostCard

FOCUS = ("VGG", "ResNet", "MobileNet")
"""The families that the comparison is about: marked first, and always named."""
SOUGHT = ("VGG-16", "ResNet-50", "MobileNetV2")
"""Titles of the networks that readers look for."""
LONGEST = 26
SHAPES = ("square", "triangle-up", "circle", "diamond", "triangle-down")
OTHERS = "other families"


@dataclass(frozen=True)
class Mark:
    """How the models of one family look."""

    family: str
    paint: Paint
    shape: str


OTHER = Mark(OTHERS, GREY, "cross")


def labels(cards: Sequence[CostCard]) -> list[str]:
    """Return a label for each card: its title and variant; its model's name where that is not enough."""
    titles = [card.title.replace(" with batch norm", " BN") for card in cards]
    short = [
        title if card.variant == "fp32" else f"{title} {card.variant}"
        for card, title in zip(cards, titles, strict=True)
    ]
    count = Counter(short)
    full = [name if count[name] == 1 else card.model for name, card in zip(short, cards, strict=True)]
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}" for name in full]


def marks(cards: Sequence[CostCard]) -> list[Mark]:
    """Return a mark for each card: those in focus always look the same, the two most frequent others have their own."""
    others = Counter(card.family for card in cards if card.family and card.family not in FOCUS)
    families = (*FOCUS, *(family for family, _ in others.most_common(len(SHAPES) - len(FOCUS))))
    # The last of SERIES is that of all further ones.
    known = {name: Mark(name, paint, shape) for name, paint, shape in zip(families, SERIES, SHAPES, strict=False)}
    return [known.get(card.family or "", OTHER) for card in cards]


def is_focus(card: CostCard) -> bool:
    """Return whether the card is of a family that the comparison is about."""
    return card.family in FOCUS


def is_sought(card: CostCard) -> bool:
    """Return whether the card is of one of the networks that readers look for, as it was exported."""
    return card.title in SOUGHT and card.variant == "fp32"

"""What a name in a table is marked with, and what each mark means."""

from __future__ import annotations

from collections.abc import Sequence

from compare.cost import CostCard

ADAPTED = "*"
TRAINED = {True: "", False: "†", None: "‡"}
"""The mark of a model by whether it was trained; None: not known."""


def marked(card: CostCard) -> str:
    """Return the model's name with its marks."""
    return f"{card.model}{'' if card.adaptation is None else ADAPTED}{TRAINED[card.trained]}"


def meanings(cards: Sequence[CostCard]) -> list[str]:
    """Return one line for each mark that stands on one of the cards."""
    lines = []
    changes: dict[str, list[str]] = {}
    for card in cards:
        if card.adaptation is not None:
            changes.setdefault(card.adaptation, []).append(card.model)
    if changes:
        told = "; ".join(f"{', '.join(models)}: {change}" for change, models in changes.items())
        lines.append(f"{ADAPTED} architecture changed for small images ({told}).")
    if any(card.trained is False for card in cards):
        lines.append(
            f"{TRAINED[False]} random weights, never trained: it weighs and takes what a trained one does, "
            "its answers mean nothing."
        )
    if any(card.trained is None for card in cards):
        lines.append(f"{TRAINED[None]} from elsewhere: whether and on what it was trained is not known.")
    return lines

"""The comparison as Markdown, for a README: warnings, headline, table, notes."""

from __future__ import annotations

from compare.columns import Column, by_weight, columns_of, lightest
from compare.comparison import Comparison
from compare.cost import CostCard
from compare.headline import headline
from compare.marks import marked
from compare.notes import footnotes, warnings
from models.spec import NetweightError


def as_markdown(comparison: Comparison) -> str:
    """Return warnings, headline, table and footnotes in Markdown."""
    if not comparison.cards:
        raise NetweightError(
            "nothing was measured, so there is nothing to show; compare again, and see why each model failed"
        )
    first = [*warnings(comparison), *filter(None, [headline(comparison)])]
    told = [line for sentence in first for line in (f"**{escaped(sentence)}**", "")]
    notes = [f"- {escaped(note)}" for note in footnotes(comparison)]
    return "\n".join([*told, *_table(comparison), "", *notes]) + "\n"


def escaped(text: str) -> str:
    """Return text whose stars and bars stay what they are in Markdown."""
    for character in "\\*|":
        text = text.replace(character, f"\\{character}")
    return text


def _table(comparison: Comparison) -> list[str]:
    cards, columns = by_weight(comparison.cards), columns_of(comparison.cards)
    head = ["model", *(column.label for column in columns)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(columns)}"]
    least = lightest(cards)
    for card in cards:
        cells = [escaped(marked(card)), *(_cell(column, card, least) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(column: Column, card: CostCard, least: CostCard) -> str:
    figure, ratio = column.show(card), column.ratio(card, least)
    return f"{figure} ({ratio})" if ratio else figure

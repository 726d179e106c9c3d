"""The page: a comparison as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from compare import notes
from compare.marks import marked
from compare.page import about
from compare.page.chart import HALF, NARROW, WIDE, Chart
from compare.page.figures import all_charts
from compare.page.names import labels, marks
from compare.page.paints import chart_rules, variables
from compare.page.svg import drawn
from compare.page.table import Cell, Column, cell, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import CostCard


@dataclass(frozen=True)
class Figure:
    """A chart as the page holds it: drawn for a wide screen and for a narrow one."""

    chart: Chart
    wide: str
    narrow: str


@dataclass(frozen=True)
class Row:
    """A model's row of the table and its details."""

    card: CostCard
    label: str
    marked: str
    cells: list[Cell]
    facts: about.Facts
    colour: str


def as_html(comparison: Comparison) -> str:
    """Return the page. It loads nothing: charts are drawn already, styles and the script stand inside."""
    shown = columns(comparison.cards)
    return (
        _templates()
        .get_template("page.html")
        .render(
            comparison=comparison,
            headline=_headline(comparison),
            ceilings=about.ceilings(comparison),
            warnings=notes.warnings(comparison),
            machine=about.machine(comparison.environment),
            measurement=about.measurement(comparison),
            figures=_figures(all_charts(comparison)),
            columns=shown,
            groups=_groups([column.group for column in shown]),
            rows=_rows(comparison.cards, shown),
            families=sorted({card.family for card in comparison.cards if card.family}),
            variants=sorted({card.variant for card in comparison.cards}),
            footnotes=about.footnotes(comparison),
            light=variables(dark=False),
            dark=variables(dark=True),
            chart_rules=chart_rules(),
        )
    )


def _headline(comparison: Comparison) -> str | None:
    from compare.headline import headline

    return headline(comparison)


def _figures(charts: Sequence[Chart]) -> list[Figure]:
    """Draw all; halves that would stand alone, at the end of an odd run of them, become whole."""
    figures = []
    for is_half, run in groupby(charts, key=lambda chart: chart.is_half):
        *others, last = run
        if is_half and len(others) % 2 == 0:
            last = replace(last, is_half=False)
        figures += [_figure(chart) for chart in (*others, last)]
    return figures


def _figure(chart: Chart) -> Figure:
    name = f"{chart.title}. {chart.finding}"
    wide, narrow = (drawn(chart.draw(width), name) for width in (HALF if chart.is_half else WIDE, NARROW))
    return Figure(chart, wide, narrow)


def _groups(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(each))) for name, each in groupby(names)]


def _rows(cards: Sequence[CostCard], shown: Sequence[Column]) -> list[Row]:
    return [
        Row(card, label, marked(card), [cell(column, card) for column in shown], about.model(card), mark.paint.name)
        for card, label, mark in zip(cards, labels(cards), marks(cards), strict=True)
    ]


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("compare.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

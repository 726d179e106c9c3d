"""The comparison as a table on the terminal, or as a picture of one.

One line for each model where there is room; on a narrower terminal one line for each figure, and for many models the
columns one below the other. No figure is ever cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from compare.columns import Column, by_weight, columns_of, lightest
from compare.comparison import Comparison
from compare.cost import CostCard
from compare.headline import headline
from compare.marks import marked
from compare.notes import footnotes, warnings
from models.spec import NetweightError

FIRST_COLUMN = "model"
UNLIMITED = 10_000  # columns of a terminal


def show(comparison: Comparison, console: Console) -> None:
    """Print warnings, headline, table and footnotes."""
    if not comparison.cards:
        raise NetweightError(
            "nothing was measured, so there is nothing to show; compare again, and see why each model failed"
        )
    first = [Text(line, style="bold red") for line in warnings(comparison)]
    sentence = headline(comparison)
    if sentence:
        first.append(Text(sentence, style="bold"))
    notes = [Text(note, style="dim") for note in footnotes(comparison)]
    tables = _Layout(comparison.cards, console).tables()
    console.print(Group(*first, *([Text("")] if first else []), *tables, *notes))


def as_text(comparison: Comparison, width: int = 120) -> str:
    """Return what `show` prints on a terminal of `width` columns, without colours."""
    written = StringIO()
    show(comparison, Console(width=width, file=written, color_system=None))
    return written.getvalue()


def as_svg(comparison: Comparison, *, title: str = "netweight compare", width: int = 124) -> str:
    """Return what `show` prints as a picture for a page; it fetches nothing, the reader's own monospace font serves."""
    console = Console(width=width, file=StringIO(), record=True)
    show(comparison, console)
    picture = console.export_svg(title=title, theme=DEFAULT_TERMINAL_THEME)
    return re.sub(r"@font-face\s*\{.*?\}", "", picture, flags=re.DOTALL)


class _Layout:
    """How the cards are laid out on one terminal."""

    def __init__(self, cards: Sequence[CostCard], console: Console) -> None:
        self.cards = by_weight(cards)
        self.columns = columns_of(cards)
        self.least = lightest(cards)
        self.console = console

    def tables(self) -> list[RenderableType]:
        """Return the widest layout that fits; of several tables, those that take fewer lines."""
        wide = self._lines(self.columns)
        if self._fits(wide):
            return [wide]
        upright, bands = self._blocks(), self._bands()
        if len(upright) == 1 or _height(upright) <= _height(bands):
            return [*upright]
        return [*bands]

    def _blocks(self) -> list[Table]:
        """One line for each figure, as many models beside each other as there is room for."""
        count = len(self.cards)
        while count > 1 and not self._fits(self._upright(self.cards[:count])):
            count -= 1
        return [self._upright(self.cards[start : start + count]) for start in range(0, len(self.cards), count)]

    def _bands(self) -> list[Table]:
        """One line for each model, the columns cut into as few tables as there is room for."""
        tables, start = [], 0
        while start < len(self.columns):
            end = len(self.columns)
            while end > start + 1 and not self._fits(self._lines(self.columns[start:end])):
                end -= 1
            tables.append(self._lines(self.columns[start:end]))
            start = end
        return tables

    def _fits(self, table: Table) -> bool:
        """Whether nothing in the table would be cut off."""
        wanted = Measurement.get(self.console, self.console.options.update(width=UNLIMITED), table).maximum
        return wanted <= self.console.width

    def _lines(self, columns: Sequence[Column]) -> Table:
        table = _blank()
        for column in columns:
            table.add_column(f"{column.title}\n{column.unit}", justify="right", no_wrap=True)
        for card in self.cards:
            table.add_row(_with_ratio(marked(card), ""), *(self._cell(column, card) for column in columns))
        return table

    def _upright(self, cards: Sequence[CostCard]) -> Table:
        table = _blank()
        for card in cards:
            table.add_column(marked(card), justify="right", no_wrap=True)
        for column in self.columns:
            table.add_row(column.label, *(self._cell(column, card) for card in cards))
        return table

    def _cell(self, column: Column, card: CostCard) -> Text:
        return _with_ratio(column.show(card), column.ratio(card, self.least))


def _blank() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(FIRST_COLUMN, no_wrap=True)
    return table


def _with_ratio(figure: str, ratio: str) -> Text:
    return Text.assemble(figure, "\n", (ratio, "dim")) if ratio else Text(figure)


def _height(tables: Sequence[Table]) -> int:
    """Return about how many lines they take."""
    return sum(2 * table.row_count + 4 for table in tables)

"""Rows become something to read: a table on the terminal, a Markdown table, ``results.json``.

Every figure has its ratio to the lightest network (the fewest ONNX bytes) beneath it. A terminal that is too narrow for
one line per network gets one line per figure instead; no figure is ever cut off.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from compare.measure import MB, MIB, Row
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import RenderableType

SCHEMA = "netweight-results/1"
DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
FIRST_COLUMN = "network"
P99_SAMPLES = 100
UNLIMITED = 10_000  # columns
_TRAINED = {True: "", False: "†", None: "‡"}
"""The mark of a network by whether it was trained; None: not known."""


@dataclass(frozen=True)
class Column:
    """One figure of a row: its title, its unit, and how it is read off and written."""

    title: str
    unit: str
    value: Callable[[Row], float | None]
    show: Callable[[float], str]
    has_ratio: bool = True

    def figure(self, row: Row) -> str:
        """Return the figure as text, a dash where it is unknown."""
        value = self.value(row)
        return DASH if value is None else self.show(value)

    def ratio(self, row: Row, lightest: Row) -> str:
        """Return how many times the lightest network's figure this is; empty where that says nothing."""
        value, unit = self.value(row), self.value(lightest)
        if not self.has_ratio or value is None or unit is None or unit <= 0:
            return ""
        return show_ratio(value / unit)


def show_figure(value: float) -> str:
    """Return three or more significant digits: ``0.246``, ``8.94``, ``42.8``, ``537.2``, ``1,234``."""
    for limit, digits in ((1, 3), (10, 2), (1000, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def show_ratio(ratio: float) -> str:
    """Return a ratio with the times sign: 0.04, 3.4, 36 or 2,180 times."""
    digits = 2 if ratio < 1 else 1 if ratio < 10 else 0
    return f"{ratio:,.{digits}f}{TIMES}"


def _scaled(name: str, scale: float) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        raw = getattr(row, name)
        return None if raw is None else raw * scale

    return value


COLUMNS = (
    Column("parameters", "", _scaled("parameters", 1), lambda value: f"{value:,.0f}"),
    Column("checkpoint", "MB", _scaled("checkpoint_bytes", 1 / MB), show_figure),
    Column("ONNX", "MB", _scaled("onnx_bytes", 1 / MB), show_figure),
    Column("ONNX", "MiB", _scaled("onnx_bytes", 1 / MIB), show_figure),
    Column("load", "s", _scaled("load_seconds", 1), show_figure),
    Column("memory", "MiB", _scaled("resident_bytes", 1 / MIB), show_figure),
    Column("p50", "ms", _scaled("latency_p50_seconds", 1000), show_figure),
    Column("p99", "ms", _scaled("latency_p99_seconds", 1000), show_figure),
    Column("inferences", "/s", _scaled("throughput_per_second", 1), show_figure),
    Column("held-out", "correct", _scaled("accuracy", 1), lambda value: f"{value:.1%}", has_ratio=False),
)


def say(line: str) -> None:
    """Print a line of progress at once, in order with what processes of ours print."""
    print(line, flush=True)


def lightest(rows: Sequence[Row]) -> Row:
    """Return the row with the fewest ONNX bytes, to which ratios are given."""
    return min(rows, key=lambda row: row.onnx_bytes)


def by_weight(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, lightest first."""
    return sorted(rows, key=lambda row: row.onnx_bytes)


def show(rows: Sequence[Row], console: Console) -> None:
    """Print headline, table and footnotes."""
    if not rows:
        raise NetweightError("nothing was measured, so there is nothing to show")
    console.print(Group(*_parts(rows, console)))


def as_text(rows: Sequence[Row], width: int = 120) -> str:
    """Return what `show` prints on a terminal of `width` columns, without colours."""
    written = StringIO()
    show(rows, Console(width=width, file=written, color_system=None))
    return written.getvalue()


def as_svg(rows: Sequence[Row], width: int = 124) -> str:
    """Return what `show` prints as a picture for a page; it fetches nothing, the reader's own monospace font serves."""
    console = Console(width=width, file=StringIO(), record=True)
    show(rows, console)
    picture = console.export_svg(title="netweight demo", theme=DEFAULT_TERMINAL_THEME)
    return re.sub(r"@font-face\s*\{.*?\}", "", picture, flags=re.DOTALL)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return headline, table and footnotes in Markdown."""
    rows, least = by_weight(rows), lightest(rows)
    titles = [FIRST_COLUMN, *(f"{column.title} {column.unit}".strip() for column in COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for row in rows:
        cells = [_escaped(_marked(row)), *(_in_one_line(column, row, least) for column in COLUMNS)]
        lines += [f"| {' | '.join(cells)} |"]
    notes = [f"- {_escaped(note)}" for note in footnotes(rows)]
    parts = [[f"**{sentence}**", ""] if (sentence := headline(rows)) else [], lines, [""], notes]
    return "\n".join(line for part in parts for line in part) + "\n"


def headline(rows: Sequence[Row], family: str = "vgg") -> str | None:
    """Return the sentence that says what VGG costs, computed from the rows; None without a VGG or without another.

    It is set beside the lightest of the other networks that are at least as accurate; where none is, beside the most
    accurate of them; where accuracy was not measured, beside the lightest.
    """
    of_family = [row for row in rows if row.network.startswith(family)]
    others = [row for row in rows if not row.network.startswith(family)]
    if not of_family or not others:
        return None
    heavy = max(of_family, key=lambda row: row.onnx_bytes)
    other = _rival(heavy, others)
    costs = [f"{show_ratio(heavy.onnx_bytes / other.onnx_bytes)} the bytes of {_name(other)}"]
    for name, what in (("resident_bytes", "memory"), ("latency_p50_seconds", "time for an answer (p50)")):
        cost, unit = getattr(heavy, name), getattr(other, name)
        if cost and unit:
            costs.append(f"{show_ratio(cost / unit)} the {what}")
    listed = costs[0] if len(costs) == 1 else f"{', '.join(costs[:-1])} and {costs[-1]}"
    size = f"{show_figure(heavy.onnx_bytes / MB)} MB ({show_figure(heavy.onnx_bytes / MIB)} MiB)"
    return f"What {_name(heavy)} costs: {size}, {listed}; {_for_what(heavy, other)}."


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return what a reader must know: marks, units, how each figure was measured, requests that failed."""
    notes = [f"{mark} {text}" for mark, text in _marks(rows).items()]
    row = rows[0]
    notes.append(
        "MB = 1,000,000 bytes, MiB = 1,048,576 bytes. "
        f"Ratios ({TIMES}) are to {_name(lightest(rows))}, the lightest: the fewest ONNX bytes."
    )
    notes.append(
        "load and memory: what a server took to load and warm the model, and the resident memory that it gained."
    )
    counts = _span([each.latency_samples for each in rows])
    notes.append(
        f"p50, p99: latency of one caller, batch 1, seen by the client ({counts} requests; nearest-rank)."
        f" inferences/s: with {row.callers} callers."
    )
    if any(0 < each.latency_samples < P99_SAMPLES for each in rows):
        notes.append(f"p99 of fewer than {P99_SAMPLES} requests is the slowest of them; measure longer to learn more.")
    if any(each.accuracy_images for each in rows):
        images = _span([each.accuracy_images for each in rows if each.accuracy_images])
        notes.append(f"held-out: share of {images} images, never trained on, that came back right through the server.")
    if any(each.accuracy is None for each in rows):
        notes.append(f"{DASH} not measured, or nothing to measure it with.")
    notes += [f"{each.network}: {each.errors} requests FAILED while it was measured." for each in rows if each.errors]
    return notes


def as_json(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """Return schema, environment, and one entry of raw values for each row, as JSON text."""
    results = {"schema": SCHEMA, "environment": environment, "rows": [row.to_dict() for row in rows]}
    return json.dumps(results, indent=2)


def write_results(path: Path, rows: Sequence[Row], environment: dict[str, Any]) -> None:
    """Write ``results.json``, which is what `as_json` gives; whole or not at all."""
    write_text(path, as_json(rows, environment) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _parts(rows: Sequence[Row], console: Console) -> list[RenderableType]:
    sentence = headline(rows)
    parts: list[RenderableType] = [Text(sentence, style="bold"), ""] if sentence else []
    rows = by_weight(rows)
    table = _wide(rows)
    parts += [table] if _width(table, console) <= console.width else _narrow(rows, console)
    return [*parts, *(Text(note, style="dim") for note in footnotes(rows))]


def _wide(rows: Sequence[Row]) -> Table:
    """One line for each network."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(FIRST_COLUMN, no_wrap=True)
    for column in COLUMNS:
        table.add_column(f"{column.title}\n{column.unit}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(_with_ratio(_marked(row), ""), *_cells(row, rows))
    return table


def _narrow(rows: Sequence[Row], console: Console) -> list[RenderableType]:
    """One line for each figure, as many networks beside each other as there is room for."""
    count = len(rows)
    while count > 1 and _width(_upright(rows[:count], rows), console) > console.width:
        count -= 1
    return [_upright(rows[start : start + count], rows) for start in range(0, len(rows), count)]


def _width(table: Table, console: Console) -> int:
    """Return the columns that a table takes when nothing in it is cut off."""
    return Measurement.get(console, console.options.update(width=UNLIMITED), table).maximum


def _upright(part: Sequence[Row], rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(FIRST_COLUMN, no_wrap=True)
    for row in part:
        table.add_column(_marked(row), justify="right", no_wrap=True)
    cells = zip(*(_cells(row, rows) for row in part), strict=True)
    for column, figures in zip(COLUMNS, cells, strict=True):
        label = f"{column.title}{column.unit}" if column.unit == "/s" else f"{column.title} {column.unit}"
        table.add_row(label, *figures)
    return table


def _cells(row: Row, rows: Sequence[Row]) -> list[Text]:
    least = lightest(rows)
    return [_with_ratio(column.figure(row), column.ratio(row, least)) for column in COLUMNS]


def _in_one_line(column: Column, row: Row, least: Row) -> str:
    ratio = column.ratio(row, least)
    return f"{column.figure(row)} ({ratio})" if ratio else column.figure(row)


def _escaped(text: str) -> str:
    """Return text whose stars stay stars in Markdown."""
    return text.replace("*", r"\*")


def _with_ratio(figure: str, ratio: str) -> Text:
    return Text.assemble(figure, "\n", (ratio, "dim"))


def _marked(row: Row) -> str:
    return f"{row.network}{'' if row.adaptation is None else '*'}{_TRAINED[row.trained]}"


def _marks(rows: Sequence[Row]) -> dict[str, str]:
    marks = {}
    changes: dict[str, list[str]] = {}
    for row in rows:
        if row.adaptation is not None:
            changes.setdefault(row.adaptation, []).append(row.network)
    if changes:
        told = "; ".join(f"{', '.join(networks)}: {change}" for change, networks in changes.items())
        marks["*"] = f"architecture changed for small images ({told})."
    if any(row.trained is None for row in rows):
        marks[_TRAINED[None]] = "from elsewhere: whether and on what it was trained is not known."
    if any(row.trained is False for row in rows):
        marks[_TRAINED[False]] = (
            "random weights, never trained: it weighs and takes what a trained one does, its answers mean nothing."
        )
    return marks


def _rival(heavy: Row, others: Sequence[Row]) -> Row:
    """Return the other network to set beside the heavy one; see `headline`."""
    known = [row for row in others if row.accuracy is not None]
    if heavy.accuracy is None or not known:
        return lightest(others)
    as_good = [row for row in known if (row.accuracy or 0) >= heavy.accuracy]
    return lightest(as_good) if as_good else max(known, key=lambda row: row.accuracy or 0)


def _for_what(heavy: Row, other: Row) -> str:
    if heavy.accuracy is None or other.accuracy is None:
        return "what accuracy that buys was not measured here"
    gain = "and it is no more accurate" if other.accuracy >= heavy.accuracy else "for more accuracy than any other here"
    return f"{gain}: {heavy.accuracy:.1%} of the held-out images against {other.accuracy:.1%}"


def _name(row: Row) -> str:
    return row.title or row.network


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"

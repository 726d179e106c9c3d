"""Charts that have one row for each model: stacked bars with a total, and the names beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.page.chart import FONT_SIZE, NARROW, Frame, Spec, values
from compare.page.paints import INK, MUTED, Paint
from compare.page.place import LETTER

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW = 26
BAR = 18
LEGEND = 24


@dataclass(frozen=True)
class Segment:
    """A part of a row's bar, in the units of the axis.

    Attributes:
        names: what stands in it, the longest first; the first that fits is taken.
    """

    row: int
    start: float
    end: float
    paint: Paint
    tip: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A line of a legend."""

    text: str
    paint: Paint
    shape: str = "square"


def row_frame(width: int, labels: Sequence[str], totals: Sequence[str], *, legend_lines: int = 1) -> Frame:
    """Return the frame that leaves room for the rows' names at the left and their totals at the right."""
    names = max(map(len, labels), default=0) * LETTER + 14
    right = max(map(len, totals), default=0) * LETTER + 12
    return Frame(
        left=int(min(names, 128 if width <= NARROW else 200)), right=int(max(right, 14)), top=6 + LEGEND * legend_lines
    )


def row_names(labels: Sequence[str], frame: Frame) -> Spec:
    """Return the names of the rows, cut where they are longer than the frame."""
    room = int((frame.left - 8) / LETTER)
    rows = [
        {"row": row + 0.5, "text": name if len(name) <= room else name[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"}
        for row, name in enumerate(labels)
    ]
    return {
        "data": values(rows),
        "mark": {"type": "text", "align": "right", "baseline": "middle", "color": INK.light, "x": -8},
        "encoding": {"y": row_channel("row", len(labels)), "text": {"field": "text"}},
    }


def row_totals(totals: Sequence[str], width: float) -> Spec:
    """Return what stands at the right end of each row."""
    return {
        "data": values([{"row": row + 0.5, "text": text} for row, text in enumerate(totals)]),
        "mark": {"type": "text", "align": "left", "baseline": "middle", "color": MUTED.light, "x": width + 8},
        "encoding": {"y": row_channel("row", len(totals)), "text": {"field": "text"}},
    }


def row_channel(field: str, count: int) -> Spec:
    """Return the channel down the rows: row 0 on top, each 1 high."""
    return {
        "field": field, "type": "quantitative", "axis": None, "title": None,
        "scale": {"domain": [0, count], "reverse": True, "nice": False, "zero": False},
    }  # fmt: skip


def bars(segments: Sequence[Segment], count: int, x: Spec) -> Spec:
    """Return the segments as bars along the channel `x`, which reads ``start``."""
    thin = (1 - BAR / ROW) / 2
    rows = [
        {
            "start": each.start, "end": each.end, "top": each.row + thin, "bottom": each.row + 1 - thin,
            "paint": each.paint.light, "tip": each.tip,
        }
        for each in segments
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "rect", "stroke": "#fffffd", "strokeWidth": 0.5},
        "encoding": {
            "x": x,
            "x2": {"field": "end"},
            "y": row_channel("top", count),
            "y2": {"field": "bottom"},
            "color": {"field": "paint", "scale": None},
            "description": {"field": "tip"},
        },
    }


def bar_names(segments: Sequence[Segment], count: int, x: Spec, pixels: float) -> Spec:
    """Return what stands inside the segments that have room for it; `pixels` for each unit of the axis."""
    rows = [
        {"start": (each.start + each.end) / 2, "row": each.row + 0.5, "text": text}
        for each in segments
        if (text := _fitting(each.names, (each.end - each.start) * pixels))
    ]
    return {
        "data": values(rows),
        "mark": {
            "type": "text",
            "baseline": "middle",
            "color": "#fffffe",
            "fontSize": FONT_SIZE - 0.5,
            "fontWeight": 600,
        },
        "encoding": {"x": {**x, "axis": None}, "y": row_channel("row", count), "text": {"field": "text"}},
    }


def legend(entries: Sequence[Entry], width: float, left: float) -> tuple[list[Spec], int]:
    """Return a legend above the plot as two layers, and how many lines it takes; it starts `left` of the plot."""
    at, line = -left + 6.0, 0
    rows: list[Spec] = []
    for entry in entries:
        room = 20 + len(entry.text) * LETTER + 10
        if rows and at + room > width:
            at, line = -left + 6.0, line + 1
        rows.append({"text": entry.text, "paint": entry.paint.light, "shape": entry.shape, "at": at, "line": line})
        at += room
    lines = line + 1
    for row in rows:
        row["down"] = -LEGEND * (lines - row["line"]) + LEGEND / 2 - 3
    place: Spec = {
        "x": {"field": "at", "type": "quantitative", "scale": None, "axis": None},
        "y": {"field": "down", "type": "quantitative", "scale": None, "axis": None},
    }
    squares = {
        "data": values(rows),
        "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1, "xOffset": 5, "strokeWidth": 2},
        "encoding": {
            **place,
            "color": {"field": "paint", "scale": None},
            "stroke": {"field": "paint", "scale": None},
            "shape": {"field": "shape", "scale": None},
        },
    }
    names = {
        "data": values(rows),
        "mark": {"type": "text", "align": "left", "baseline": "middle", "xOffset": 16, "color": INK.light},
        "encoding": {**place, "text": {"field": "text"}},
    }
    return [squares, names], lines


def _fitting(names: Sequence[str], pixels: float) -> str:
    return next((name for name in names if len(name) * LETTER + 6 <= pixels), "")

"""Pareto fronts: what each model gives for what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, sqrt
from typing import TYPE_CHECKING

from compare.page.amounts import listed, mebibytes
from compare.page.axis import Axis, linear_axis, log_axis
from compare.page.chart import HALF, NARROW, Chart, Frame, Spec, bare, quantity, spec, values
from compare.page.front import front, steps
from compare.page.names import Mark, is_focus, is_sought, labels, marks
from compare.page.paints import INK, LINE, MUTED
from compare.page.place import LEADER, Box, Point, place
from compare.page.trades import TRADES, Trade

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import CostCard

FRAME = Frame()
HEIGHT = 340
WIDE_HEIGHT = 420
EVERYBODY = 14
"""With no more models than these, all of them are named; else those on the front and of the families in focus."""
RADIUS = 5.0
LARGEST = 24.0
LARGEST_NARROW = 14.0
"""Pixels of the radius of a point, of one whose area tells something at most."""


@dataclass(frozen=True)
class Dot:
    """A model as a point, in the units of the axes."""

    label: str
    tip: str
    x: float
    y: float
    area: float | None
    """As a share of the largest; None: it says nothing."""
    mark: Mark
    is_front: bool
    is_named: bool
    is_sought: bool
    """Whether its name is worth a line to it where there is no room beside it."""


def charts(comparison: Comparison) -> list[Chart]:
    """Return the fronts that have at least two models to compare."""
    cards = comparison.cards
    found = [_chart(trade, cards) for trade in TRADES]
    return [chart for chart in found if chart is not None]


def _chart(trade: Trade, cards: Sequence[CostCard]) -> Chart | None:
    dots = _dots(trade, cards)
    data = _data(trade, cards)
    if len(dots) < 2:
        return None
    best = sorted((dot for dot in dots if dot.is_front), key=lambda dot: dot.x)
    told = [
        f"{dot.label} ({trade.tell_cost(dot.x)}, {trade.tell_value(dot.y)})"
        if dot in {best[0], best[-1]}
        else dot.label
        for dot in best
    ]
    stand = "stands" if len(best) == 1 else "stand"
    finding = f"{len(best)} of {len(dots)} models {stand} on the front: {listed(told)}."
    reading = (
        "The line is what so much buys at best; up and to the left is better. Pale: beaten by one that costs no more and gives "
        "no less."
    )
    if data:
        reading += f" Of what was published on {data} alone: shares of other data sets do not compare."
    if trade.area:
        reading += " The area of a point is the resident memory that loading adds."
    return Chart(
        trade.name, trade.title, finding, reading, lambda width: _draw(trade, dots, width), len(dots) <= EVERYBODY
    )


def _data(trade: Trade, cards: Sequence[CostCard]) -> str | None:
    """Return the data set on which the values of most cards were measured; None where that is not asked."""
    if trade.data is None:
        return None
    counted = Counter(data for card in cards if trade.value(card) is not None and (data := trade.data(card)))
    return counted.most_common(1)[0][0] if counted else None


def _dots(trade: Trade, cards: Sequence[CostCard]) -> list[Dot]:
    data = _data(trade, cards)
    known = [
        (card, label, mark, cost, value)
        for card, label, mark in zip(cards, labels(cards), marks(cards), strict=True)
        if (cost := trade.cost(card)) is not None and (value := trade.value(card)) is not None and cost > 0
        if trade.is_share or value > 0
        if trade.data is None or trade.data(card) == data
    ]
    best = set(front([(cost, value) for *_, cost, value in known]))
    most = max((trade.area(card) or 0 for card, *_ in known), default=0) if trade.area else 0
    return [
        Dot(
            label,
            _tip(trade, card, label, cost, value),
            cost,
            value,
            _share(trade.area(card), most) if trade.area else None,
            mark,
            index in best,
            len(known) <= EVERYBODY or index in best or is_focus(card),
            index in best or is_sought(card) or len(known) <= EVERYBODY,
        )
        for index, (card, label, mark, cost, value) in enumerate(known)
    ]


def _tip(trade: Trade, card: CostCard, label: str, cost: float, value: float) -> str:
    memory = trade.area(card) if trade.area else None
    more = "" if memory is None else f", {mebibytes(memory)} of memory added"
    return f"{label}: {trade.tell_cost(cost)}, {trade.tell_value(value)}{more}"


def _share(area: float | None, most: float) -> float:
    return max(0.0, area / most) if area and most else 0.0


def _radius(dot: Dot, width: int) -> float:
    if dot.area is None:
        return RADIUS
    return max(3.5, (LARGEST if width > NARROW else LARGEST_NARROW) * sqrt(dot.area))


def _draw(trade: Trade, dots: Sequence[Dot], width: int) -> Spec:
    height = WIDE_HEIGHT if width > HALF else HEIGHT
    across = width - FRAME.left - FRAME.right
    x = log_axis([dot.x for dot in dots], across, room=0.1)
    numbers = [dot.y for dot in dots]
    y = linear_axis(numbers, height, least=0, most=100) if trade.is_share else log_axis(numbers, height, room=0.14)
    order = sorted(
        range(len(dots)), key=lambda index: (-dots[index].is_front, -dots[index].is_sought, -dots[index].is_named)
    )
    ordered = [dots[index] for index in order]
    points = [_point(dot, x, y, height, width) for dot in ordered]
    boxes = place(points, across, height, _obstacles(ordered, x, y, height))
    channels = {"x": quantity("x", x, trade.cost_title), "y": quantity("y", y, trade.value_title)}
    return spec(
        width,
        height,
        FRAME,
        [
            _line(ordered, channels, x),
            _leaders(ordered, boxes, points, x, y, height),
            _marks(ordered, x, y, width),
            _names(ordered, boxes, x, y, height),
        ],
    )


def _point(dot: Dot, x: Axis, y: Axis, height: float, width: int) -> Point:
    is_named = dot.is_sought or (dot.is_named and width > NARROW)
    bold = 1.1 if dot.is_front else 1.0
    label = dot.label if is_named else ""
    return Point(x.pixel(dot.x), height - y.pixel(dot.y), _radius(dot, width), label, bold, dot.is_sought)


def _obstacles(dots: Sequence[Dot], x: Axis, y: Axis, height: float) -> list[Box]:
    """Return the front's line as thin boxes, in pixels."""
    corners = [
        (x.pixel(cost), height - y.pixel(value)) for cost, value in steps([(dot.x, dot.y) for dot in dots], x.last)
    ]
    return [
        Box(min(left, right) - 2, min(top, bottom) - 2, abs(right - left) + 4, abs(bottom - top) + 4)
        for (left, top), (right, bottom) in pairwise(corners)
    ]


def _line(dots: Sequence[Dot], channels: Spec, x: Axis) -> Spec:
    corners = steps([(dot.x, dot.y) for dot in dots], x.last)
    return {
        "data": values([{"x": across, "y": up, "order": number} for number, (across, up) in enumerate(corners)]),
        "mark": {"type": "line", "color": LINE.light, "strokeWidth": 2},
        "encoding": {**channels, "order": {"field": "order"}},
    }


def _marks(dots: Sequence[Dot], x: Axis, y: Axis, width: int) -> Spec:
    rows = [
        {
            "x": dot.x, "y": dot.y, "tip": dot.tip, "paint": dot.mark.paint.light, "shape": dot.mark.shape,
            "size": (2 * _radius(dot, width)) ** 2, "solid": 0.9 if dot.is_front else 0.22,
        }
        for dot in sorted(dots, key=lambda each: (-(each.area or 0), each.is_front))
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "point", "filled": True, "strokeWidth": 1.5, "opacity": 1},
        "encoding": {
            "x": bare("x", x),
            "y": bare("y", y),
            "description": {"field": "tip"},
            "color": {"field": "paint", "scale": None},
            "shape": {"field": "shape", "scale": None},
            "size": {"field": "size", "type": "quantitative", "scale": None},
            "stroke": {"field": "paint", "scale": None},
            "fillOpacity": {"field": "solid", "type": "quantitative", "scale": None},
        },
    }


def _names(dots: Sequence[Dot], boxes: Sequence[Box | None], x: Axis, y: Axis, height: float) -> Spec:
    rows = [
        {
            "x": x.value(box.anchor), "align": box.align, "y": y.value(height - box.top - box.height / 2), "text": dot.label,
            "paint": (INK if dot.is_front else MUTED).light, "weight": 600 if dot.is_front else 400,
        }
        for dot, box in zip(dots, boxes, strict=True)
        if box is not None
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {
            "type": "text",
            "align": {"expr": "datum.align"},
            "baseline": "middle",
            "fontWeight": {"expr": "datum.weight"},
        },
        "encoding": {
            "x": bare("x", x),
            "y": bare("y", y),
            "text": {"field": "text"},
            "color": {"field": "paint", "scale": None},
        },
    }


def _leaders(
    dots: Sequence[Dot], boxes: Sequence[Box | None], points: Sequence[Point], x: Axis, y: Axis, height: float
) -> Spec:
    """Return a line from each point to its name where that is not just beside it."""
    rows = []
    for dot, box, point in zip(dots, boxes, points, strict=True):
        if box is None:
            continue
        across = min(max(point.x, box.left), box.left + box.width)
        down = min(max(point.y, box.top), box.top + box.height)
        if hypot(across - point.x, down - point.y) > point.radius + LEADER:
            rows.append({"x": dot.x, "y": dot.y, "x2": x.value(across), "y2": y.value(height - down)})
    return {
        "data": values(rows),
        "mark": {"type": "rule", "color": LINE.light, "strokeWidth": 1},
        "encoding": {"x": bare("x", x), "y": bare("y", y), "x2": {"field": "x2"}, "y2": {"field": "y2"}},
    }

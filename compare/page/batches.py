"""What larger batches bring, and what they cost in latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compare.columns import show_ratio
from compare.page.amounts import duration, percent, rate
from compare.page.axis import Axis, log_axis
from compare.page.chart import HALF, NARROW, Chart, Frame, Spec, bare, quantity, spec, values
from compare.page.names import Mark, labels, marks
from compare.page.paints import LINE
from compare.page.place import LETTER, LINE_HEIGHT, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.comparison import Comparison
    from compare.cost import BatchPoint, CostCard

LEAST_HEIGHT = 300
Line = tuple[str, Mark, list[tuple[float, float]]]


def charts(comparison: Comparison) -> list[Chart]:
    """Return throughput and latency against the batch size, of the models measured at two sizes or more."""
    cards = comparison.cards
    if not any(len(card.batches) > 1 for card in cards):
        return []
    reading = "One caller that sends batches back to back; medians of the rounds. Both axes are logarithmic."
    throughput = _lines(cards, lambda point: point.inferences_per_second.median)
    latency = _lines(cards, lambda point: point.p50_seconds.median * 1e3)
    return [
        Chart(
            "batches", "Throughput by batch size", _gain(throughput), reading,
            lambda width: _draw(throughput, "inferences/s", rate, width), is_half=True,
        ),
        Chart(
            "batches-latency", "Latency by batch size", _wait(latency), reading,
            lambda width: _draw(latency, "latency of a batch, p50, ms", _tell_ms, width), is_half=True,
        ),
    ]  # fmt: skip


def _lines(cards: Sequence[CostCard], read: Callable[[BatchPoint], float]) -> list[Line]:
    return [
        (label, mark, points)
        for card, label, mark in zip(cards, labels(cards), marks(cards), strict=True)
        if len(points := [(float(point.batch), read(point)) for point in card.batches if read(point) > 0]) > 1
    ]


def _tell_ms(value: float) -> str:
    return duration(value / 1e3)


def _gain(lines: Sequence[Line]) -> str:
    best = [(max(y for _, y in points) / points[0][1], label, points) for label, _, points in lines]
    gain, label, points = max(best, key=lambda each: each[0])
    at = max(points, key=lambda point: point[1])[0]
    if gain < 1.05:
        return f"Batches of more than {points[0][0]:.0f} bring none of these models as much as {percent(0.05)} of throughput."
    return f"{label} gains the most: at batch {at:.0f} {show_ratio(gain)} the inferences/s of batch {points[0][0]:.0f}."


def _wait(lines: Sequence[Line]) -> str:
    label, _, points = max(lines, key=lambda line: line[2][-1][1])
    (first, before), (last, after) = points[0], points[-1]
    return f"{label} waits longest: {_tell_ms(before)} at batch {first:.0f}, {_tell_ms(after)} at batch {last:.0f}."


def _draw(lines: Sequence[Line], title: str, tell: Callable[[float], str], width: int) -> Spec:
    room = max(len(label) for label, *_ in lines) * LETTER + 18
    frame = Frame(right=int(min(room, 118 if width <= NARROW else 170)))
    height = max(LEAST_HEIGHT if width >= HALF else 280, LINE_HEIGHT * len(lines))
    across = width - frame.left - frame.right
    sizes = sorted({batch for *_, points in lines for batch, _ in points})
    x = log_axis(sizes, across, room=0.03)
    y = log_axis([value for *_, points in lines for _, value in points], height)
    channels = {"x": quantity("x", x, "batch size"), "y": quantity("y", y, title)}
    channels["x"]["axis"]["values"] = sizes
    return spec(
        width, height, frame, [_curves(lines, channels), _points(lines, tell, x, y), *_names(lines, x, y, height)]
    )


def _curves(lines: Sequence[Line], channels: Spec) -> Spec:
    rows = [
        {"x": batch, "y": value, "line": number, "paint": mark.paint.light}
        for number, (_, mark, points) in enumerate(lines)
        for batch, value in points
    ]
    return {
        "data": values(rows),
        "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.85},
        "encoding": {
            **channels,
            "detail": {"field": "line", "type": "nominal"},
            "color": {"field": "paint", "scale": None},
        },
    }


def _points(lines: Sequence[Line], tell: Callable[[float], str], x: Axis, y: Axis) -> Spec:
    rows = [
        {
            "x": batch, "y": value, "paint": mark.paint.light, "shape": mark.shape,
            "tip": f"{label}, batch {batch:.0f}: {tell(value)}",
        }
        for label, mark, points in lines
        for batch, value in points
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
        "encoding": {
            "x": bare("x", x),
            "y": bare("y", y),
            "color": {"field": "paint", "scale": None},
            "shape": {"field": "shape", "scale": None},
            "description": {"field": "tip"},
        },
    }


def _names(lines: Sequence[Line], x: Axis, y: Axis, height: float) -> list[Spec]:
    ends = [points[-1] for *_, points in lines]
    down = spread([height - y.pixel(value) for _, value in ends], height)
    rows = [
        {
            "x": batch, "y": value, "to": y.value(height - place), "text": label, "paint": mark.paint.light,
            "start": x.value(x.pixel(batch) + 4), "end": x.value(x.pixels + 8),
        }
        for (label, mark, _), (batch, value), place in zip(lines, ends, down, strict=True)
    ]  # fmt: skip
    leaders = {
        "data": values(rows),
        "mark": {"type": "rule", "color": LINE.light, "strokeWidth": 0.7},
        "encoding": {"x": bare("start", x), "x2": {"field": "end"}, "y": bare("y", y), "y2": {"field": "to"}},
    }
    names = {
        "data": values(rows),
        "mark": {"type": "text", "align": "left", "baseline": "middle", "x": x.pixels + 11},
        "encoding": {"y": bare("to", y), "text": {"field": "text"}, "color": {"field": "paint", "scale": None}},
    }
    return [leaders, names]

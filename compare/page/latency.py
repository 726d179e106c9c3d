"""How the latencies of one caller are spread: every sample of every round, outliers too."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from compare.page.amounts import duration
from compare.page.axis import Axis, log_axis
from compare.page.chart import NARROW, Chart, Spec, bare, quantity, spec, values
from compare.page.names import Mark, labels, marks
from compare.page.paints import INK, LINE, MUTED
from compare.page.rows import ROW, row_channel, row_frame, row_names, row_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import Latencies

BIN = 3.0
"""Pixels of a bin."""
FAINTEST = 0.22
"""Opacity of a bin with a single sample: it must be seen."""
Row = tuple["Latencies", str, Mark]


def charts(comparison: Comparison) -> list[Chart]:
    """Return the chart of the models whose latencies were measured; none: no chart."""
    cards = comparison.cards
    known: list[Row] = [
        (card.single_stream.latency, label, mark)
        for card, label, mark in zip(cards, labels(cards), marks(cards), strict=True)
        if card.single_stream and card.single_stream.latency.count
    ]
    if not known:
        return []
    known.sort(key=lambda each: each[0].percentile(50))
    reading = (
        "Each sample of each round is in its strip, the darker the more there are. "
        "Ticks from tall to short: p50, p90, p99; the small diamond is the longest of all."
    )
    return [Chart("latency", "Latency of one caller", _finding(known), reading, lambda width: _draw(known, width))]


def _finding(known: Sequence[Row]) -> str:
    (fast, fastest, _), (slow, slowest, _) = known[0], known[-1]
    tail, tailed, _ = max(known, key=lambda each: each[0].percentile(100) / each[0].percentile(50))
    told = f"{fastest} answers in {duration(fast.percentile(50))} (p50)"
    if len(known) > 1:
        told += f", {slowest} in {duration(slow.percentile(50))}"
    return (
        f"{told}. The longest single wait beside its median is {tailed}'s: {duration(tail.percentile(100))}"
        f" against {duration(tail.percentile(50))}."
    )


def _draw(known: Sequence[Row], width: int) -> Spec:
    names = [label for _, label, _ in known]
    totals = [f"{duration(latency.percentile(50))}" for latency, *_ in known]
    frame = row_frame(width, names, totals, legend_lines=0)
    across = width - frame.left - frame.right
    ends = [latency.percentile(percent) * 1e3 for latency, *_ in known for percent in (0, 100)]
    x = log_axis([max(end, 1e-3) for end in ends], across, room=0.02)
    channel = quantity("value", x, "milliseconds (each sample)")
    layers = [
        _strips(known, x, channel),
        _ticks(known, x, thick=width > NARROW),
        _longest(known, x),
        row_names(names, frame),
        row_totals(totals, across),
    ]
    return spec(width, ROW * len(known), frame, layers)


def _strips(known: Sequence[Row], x: Axis, channel: Spec) -> Spec:
    rows = []
    for row, (latency, label, mark) in enumerate(known):
        bins = Counter(
            math.floor(x.pixel(max(sample * 1e3, x.first)) / BIN) for samples in latency.rounds for sample in samples
        )
        most = max(bins.values())
        rows += [
            {
                "value": x.value(at * BIN), "end": x.value((at + 1) * BIN), "top": row + 0.22, "bottom": row + 0.78,
                "paint": mark.paint.light, "opacity": round(FAINTEST + (0.9 - FAINTEST) * (count / most) ** 0.5, 2),
                "tip": f"{label}: {count} of {latency.count} samples near {duration(x.value((at + 0.5) * BIN) / 1e3)}",
            }
            for at, count in bins.items()
        ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "rect"},
        "encoding": {
            "x": channel,
            "x2": {"field": "end"},
            "y": row_channel("top", len(known)),
            "y2": {"field": "bottom"},
            "color": {"field": "paint", "scale": None},
            "opacity": {"field": "opacity", "type": "quantitative", "scale": None},
            "description": {"field": "tip"},
        },
    }


def _ticks(known: Sequence[Row], x: Axis, *, thick: bool) -> Spec:
    rows = [
        {
            "value": latency.percentile(percent) * 1e3, "top": row + inset, "bottom": row + 1 - inset,
            "tip": f"{label}, p{percent}: {duration(latency.percentile(percent))}", "thick": pixels if thick else 1,
        }
        for row, (latency, label, _) in enumerate(known)
        for percent, inset, pixels in ((50, 0.08, 3), (90, 0.2, 2), (99, 0.3, 2))
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "rule", "color": INK.light},
        "encoding": {
            "x": bare("value", x),
            "y": row_channel("top", len(known)),
            "y2": {"field": "bottom"},
            "strokeWidth": {"field": "thick", "type": "quantitative", "scale": None},
            "description": {"field": "tip"},
        },
    }


def _longest(known: Sequence[Row], x: Axis) -> Spec:
    rows = [
        {
            "value": latency.percentile(100) * 1e3,
            "row": row + 0.5,
            "tip": f"{label}, the longest of {latency.count}: {duration(latency.percentile(100))}",
        }
        for row, (latency, label, _) in enumerate(known)
    ]
    return {
        "data": values(rows),
        "mark": {
            "type": "point", "shape": "diamond", "filled": True, "size": 46, "opacity": 1,
            "color": MUTED.light, "stroke": LINE.light,
        },
        "encoding": {
            "x": bare("value", x),
            "y": row_channel("row", len(known)),
            "description": {"field": "tip"},
        },
    }  # fmt: skip

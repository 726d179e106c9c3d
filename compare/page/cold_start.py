"""Cold start: from starting the server's process to its first answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compare.page.amounts import duration
from compare.page.axis import Axis
from compare.page.chart import Chart, Spec, quantity, spec
from compare.page.names import labels
from compare.page.paints import BLUE, GREEN, GREY, OCHRE, PURPLE, VERMILION
from compare.page.rows import ROW, Entry, Segment, bar_names, bars, legend, row_frame, row_names, row_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import ColdStart

PARTS = (
    ("process", "process", GREY),
    ("imports", "imports", PURPLE),
    ("session", "session", VERMILION),
    ("warm_up", "warm-up", OCHRE),
    ("other", "other", GREEN),
    ("first_answer", "first answer", BLUE),
)


def charts(comparison: Comparison) -> list[Chart]:
    """Return the chart of the models whose cold start was measured; none: no chart."""
    cards = comparison.cards
    known = [
        (card.cold_start, label)
        for card, label in zip(cards, labels(cards), strict=True)
        if card.cold_start is not None
    ]
    if not known:
        return []
    known.sort(key=lambda each: -each[0].total.median)
    (slow, slowest), (fast, fastest) = known[0], known[-1]
    largest = max(PARTS, key=lambda part: getattr(slow, part[0]).median)
    finding = (
        f"{slowest} takes {duration(slow.total.median)} from nothing to its first answer (largest part: {largest[1]})"
    )
    finding += f"; {fastest} {duration(fast.total.median)}." if len(known) > 1 else "."
    reading = "Medians of the rounds, in the order in which they happen; the files were in the page cache."
    return [Chart("cold-start", "Cold start", finding, reading, lambda width: _draw(known, width))]


def _draw(known: Sequence[tuple[ColdStart, str]], width: int) -> Spec:
    totals = [duration(start.total.median) for start, _ in known]
    names = [label for _, label in known]
    entries = [Entry(text, paint) for _, text, paint in PARTS]
    frame = row_frame(width, names, totals)
    _, lines = legend(entries, width - frame.left - frame.right, frame.left)
    frame = row_frame(width, names, totals, legend_lines=lines)
    across = width - frame.left - frame.right
    segments = [segment for row, (start, label) in enumerate(known) for segment in _segments(row, start, label)]
    longest = max(segment.end for segment in segments)
    axis = Axis(0, longest * 1.001, across, is_log=False)
    x = quantity("start", axis, "seconds", spacing=64)
    layers = [
        bars(segments, len(known), x),
        bar_names(segments, len(known), x, across / axis.last),
        row_names(names, frame),
        row_totals(totals, across),
        *legend(entries, across, frame.left)[0],
    ]
    return spec(width, ROW * len(known), frame, layers)


def _segments(row: int, start: ColdStart, label: str) -> list[Segment]:
    segments, at = [], 0.0
    for name, text, paint in PARTS:
        took = getattr(start, name).median
        names = (f"{text} {duration(took)}", text, duration(took))
        segments.append(Segment(row, at, at + took, paint, f"{label}, {text}: {duration(took)}", names))
        at += took
    return segments

"""How many requests a second each model bears: while a bound holds, at saturation, and offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.columns import show_number
from compare.page.amounts import duration, percent, rate
from compare.page.axis import Axis, log_axis
from compare.page.chart import Chart, Spec, bare, quantity, spec, values
from compare.page.names import labels
from compare.page.paints import BLUE, GREEN, INK, LINE, VERMILION
from compare.page.rows import ROW, Entry, legend, row_channel, row_frame, row_names, row_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import Caller, CostCard

POISSON = Entry("highest Poisson rate under the bound", VERMILION, "circle")
SATURATION = Entry("saturation", BLUE, "triangle-up")
OFFLINE = Entry("offline (batches)", GREEN, "square")
CEILING = Entry("the caller's own ceiling, requests/s", INK, "stroke")
NEAR = 3.0
"""A ceiling above so many times the highest rate is not drawn: it is far from mattering."""


@dataclass(frozen=True)
class Rates:
    """Inferences for each second of one model; None: not measured; the Poisson rate's bound in seconds."""

    label: str
    poisson: float | None
    saturation: float | None
    offline: float | None
    bound: float | None

    @property
    def marks(self) -> list[tuple[float, Entry]]:
        """Return those above 0: a logarithmic axis has no others."""
        each = ((self.offline, OFFLINE), (self.saturation, SATURATION), (self.poisson, POISSON))
        return [(value, entry) for value, entry in each if value]

    @property
    def poisson_in_words(self) -> str:
        """Return the Poisson rate as it stands at the end of a row."""
        if self.poisson is None:
            return ""
        return f"{show_number(self.poisson)}/s" if self.poisson else "none"


def charts(comparison: Comparison) -> list[Chart]:
    """Return the chart of the models that were asked for more than one answer at a time; none: no chart."""
    cards = comparison.cards
    known = [_rates(card, label) for card, label in zip(cards, labels(cards), strict=True)]
    known = [each for each in known if each.marks]
    if not known:
        return []
    known.sort(key=lambda each: -max(value for value, _ in each.marks))
    reading = (
        "Saturation keeps every caller waiting; offline sends batches and no one waits; the Poisson rate is what arrives "
        "at random moments while 99 of 100 answers keep the bound. At the right that rate; none: not even the lowest kept it."
    )
    most = max(value for each in known for value, _ in each.marks)
    ceilings = [caller for caller in comparison.callers if caller.requests_per_second <= NEAR * most]
    title = "How much traffic each bears"
    return [Chart("rates", title, _finding(known), reading, lambda width: _draw(known, ceilings, width))]


def _rates(card: CostCard, label: str) -> Rates:
    return Rates(
        label,
        card.server.highest_per_second.median if card.server else None,
        card.saturation.inferences_per_second.median if card.saturation else None,
        card.offline.inferences_per_second.median if card.offline else None,
        card.server.bound_seconds if card.server else None,
    )


def _finding(known: Sequence[Rates]) -> str:
    asked = [each for each in known if each.poisson is not None and each.bound is not None]
    if not asked:
        best = max(known, key=lambda each: each.saturation or 0)
        return f"{best.label} answers the most at saturation: {rate(best.saturation or 0)}."
    best = max(asked, key=lambda each: each.poisson or 0)
    told = f"With p99 within {duration(best.bound or 0)}, {best.label} bears the most: {rate(best.poisson or 0)}"
    if best.poisson and best.saturation:
        told += f", {percent(best.poisson / best.saturation)} of its saturation"
    worst = min(asked, key=lambda each: each.poisson or 0)
    if worst is best:
        return f"{told}."
    return f"{told}; {worst.label} the least: {rate(worst.poisson) if worst.poisson else 'none'}."


def _draw(known: Sequence[Rates], ceilings: Sequence[Caller], width: int) -> Spec:
    names = [each.label for each in known]
    totals = [each.poisson_in_words for each in known]
    drawn = {entry for each in known for _, entry in each.marks} | ({CEILING} if ceilings else set())
    entries = [entry for entry in (POISSON, SATURATION, OFFLINE, CEILING) if entry in drawn]
    frame = row_frame(width, names, totals)
    _, lines = legend(entries, width - frame.left - frame.right, frame.left)
    frame = row_frame(width, names, totals, legend_lines=lines)
    across = width - frame.left - frame.right
    rates = [value for each in known for value, _ in each.marks]
    x = log_axis([*rates, *(caller.requests_per_second for caller in ceilings)], across, room=0.04)
    layers = [
        _spans(known, quantity("from", x, "inferences/s")),
        _ceilings(ceilings, x),
        _marks(known, x),
        row_names(names, frame),
        row_totals(totals, across),
        *legend(entries, across, frame.left)[0],
    ]
    return spec(width, ROW * len(known), frame, layers)


def _ceilings(ceilings: Sequence[Caller], x: Axis) -> Spec:
    rows = [
        {
            "value": caller.requests_per_second,
            "tip": f"the caller itself, requests of {show_number(caller.request_bytes / 1e3)} kB: "
            f"{show_number(caller.requests_per_second)} requests/s",
        }
        for caller in ceilings
    ]
    return {
        "data": values(rows),
        "mark": {"type": "rule", "color": INK.light, "strokeWidth": 1.5, "strokeDash": [5, 4]},
        "encoding": {"x": bare("value", x), "description": {"field": "tip"}},
    }


def _spans(known: Sequence[Rates], channel: Spec) -> Spec:
    rows = [
        {"from": min(each.marks, key=_value)[0], "to": max(each.marks, key=_value)[0], "row": row + 0.5}
        for row, each in enumerate(known)
    ]
    return {
        "data": values(rows),
        "mark": {"type": "rule", "color": LINE.light, "strokeWidth": 1.5},
        "encoding": {"x": channel, "x2": {"field": "to"}, "y": row_channel("row", len(known))},
    }


def _value(mark: tuple[float, Entry]) -> float:
    return mark[0]


def _marks(known: Sequence[Rates], x: Axis) -> Spec:
    rows = [
        {
            "value": value, "row": row + 0.5, "paint": entry.paint.light, "shape": entry.shape,
            "tip": f"{each.label}, {entry.text}: {rate(value)}",
        }
        for row, each in enumerate(known)
        for value, entry in each.marks
    ]  # fmt: skip
    return {
        "data": values(rows),
        "mark": {"type": "point", "filled": True, "size": 95, "opacity": 0.95},
        "encoding": {
            "x": bare("value", x),
            "y": row_channel("row", len(known)),
            "color": {"field": "paint", "scale": None},
            "shape": {"field": "shape", "scale": None},
            "description": {"field": "tip"},
        },
    }

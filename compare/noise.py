"""Whether a figure changed beyond the noise from one comparison to another.

Exact figures (bytes on disk, parameters, operations, failed requests) have no noise. A share (accuracy, agreement) has
the binomial's: twice the standard error of the difference of both. A figure that rounds measured has changed where the
two ranges of rounds do not overlap and the typical values differ by more than the larger spread (highest less lowest
round) and by more than `FLOOR`, or `FLOOR_OF_FEW` where either side has fewer than `ENOUGH_ROUNDS` rounds. Where a
machine was busy the load differs from run to run more than from round to round: the spread counts twice, the floor is
that of few rounds. The highest rate under a bound is known no better than its search left open (`Server.gap`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compare.cost import CostCard
from compare.figures import Direction, Figure, Value

FLOOR = 0.03
"""Of the old value: rounds of one run lie closer to each other than two runs do."""
FLOOR_OF_FEW = 0.15
"""The same where there are too few rounds to know their spread, or a machine was busy."""
ENOUGH_ROUNDS = 3
BUSY_SPREADS = 2
STANDARD_ERRORS = 2.0

Verdict = Literal["better", "worse", "within noise", "same", "not comparable"]


@dataclass(frozen=True)
class Change:
    """One figure of one model, then and now.

    Attributes:
        model: its name.
        figure: its name in `compare.figures`, with its unit.
        better: which direction is.
        old: typically, in base units.
        new: typically.
        noise: how much the figure may change without saying anything, in base units.
        verdict: what the change means.
    """

    model: str
    figure: str
    better: Direction
    old: float
    new: float
    noise: float
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """New to old; None where the old one is 0."""
        return self.new / self.old if self.old else None

    @property
    def worse_percent(self) -> float:
        """By how much of the old value it became worse, in percent; negative where it became better."""
        loss = self.new - self.old if self.better == "less" else self.old - self.new
        if self.old:
            return 100 * loss / abs(self.old)
        return math.copysign(math.inf, loss) if loss else 0.0


def change(figure: Figure, old: CostCard, new: CostCard, *, busy: bool = False) -> Change | None:
    """Return how a figure changed, measured on machines of which one was busy or none; None where a card lacks it."""
    was, is_now = figure.value(old), figure.value(new)
    if was is None or is_now is None:
        return None
    if figure.counted:
        noise = share_noise(was.typical, figure.counted(old), is_now.typical, figure.counted(new))
    else:
        noise = _noise(figure, was, is_now, busy=busy)
    if figure.name == "highest_rate_per_second" and old.server and new.server:
        noise = max(noise, old.server.gap, new.server.gap)
    verdict = _verdict(figure, was, is_now, noise) if figure.basis(old) == figure.basis(new) else "not comparable"
    return Change(new.model, figure.name, figure.better, was.typical, is_now.typical, noise, verdict)


def share_noise(one: float, count: int, other: float, other_count: int) -> float:
    """Return by how much two shares, each of so many, may differ by chance: twice the standard error (the binomial's)."""
    return STANDARD_ERRORS * math.sqrt(one * (1 - one) / count + other * (1 - other) / other_count)


def _noise(figure: Figure, was: Value, is_now: Value, *, busy: bool) -> float:
    """Return by how much what was measured may differ for no reason, in base units."""
    if not was.rounds and not is_now.rounds:
        return figure.resolution
    few = min(len(was.rounds), len(is_now.rounds)) < ENOUGH_ROUNDS
    floor = (FLOOR_OF_FEW if few or busy else FLOOR) * abs(was.typical)
    spread = max(was.high - was.low, is_now.high - is_now.low)
    return max(floor, BUSY_SPREADS * spread if busy else spread, figure.resolution)


def _verdict(figure: Figure, was: Value, is_now: Value, noise: float) -> Verdict:
    if was.typical == is_now.typical:
        return "same"
    overlap = was.low <= is_now.high and is_now.low <= was.high
    if abs(is_now.typical - was.typical) <= noise or (overlap and bool(was.rounds or is_now.rounds)):
        return "within noise"
    fell = is_now.typical < was.typical
    return "better" if fell == (figure.better == "less") else "worse"

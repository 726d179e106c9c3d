"""The search of the highest rate that meets a bound, when each try is noisy and costs seconds."""

from __future__ import annotations

from collections import Counter
from math import inf, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from compare.cost import Probe

TIGHT = 1.05
"""Where failed and met rates are this close (their ratio), halving the distance is less than the noise of a try."""


def highest_rate(
    attempt: Callable[[float], Probe], *, first: float, tries: int, at_most: float = inf, step: float = 2.0
) -> tuple[float, tuple[Probe, ...]]:
    """Return the highest rate that met the bound, 0.0 where none did, and all tries in order.

    From `first` it goes up by `step` while the bound is met, to `at_most` if need be, or down until it is; then it tries the geometric mean of the
    highest rate that met and the lowest above it that failed. A try can fail by what else the machine did. So, once
    the two are `TIGHT`, the failed rate is tried once more: if it fails again, the search is over; if it is met, it is
    the highest, and the search goes on above it. A try that meets the bound by luck is believed: it was shown once; that
    is what rounds and their median are for.

    Args:
        attempt: tries a rate, requests for each second, and says whether it met the bound.
        first: the rate to begin with, above 0.
        tries: at most as many attempts.
        at_most: no rate above it is tried: what a server cannot keep up with, a short try may yet absorb as a backlog.
        step: the ratio, above 1, of one rate to the next until one met the bound and one failed.
    """
    search = _Search(min(first, at_most), at_most, step)
    probes: list[Probe] = []
    while len(probes) < tries and (rate := search.next_rate()) is not None:
        probes.append(attempt(rate))
        search.learn(rate, met=probes[-1].met)
    return search.met, tuple(probes)


class _Search:
    """What is known: the highest rate that met the bound, and how often which rates failed."""

    def __init__(self, first: float, at_most: float, step: float) -> None:
        self.first = first
        self.at_most = at_most
        self.step = step
        self.met = 0.0
        self.failed: Counter[float] = Counter()

    def learn(self, rate: float, *, met: bool) -> None:
        if met:
            self.met = rate
        else:
            self.failed[rate] += 1

    def next_rate(self) -> float | None:
        """Return what to try next; None where there is no more to learn."""
        if not self.met:
            return min(self.failed, default=self.step * self.first) / self.step
        failed = min((rate for rate in self.failed if rate > self.met), default=inf)
        if failed == inf:
            return min(self.step * self.met, self.at_most) if self.met < self.at_most else None
        if failed / self.met > TIGHT:
            return sqrt(self.met * failed)
        return failed if self.failed[failed] == 1 else None

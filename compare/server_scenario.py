"""MLPerf's Server scenario for one model in one round: the highest Poisson rate whose p99 stays under a bound."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.bisection import highest_rate
from compare.cold_start import first_answer_seconds
from compare.cost import Probe
from compare.poisson import poisson
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.poisson import Arrivals

FIRST_SHARE = 0.7
"""Of the throughput at saturation: where the search begins in the first round."""
SEEDS_EACH_ROUND = 1000
HOPELESS_REQUESTS = 10.0
"""Over a try's time, where one answer at a single caller takes longer than the bound: one try shows it."""


@dataclass(frozen=True)
class Start:
    """Where a search begins.

    Attributes:
        rate: requests for each second.
        at_most: inferences for each second that the server reached when it was kept busy; no rate above it lasts.
        step: the ratio of one rate to the next, until one kept the bound and one did not.
    """

    rate: float
    at_most: float
    step: float = 2.0


def search(
    address: str,
    requests: Sequence[bytes],
    *,
    bound_seconds: float,
    start: Start,
    tries: int,
    seconds: float,
    number: int,
    seed: int,
) -> tuple[float, tuple[Probe, ...]]:
    """Return the highest rate, requests for each second, whose p99 stays under the bound, and all tries.

    Args:
        address: of the server.
        requests: single samples.
        bound_seconds: the p99 that the rate must keep.
        start: where the search begins, and where it must end.
        tries: at most so many.
        seconds: over which one try's requests are due: about, so that they are as many as the rate says.
        number: of the round; with `seed` it fixes when requests are due.
        seed: of the comparison.
    """
    seeds = iter(range(seed + SEEDS_EACH_ROUND * number, seed + SEEDS_EACH_ROUND * (number + 1)))

    def attempt(rate: float) -> Probe:
        chosen = next(seeds)
        span = max(1, round(rate * seconds)) / rate
        arrivals = poisson(address, requests, rate, span, seed=chosen, give_up_seconds=bound_seconds)
        if arrivals.gave_up:
            with suppress(NetweightError):  # a full queue refuses it
                first_answer_seconds(address, requests[0])  # it comes when what was given up has left the server
        return probe(arrivals, bound_seconds, number, chosen)

    return highest_rate(attempt, first=start.rate, tries=tries, at_most=start.at_most, step=start.step)


def begin_with(throughput: float, p50_seconds: float, bound_seconds: float, try_seconds: float) -> float:
    """Return the rate to begin with: a share of what the server reaches, or what shows that no rate can do."""
    if p50_seconds > bound_seconds:
        return min(HOPELESS_REQUESTS / try_seconds, FIRST_SHARE * throughput)
    return FIRST_SHARE * throughput


def probe(arrivals: Arrivals, bound_seconds: float, number: int, seed: int) -> Probe:
    """Return what a try came to."""
    p99 = arrivals.percentile(99)
    whole = not arrivals.gave_up and arrivals.answered == arrivals.sent
    return Probe(
        round=number,
        rate=arrivals.rate,
        seed=seed,
        seconds=arrivals.seconds,
        sent=arrivals.sent,
        answered=arrivals.answered,
        p99_seconds=p99 if math.isfinite(p99) else None,
        lateness_p99_seconds=arrivals.lateness_percentile(99),
        met=whole and p99 <= bound_seconds,
    )

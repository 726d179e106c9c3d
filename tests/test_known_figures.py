"""Each figure of a cost card that a clock takes, against a server whose service times are known.

Lower bounds are exact: the server sleeps no less than its service time, and the caller's clock runs from before it to
after it, so that no measured latency may be below the theory's, nor any rate above it. Upper bounds say how much the
caller, gRPC and the wire add: `WIRE_SECONDS` for a median. An idle machine adds 1 to 2.5 ms with this server in Python, in the
caller's own process; the tests allow for one that has other work.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compare import server_scenario
from compare.cost import Latencies
from compare.energy import EnergyMeter
from compare.load import Window, one_at_a_time
from compare.place import Place
from compare.plan import QUICK
from compare.poisson import poisson, schedule
from compare.windows import Windows, percentile, rate
from tests.known_queue import latencies, once_more, wait_probability
from tests.known_server import one_by_one

WIRE_SECONDS = 0.008
"""What the caller and gRPC may add to a median."""
LATE_SECONDS = 0.04
"""What they may add to a 99th percentile."""
EXACT = 1e-6
"""Seconds; of the rounding of clocks."""
PLAN = replace(QUICK, seconds=0.8, rounds=1, replies=1, curve_seconds=0.3, offline_seconds=0.7, warm_up_seconds=0.1)


def windows(address: str, requests: dict[int, list[bytes]], *, callers: int = 8, **plan: Any) -> Windows:
    """Return the windows that a comparison runs, against a server that is no model's."""
    subject: Any = SimpleNamespace(
        name="known", single=requests[1], requests=requests, callers=callers, largest_batch=max(requests)
    )
    return Windows(Place(address, None), subject, replace(PLAN, **plan), EnergyMeter({}, {}, None))


def nearest_rank(samples: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(samples, percent, method="inverted_cdf"))


@once_more
def test_latency_percentiles() -> None:
    """Of a hundred requests 85 take 10 ms, ten 20 ms and five 40 ms: those are p50, p90 and p99 by nearest rank."""
    seconds = {b"%d" % n: 0.01 if n < 85 else 0.02 if n < 95 else 0.04 for n in range(100)}
    with one_by_one(seconds.__getitem__) as server:
        load, _ = windows(server.address, {1: list(seconds)}, replies=100, seconds=1.2).one_caller()
    seen = Latencies((tuple(load.latencies.tolist()),))
    assert seen.count == 100
    for percent, expected, late in ((50, 0.01, WIRE_SECONDS), (90, 0.02, 2 * WIRE_SECONDS), (99, 0.04, LATE_SECONDS)):
        assert expected <= seen.percentile(percent) <= expected + late


@once_more
def test_saturation() -> None:
    """Eight callers at a server that takes 20 ms, one at a time: 50/s, and each waits for seven others and itself."""
    with one_by_one(lambda _: 0.02) as server:
        load, _ = windows(server.address, {1: [b"request"]}).saturation()
    assert 0.9 * 50 < rate(load) <= 50
    assert 8 * 0.02 - WIRE_SECONDS <= percentile(load, 50) <= 8 * 0.02 + WIRE_SECONDS


@once_more
def test_batches_and_offline() -> None:
    """A request takes 8 ms, and each sample in it 3 ms more: every point of the curve is on that line."""

    def service_seconds(request: bytes) -> float:
        return 0.008 + 0.003 * len(request)

    requests = {batch: [bytes(batch)] for batch in (1, 4, 16)}
    with one_by_one(service_seconds) as server:
        measure = windows(server.address, requests)
        for batch in (1, 4, 16):
            load, seconds = measure.batches(batch), service_seconds(bytes(batch))
            assert seconds <= percentile(load, 50) <= seconds + WIRE_SECONDS
            assert batch / (seconds + WIRE_SECONDS) <= rate(load, batch) <= batch / seconds
        offline = rate(measure.offline(), 16)
    assert 0.9 * 16 / service_seconds(bytes(16)) <= offline <= 16 / service_seconds(bytes(16))


def test_theory_of_poisson_arrivals() -> None:
    """The schedule and the recursion, without a server, give M/D/1's waiting times: Crommelin's, within one in a hundred.

    So what the next tests compare with is the queue that the books know. The error is that of 200,000 arrivals which
    depend on each other; the mean wait is Pollaczek's and Khinchine's, within 5 %.
    """
    rate_, service = 40.0, 0.02
    due = schedule(rate_, 5000.0, seed=9)
    waits = latencies(due, [service] * due.size) - service
    for wait in (0.0, 0.01, 0.03, 0.06, 0.1, 0.15):
        assert (waits <= wait + 1e-9).mean() == pytest.approx(wait_probability(wait, rate_, service), abs=0.01)
    load = rate_ * service
    assert waits.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


@once_more
def test_poisson_latencies() -> None:
    """At 80 % load every single request has the latency that the recursion gives it, from the moment it was due.

    No request ends before its turn: in order, the moments of the replies are at or after the recursion's. (Two requests
    that come within a millisecond may change places in the server; in order, the moments stay the same.) Upper bounds
    are for the recursion over the moments when requests were really sent: where the caller was late it says so.
    """
    with one_by_one(lambda _: 0.02) as server:
        seen = poisson(server.address, [b"request"], 40.0, 2.5, seed=11)
    least = latencies(seen.due, [0.02] * seen.sent)
    expected = latencies(seen.due + seen.lateness, [0.02] * seen.sent) + seen.lateness
    assert seen.answered == seen.sent == 100
    assert least.max() > 0.08  # there was a queue
    assert (np.sort(seen.due + seen.latencies) - np.sort(seen.due + least)).min() >= -EXACT
    late = np.sort(seen.due + seen.latencies) - np.sort(seen.due + expected)
    assert np.median(late) < WIRE_SECONDS
    assert np.quantile(late, 0.9) < LATE_SECONDS
    for percent in (50, 90, 99):
        assert nearest_rank(least, percent) - EXACT <= seen.percentile(percent)
        assert seen.percentile(percent) <= nearest_rank(expected, percent) + LATE_SECONDS


@once_more
def test_stall_is_not_hidden() -> None:
    """A server that stalls for 300 ms once: the open loop shows all that were due meanwhile, as the recursion says.

    The same server and stall under one caller in a closed loop: one slow request, and a p90 that knows nothing of it.
    """
    requests = [b"%d" % number for number in range(100)]
    seconds = {request: 0.3 if request == b"20" else 0.002 for request in requests}
    with one_by_one(seconds.__getitem__) as server:
        seen = poisson(server.address, requests, 100.0, 1.0, seed=12)
        closed = one_at_a_time(server.address, requests, Window(0.0, 100, 10.0), warm_up_seconds=0.0)
    expected = latencies(seen.due + seen.lateness, seconds.values()) + seen.lateness
    waited = latencies(seen.due, seconds.values()) > 0.1
    assert waited.sum() > 12
    assert np.abs(seen.latencies - expected)[waited].max() < LATE_SECONDS
    assert seen.percentile(90) > 0.1
    assert (closed.latencies > 0.1).sum() <= 3
    assert closed.latencies.max() > 0.3
    assert percentile(closed, 90) < 0.06


@once_more
def test_highest_rate() -> None:
    """The highest Poisson rate with p99 under 80 ms at a server that takes 20 ms: what the recursion says for its seeds.

    Each try's p99 is the recursion's, never below it. So the rate found keeps the bound in theory too; and each try that
    failed would have failed with a bound tighter by `LATE_SECONDS` and by how late the caller was, which is the error of
    the search.
    """
    bound, service, seconds = 0.08, 0.02, 0.8

    def theory(rate_: float, seed: int) -> float:
        due = schedule(rate_, max(1, round(rate_ * seconds)) / rate_, seed)
        return nearest_rank(latencies(due, [service] * due.size), 99)

    with one_by_one(lambda _: service) as server:
        start = server_scenario.Start(25.0, at_most=1000.0)
        highest, probes = server_scenario.search(
            server.address, [b"request"], bound_seconds=bound, start=start, tries=5, seconds=seconds, number=0, seed=13
        )
    assert {True, False} == {each.met for each in probes}
    assert highest == max(each.rate for each in probes if each.met) < 1 / service
    for each in probes:
        expected, error = theory(each.rate, each.seed), LATE_SECONDS + 2 * each.lateness_p99_seconds
        assert (expected <= bound) if each.met else (expected > bound - error)
        if each.p99_seconds is not None:
            assert expected - EXACT <= each.p99_seconds <= expected + error

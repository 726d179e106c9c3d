"""Open-loop callers: when they send, and what their latencies count from, beside servers whose service time is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compare.alarm import Alarm
from compare.load import run
from compare.poisson import poisson, schedule
from tests.known_server import known_server, one_by_one

REQUESTS = [b"first", b"second", b"third"]


def test_schedule_is_poisson() -> None:
    """The gaps of 100,000 arrivals are exponential (Kolmogorov-Smirnov distance), and counts vary as a Poisson clock's."""
    due = schedule(1000.0, 100.0, seed=5)
    gaps = np.sort(np.diff(due))
    expected = 1 - np.exp(-gaps * 1000.0)
    assert np.abs(expected - np.linspace(0, 1, gaps.size)).max() < 0.005  # 1.36 / sqrt(n) is 0.0043, at 5 %
    counts = np.histogram(due, bins=10_000, range=(0, 100))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.06)


@given(rate=st.floats(0.01, 5000), seconds=st.floats(0.1, 10), seed=st.integers(0, 2**63 - 1))
def test_schedule_is_told_by_its_seed(rate: float, seconds: float, seed: int) -> None:
    """As many requests as rate and seconds say, at least one, ascending within the seconds; the same each time."""
    due = schedule(rate, seconds, seed)
    assert due.size == max(1, round(rate * seconds))
    assert (np.diff(due) >= 0).all()
    assert 0 <= due[0] <= due[-1] <= seconds
    assert (due == schedule(rate, seconds, seed)).all()
    assert (due != schedule(rate, seconds, seed + 1)).any()


def test_nobody_waits_for_replies() -> None:
    """Ten requests are under way at once where the server takes longer than they take to become due."""
    with known_server(lambda _: 0.6) as server:
        seen = poisson(server.address, REQUESTS, 40.0, 0.25, seed=1)
    assert server.most_at_once == len(server.requests) == seen.sent == seen.answered == 10
    assert sorted(server.requests) == sorted([b"first"] * 4 + [b"second"] * 3 + [b"third"] * 3)
    assert not seen.gave_up
    assert seen.seconds == seen.due[-1]


class Slow(Sequence[bytes]):
    """Requests of which the 20th takes the caller a tenth of a second to bring."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, number: Any) -> Any:
        time.sleep(0.1 if number == 20 else 0.0)
        return b"request"


def test_latency_counts_from_the_moment_due() -> None:
    """Where the caller itself is late, that is in the latencies of all requests that were due meanwhile, and is told."""
    with known_server() as server:
        seen = poisson(server.address, Slow(), 200.0, 0.5, seed=2)
    assert seen.answered == 100
    assert (seen.latencies >= seen.lateness).all()
    blocked = (seen.due >= seen.due[20]) & (seen.due < seen.due[20] + 0.1)
    assert blocked.sum() > 10
    remaining = seen.due[20] + 0.1 - seen.due[blocked]
    assert (seen.lateness[blocked] >= remaining - 1e-9).all()
    assert seen.lateness.max() == pytest.approx(0.1, abs=0.05)
    assert seen.lateness_percentile(100) == seen.lateness.max()


def test_refused_requests_have_no_latency() -> None:
    """A reply with another status is an error with its name, and an infinite latency: the p99 of many is infinite."""
    refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
    with known_server(status=lambda number: refuse if number % 3 == 1 else None) as server:
        seen = poisson(server.address, REQUESTS, 100.0, 0.3, seed=3)
    assert seen.errors == {"RESOURCE_EXHAUSTED": 10}
    assert (seen.sent, seen.answered, seen.error_count) == (30, 20, 10)
    assert seen.first_error is not None
    assert seen.first_error.startswith("RESOURCE_EXHAUSTED: request ")
    assert np.isinf(seen.latencies).sum() == 10
    assert seen.percentile(60) < np.inf == seen.percentile(99)
    assert not seen.gave_up


def test_empty_replies_are_no_replies() -> None:
    """A reply of status OK without a byte, as no model answers, is an error and has no latency."""
    with known_server() as server:
        server.reply = b""
        seen = poisson(server.address, REQUESTS, 50.0, 0.1, seed=9)
    assert seen.errors == {"EMPTY": 5}
    assert seen.answered == 0


def test_gives_up_when_there_is_no_hope() -> None:
    """Twice what the server can do, for a minute: it ends once the p99 can't be kept, far from the minute's end."""
    began = time.monotonic()
    with one_by_one(lambda _: 0.02) as server:
        seen = poisson(server.address, REQUESTS, 100.0, 60.0, seed=4, give_up_seconds=0.2)
    assert time.monotonic() - began < 20
    assert seen.gave_up
    assert 60 < seen.sent < 2000
    assert seen.answered < seen.sent
    assert seen.percentile(99) == np.inf
    assert not seen.errors


def test_goes_on_where_there_is_hope() -> None:
    """One slow reply in two hundred leaves the p99 as it is: all are waited for."""
    with known_server(lambda number: 0.5 if number == 50 else 0.0) as server:
        seen = poisson(server.address, REQUESTS, 400.0, 0.5, seed=5, give_up_seconds=0.4)
    assert not seen.gave_up
    assert seen.sent == seen.answered == 200
    assert seen.latencies.max() >= 0.5


def test_gives_up_on_a_server_that_says_nothing() -> None:
    """A server that never answers is left after the bound, with every request unanswered."""
    with known_server(lambda _: 3.0) as server:
        seen = poisson(server.address, REQUESTS, 50.0, 0.2, seed=6, give_up_seconds=0.1)
    assert seen.gave_up
    assert seen.answered == 0
    assert np.isinf(seen.latencies).all()


def test_connections() -> None:
    """Requests take the connections in turn."""
    with known_server() as server:
        poisson(server.address, REQUESTS, 100.0, 0.2, seed=7, connections=2)
        assert len(server.peers) == 2
        assert len(server.requests) == 20


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens every request is an error, and none is answered."""
    monkeypatch.setattr("compare.poisson.CONNECT_SECONDS", 0.1)
    seen = poisson("127.0.0.1:1", REQUESTS, 50.0, 0.2, seed=8)
    assert set(seen.errors) == {"UNAVAILABLE"}
    assert (seen.sent, seen.answered) == (10, 0)


def test_alarm() -> None:
    """It never wakes early, seldom late by more than a few milliseconds, and sleeps without the CPU."""
    late = []

    async def wake() -> None:
        with Alarm() as alarm:
            for _ in range(100):
                moment = time.perf_counter() + 0.0051
                await alarm.sleep_until(moment)
                late.append(time.perf_counter() - moment)
            await alarm.sleep_until(0.0)  # the past: at once

    began, used = time.perf_counter(), time.process_time()
    run(wake())
    assert min(late) >= 0
    assert np.median(late) < 0.005
    assert time.process_time() - used < 0.5 * (time.perf_counter() - began)


def test_alarm_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Linux's timers it sleeps by the event loop's, and is never early either."""
    monkeypatch.setattr("compare.alarm.sys.platform", "darwin")
    late = []

    async def wake() -> None:
        with Alarm() as alarm:
            for _ in range(20):
                moment = time.perf_counter() + 0.0023
                await alarm.sleep_until(moment)
                late.append(time.perf_counter() - moment)

    run(wake())
    assert min(late) >= 0

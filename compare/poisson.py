"""Callers that nobody holds back: requests by a Poisson clock, whether or not earlier ones were answered (open loop).

A caller that waits for its reply before it asks again is silent while the server stalls, so that the stall is one slow
request among many. Here each request has a moment when it is due, and its latency counts from then: whatever delays it,
a queue in the server or the caller's own lateness, is in its latency, and so in those of all that were due meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import grpc
import numpy as np

from compare.alarm import Alarm
from compare.load import CHANNEL_OPTIONS, METHOD, REPLY_TIMEOUT_SECONDS, run
from compare.measure import nearest_rank

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

PERCENT = 99.0
"""The percentile that a bound is for: `give_up_seconds` is about it."""
CONNECT_SECONDS = 1.0
"""In which a server that listens takes a connection."""
START_SECONDS = 0.02
"""From connecting to the moment that due times count from."""


@dataclass(frozen=True, eq=False)
class Arrivals:
    """What became of the requests of one open-loop run.

    Attributes:
        rate: requests for each second that were asked for.
        due: float64 [planned], seconds after the start, ascending: all that were planned.
        latencies: float64 [sent], seconds from the moment due to the reply's bytes, in the order of due times; infinite
            where no reply with status OK came.
        lateness: float64 [sent], seconds from the moment due to the moment sent: the caller's own part of the latency.
        errors: requests that ended with another status, by its name; those given up are not among them.
        first_error: status and message of the first of them.
    """

    rate: float
    due: NDArray[np.float64]
    latencies: NDArray[np.float64]
    lateness: NDArray[np.float64]
    errors: dict[str, int]
    first_error: str | None

    @property
    def sent(self) -> int:
        """Requests that were sent: fewer than planned where it gave up."""
        return int(self.latencies.size)

    @property
    def answered(self) -> int:
        """Requests that were answered with status OK."""
        return int(np.isfinite(self.latencies).sum())

    @property
    def error_count(self) -> int:
        """Requests that ended with another status."""
        return sum(self.errors.values())

    @property
    def gave_up(self) -> bool:
        """Whether it ended early, because the bound could not be kept any more."""
        return self.sent < self.due.size or self.answered + self.error_count < self.sent

    @property
    def seconds(self) -> float:
        """Over which requests were due, those that were sent."""
        return float(self.due[self.sent - 1]) if self.sent else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency at `percent` (0..100) of what was sent, nearest rank; infinite where that is unanswered."""
        return nearest_rank(self.latencies, percent)

    def lateness_percentile(self, percent: float) -> float:
        """Return the caller's lateness at `percent` (0..100), nearest rank."""
        return nearest_rank(self.lateness, percent)


def schedule(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Return when requests are due: float64 [round(rate * seconds)], at least one, ascending, within `seconds`.

    The gaps are exponential, scaled so that exactly as many fall into `seconds`: a Poisson process, given how many
    arrivals it has. Without that, a try of three seconds at 20/s would hold 60 requests give or take 8, and the search
    would measure by how much the rate was another. The same rate, seconds and seed give the same moments.
    """
    count = max(1, round(rate * seconds))
    ends = np.cumsum(np.random.default_rng(seed).standard_exponential(count + 1))
    return np.asarray(ends[:-1] / ends[-1] * seconds, np.float64)


def poisson(
    address: str,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    seed: int,
    give_up_seconds: float | None = None,
    connections: int = 1,
) -> Arrivals:
    """Send `requests` in turn at a Poisson rate for some seconds, and return what became of them.

    Args:
        address: host and port of the server.
        requests: serialised ModelInferRequests.
        rate: requests for each second.
        seconds: over which they are due; the replies to the last ones are waited for.
        seed: of the moments when they are due.
        give_up_seconds: end as soon as more than one in a hundred requests of the plan is known to take longer, or to
            fail, so that nothing that comes can mend the p99; None: never.
        connections: requests take them in turn.
    """
    due = schedule(rate, seconds, seed)
    return run(_run(address, requests, rate, due, give_up_seconds, connections))


async def _run(
    address: str,
    requests: Sequence[bytes],
    rate: float,
    due: NDArray[np.float64],
    give_up_seconds: float | None,
    connections: int,
) -> Arrivals:
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(connections):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS))
            await _connect(channel)
            calls.append(cast("Callable[..., Awaitable[bytes]]", channel.unary_unary(METHOD, None, None)))
        run = _Run(due, give_up_seconds)
        await run.send_all(calls, requests)
        return run.arrivals(rate)


async def _connect(channel: grpc.aio.Channel) -> None:
    """Wait for the connection, so that no request pays for it; where nobody listens, requests will say so."""
    try:
        await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
    except TimeoutError:
        return


class _Run:
    """The books of one run: what was sent, answered, late; and whether there is still hope."""

    def __init__(self, due: NDArray[np.float64], give_up_seconds: float | None) -> None:
        self.due = due
        self.give_up_seconds = give_up_seconds
        self.allowed = due.size - int(np.ceil(due.size * PERCENT / 100))
        self.latencies = np.full(due.size, np.inf)
        self.lateness = np.zeros(due.size)
        self.sent = self.over = 0
        self.errors: Counter[str] = Counter()
        self.first_error: str | None = None
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.hopeless = asyncio.Event()

    async def send_all(self, calls: Sequence[Callable[..., Awaitable[bytes]]], requests: Sequence[bytes]) -> None:
        """Send each request when it is due, then wait for replies, until there is no hope."""
        self.start = time.perf_counter() + START_SECONDS
        watch = asyncio.create_task(self._watch())
        with Alarm() as alarm:
            for number, moment in enumerate(self.due.tolist()):
                await alarm.sleep_until(self.start + moment)
                if self.hopeless.is_set():
                    break
                request, call = requests[number % len(requests)], calls[number % len(calls)]
                self.tasks[number] = asyncio.create_task(self._ask(number, call, request))
                await asyncio.sleep(0)  # even in a burst, replies that are there are taken
        given_up = asyncio.create_task(self.hopeless.wait())
        while self.tasks and not self.hopeless.is_set():
            await asyncio.wait({given_up, *self.tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        await _cancel(watch, given_up, *self.tasks.values())

    async def _ask(self, number: int, call: Callable[..., Awaitable[bytes]], request: bytes) -> None:
        due = self.start + self.due[number]
        self.lateness[number] = time.perf_counter() - due
        self.sent = number + 1
        try:
            content = await call(request, timeout=REPLY_TIMEOUT_SECONDS)
            latency = time.perf_counter() - due
            if content:
                self.latencies[number] = latency
            else:
                self._error("EMPTY", "the status is OK but the reply has no bytes")
        except grpc.aio.AioRpcError as error:
            self._error(error.code().name, error.details() or "")
        finally:
            del self.tasks[number]
        if self.give_up_seconds is not None and self.latencies[number] > self.give_up_seconds:
            self.over += 1
            if self.over > self.allowed:
                self.hopeless.set()

    def _error(self, code: str, details: str) -> None:
        self.errors[code] += 1
        self.first_error = self.first_error or f"{code}: {details}"

    async def _watch(self) -> None:
        """Look now and then for requests that have waited too long for any answer to help."""
        if self.give_up_seconds is None:
            return
        while not self.hopeless.is_set():
            await asyncio.sleep(max(0.05, self.give_up_seconds / 4))
            latest = time.perf_counter() - self.start - self.give_up_seconds
            waiting = sum(self.due[number] < latest for number in self.tasks)
            if self.over + waiting > self.allowed:
                self.hopeless.set()

    def arrivals(self, rate: float) -> Arrivals:
        """Return the books, closed."""
        sent = slice(self.sent)
        return Arrivals(rate, self.due, self.latencies[sent], self.lateness[sent], dict(self.errors), self.first_error)


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Requests that wait: deadlines, cancellation, time in the queue, priorities. Statistics tell what was executed.

`slow` runs requests one by one, so that those behind the first ones wait. No time is measured.
"""

from __future__ import annotations

import asyncio
import queue
import time
from typing import Any

import pytest
import tritonclient.grpc.aio

from tests.conformance.case import PATIENCE_SECONDS
from tests.conformance.conftest import Target
from tests.conformance.streams import SLOW
from tests.conformance.ways import ANSWER_SECONDS, failure

BUSY = 4
"""Requests that keep `slow` busy while others wait."""
SHORT_SECONDS = 0.05
"""Less than those take."""


class Caller:
    """Sends requests to `slow` without waiting; keeps what came, in its order."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.came: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def send(self, name: str, **options: Any) -> Any:
        """Send a request; its name and status will come."""

        def done(result: Any, error: Any) -> None:
            self.came.put((name, "OK" if error is None else failure(error).status))

        return self.client.async_infer(callback=done, **{**SLOW.send, **options})

    def answers(self, count: int) -> list[tuple[str, str]]:
        """Wait for so many answers."""
        return [self.came.get(timeout=ANSWER_SECONDS) for _ in range(count)]

    def executed(self, model: str = "slow") -> int:
        """Return how many samples a model has run."""
        (figures,) = self.client.get_inference_statistics(model).model_stats
        return int(figures.inference_count)

    def after_the_busy_ones(self, before: int) -> int:
        """Wait for what is queued, by one request more; return how many ran since, without it and the busy ones."""
        self.client.infer(**SLOW.send)
        until = time.monotonic() + PATIENCE_SECONDS  # other servers answer first and count then
        while self.executed() < before + BUSY + 1 and time.monotonic() < until:
            time.sleep(0.02)
        return self.executed() - before - BUSY - 1


@pytest.fixture
def caller(client: Any) -> Caller:
    """One caller, whose requests come to the server in the order in which they are sent."""
    return Caller(client)


@pytest.fixture
def busy(caller: Caller) -> int:
    """`slow` has work; return how many samples it had run before."""
    before = caller.executed()
    for number in range(BUSY):
        caller.send(f"busy {number}")
    return before


def test_a_deadline_that_passes_in_the_queue(caller: Caller, busy: int) -> None:
    """The caller gets DEADLINE_EXCEEDED, and the request is not executed."""
    caller.send("late", client_timeout=SHORT_SECONDS)
    assert ("late", "DEADLINE_EXCEEDED") in caller.answers(BUSY + 1)
    assert caller.after_the_busy_ones(busy) == 0


def test_a_caller_that_waits_gets_deadline_exceeded(client: Any, busy: int, caller: Caller) -> None:
    """`infer` with client_timeout raises the same."""
    with pytest.raises(tritonclient.grpc.InferenceServerException) as caught:
        client.infer(**SLOW.send, client_timeout=SHORT_SECONDS)
    assert failure(caught.value).status == "DEADLINE_EXCEEDED"
    assert [status for _, status in caller.answers(BUSY)] == ["OK"] * BUSY
    assert caller.after_the_busy_ones(busy) == 0


def test_a_task_that_waits_gets_deadline_exceeded(target: Target, busy: int, caller: Caller) -> None:
    """So it does by asyncio."""

    async def run() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(target.address) as other:
            await other.infer(**SLOW.send, client_timeout=SHORT_SECONDS)

    with pytest.raises(tritonclient.grpc.InferenceServerException) as caught:
        asyncio.run(run())
    assert failure(caught.value).status == "DEADLINE_EXCEEDED"
    assert [status for _, status in caller.answers(BUSY)] == ["OK"] * BUSY
    assert caller.after_the_busy_ones(busy) == 0


def test_a_cancelled_request_is_not_executed(caller: Caller, busy: int) -> None:
    """A caller that cancels while its request waits gets CANCELLED, and the model never sees it."""
    caller.send("cancelled").cancel()
    assert ("cancelled", "CANCELLED") in caller.answers(BUSY + 1)
    assert caller.after_the_busy_ones(busy) == 0


def test_a_cancelled_task_is_not_executed(target: Target, caller: Caller, busy: int) -> None:
    """By asyncio: a task that is cancelled takes its request back."""

    async def run() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(target.address) as client:
            await client.is_server_live()
            task = asyncio.ensure_future(client.infer(**SLOW.send))
            await asyncio.sleep(SHORT_SECONDS)  # so that it was sent
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert [status for _, status in caller.answers(BUSY)] == ["OK"] * BUSY
    assert caller.after_the_busy_ones(busy) == 0


def test_a_cancelled_stream_is_not_executed(target: Target, caller: Caller, busy: int) -> None:
    """A stream that is stopped with cancel_requests takes back what waits in it."""
    came: queue.SimpleQueue[str] = queue.SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(target.address) as client:
        client.start_stream(lambda result, error: came.put(str(result) if error is None else failure(error).status))
        for _ in range(4):
            client.async_stream_infer(**SLOW.send)
        client.stop_stream(cancel_requests=True)
    assert came.get(timeout=ANSWER_SECONDS) == "CANCELLED"
    assert [status for _, status in caller.answers(BUSY)] == ["OK"] * BUSY
    assert caller.after_the_busy_ones(busy) == 0


def test_a_request_waits_no_longer_than_its_timeout(caller: Caller, busy: int) -> None:
    """The parameter `timeout` bounds the time in the queue: UNAVAILABLE, and not executed."""
    caller.send("impatient", timeout=int(SHORT_SECONDS * 1e6))
    assert ("impatient", "UNAVAILABLE") in caller.answers(BUSY + 1)
    assert caller.after_the_busy_ones(busy) == 0


def test_the_higher_priority_goes_first(caller: Caller, busy: int) -> None:
    """Of requests that wait, one of level 1 is run before those of level 2 that came earlier."""
    for number in range(2):
        caller.send(f"low {number}", priority=2)
    caller.send("high", priority=1)
    order = [name for name, status in caller.answers(BUSY + 3) if status == "OK"]
    assert len(order) == BUSY + 3
    assert order.index("high") < order.index("low 0") < order.index("low 1")


def test_a_full_queue_refuses(caller: Caller) -> None:
    """Beyond the two requests that may wait for `bounded` the next are UNAVAILABLE at once; the others are run."""
    before = caller.executed("bounded")
    for number in range(8):
        caller.send(str(number), model_name="bounded")
    statuses = [status for _, status in caller.answers(8)]
    assert set(statuses) == {"OK", "UNAVAILABLE"}
    assert caller.executed("bounded") - before == statuses.count("OK")

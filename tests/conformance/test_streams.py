"""ModelStreamInfer, by tritonclient's stream and by its asyncio client; streams that end early."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import pytest
import tritonclient.grpc.aio

from tests.conformance.conftest import Target
from tests.conformance.streams import CASES, SLOW, StreamCase, scale
from tests.conformance.ways import ANSWER_SECONDS, failure

Answer = tuple[Any, Any]
"""Result and error, of which one is None."""


def judge(case: StreamCase, answers: list[Answer]) -> None:
    """Hold a stream's answers against what was sent."""
    assert len(answers) == len(case.requests)
    for sent, (result, error) in zip(case.requests, answers, strict=True):
        if sent.error:
            assert error is not None, f"no error that names {sent.error}"
            assert sent.error in error.message()
            continue
        assert error is None, error
        if sent.check is not None:
            sent.check(result)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stream(client: Any, case: StreamCase) -> None:
    """Each request is answered once, in order; an error is one answer, and the stream goes on."""
    came: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    client.start_stream(lambda result, error: came.put((result, error)), **case.options)
    for sent in case.requests:
        client.async_stream_infer(**sent.send)
    client.stop_stream()
    judge(case, [came.get_nowait() for _ in range(came.qsize())])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stream_by_asyncio(target: Target, case: StreamCase) -> None:
    """The asyncio client's stream gives the same."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for sent in case.requests:
            # the asyncio client has no such argument
            yield {name: value for name, value in sent.send.items() if name != "enable_empty_final_response"}

    async def run() -> list[Answer]:
        async with tritonclient.grpc.aio.InferenceServerClient(target.address) as client:
            return [answer async for answer in client.stream_infer(requests(), **case.options)]

    judge(case, asyncio.run(run()))


def test_an_answer_does_not_wait_for_the_next_request(client: Any) -> None:
    """A caller that sends its next request only when it has the last one's answer is served."""
    came: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for number in range(1, 6):
        sent = scale(number)
        client.async_stream_infer(**sent.send)
        result, error = came.get(timeout=ANSWER_SECONDS)
        assert error is None
        assert sent.check is not None
        sent.check(result)
    client.stop_stream()


def test_a_streams_deadline_ends_it(client: Any) -> None:
    """When stream_timeout has passed the stream fails, with what is in it."""
    came: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    client.start_stream(lambda result, error: came.put((result, error)), stream_timeout=0.2)
    for _ in range(20):
        client.async_stream_infer(**SLOW.send)
    error = None
    while error is None:
        _, error = came.get(timeout=ANSWER_SECONDS)
    assert failure(error).status == "DEADLINE_EXCEEDED"
    client.stop_stream()

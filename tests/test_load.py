"""What callers report, beside a server whose service time is known.

Times are judged by their lower bound, which holds on any machine, and by a generous upper one: a quarter of the samples
may be late by whatever a busy machine adds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import grpc
import numpy as np
import pytest

from compare.load import ERROR_PAUSE_SECONDS, Load, Window, closed_loop, one_at_a_time, serialise
from server.pb import inference_pb2
from tests.known_queue import once_more
from tests.known_server import known_server

SERVICE_SECONDS = 0.02
LATE_SECONDS = 0.03
REQUESTS = [f"request {number}".encode() for number in range(5)]
LOADS: list[Callable[..., Load]] = [
    lambda address, window, warm_up: one_at_a_time(address, REQUESTS, window, warm_up_seconds=warm_up),
    lambda address, window, warm_up: closed_loop(address, REQUESTS, 4, window, warm_up_seconds=warm_up),
]
both = pytest.mark.parametrize("load", LOADS, ids=["one caller", "four callers"])


@both
def test_latency(load: Callable[..., Load]) -> None:
    """No latency is below the service time, and three quarters are close to it."""
    with known_server(lambda _: SERVICE_SECONDS) as server:
        seen = load(server.address, Window(0.6), 0.1)
    assert seen.latencies.dtype == np.float64
    assert seen.latencies.min() >= SERVICE_SECONDS
    assert np.quantile(seen.latencies, 0.75) < SERVICE_SECONDS + LATE_SECONDS


@both
def test_every_request_is_accounted_for(load: Callable[..., Load]) -> None:
    """Without a warm-up, replies and errors together are exactly the requests that the server saw."""
    refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
    with known_server(status=lambda number: refuse if number % 3 == 1 else None) as server:
        seen = load(server.address, Window(0.3), 0.0)
    refused = len(range(1, len(server.requests), 3))
    assert seen.errors == {"RESOURCE_EXHAUSTED": refused}
    assert (seen.count, seen.error_count) == (len(server.requests) - refused, refused)
    assert seen.first_error == "RESOURCE_EXHAUSTED: request 1"


@both
@once_more
def test_warm_up_is_kept_apart(load: Callable[..., Load]) -> None:
    """The slow first request of a cold server is in the warm-up, not in the samples."""
    with known_server(lambda number: 0.25 if number == 0 else 0.0) as server:
        seen = load(server.address, Window(0.3), 0.2)
    assert seen.count <= len(server.requests) - 1
    assert np.quantile(seen.latencies, 0.75) < LATE_SECONDS
    assert seen.latencies.max() < 0.25


@both
def test_inputs_are_cycled(load: Callable[..., Load]) -> None:
    """All distinct inputs are sent, each about as often as the others."""
    with known_server() as server:
        load(server.address, Window(0.0, min_replies=50, max_seconds=20.0), 0.0)
    counts = [server.requests.count(request) for request in REQUESTS]
    assert max(counts) - min(counts) <= 1


def test_callers_are_what_is_under_way() -> None:
    """Four callers keep four requests under way, never five, and on average nearly four.

    The average is the sum of all latencies over the seconds (Little's law), so a slow machine does not change it.
    """
    with known_server(lambda _: SERVICE_SECONDS) as server:
        seen = closed_loop(server.address, REQUESTS, 4, Window(0.6), warm_up_seconds=0.1)
    assert server.most_at_once == seen.callers == 4
    assert 3.2 < seen.latencies.sum() / seen.seconds <= 4
    assert seen.count / seen.seconds <= 4 / SERVICE_SECONDS


def test_one_caller_waits_for_each_reply() -> None:
    """One caller never has two requests under way, and its seconds hold all of its latencies."""
    with known_server(lambda _: SERVICE_SECONDS) as server:
        seen = one_at_a_time(server.address, REQUESTS, Window(0.3), warm_up_seconds=0.0)
    assert server.most_at_once == 1
    assert seen.latencies.sum() <= seen.seconds


@both
def test_no_server(load: Callable[..., Load]) -> None:
    """Where nobody listens, each attempt is an error with its status, and nobody asks in a busy loop."""
    seen = load("127.0.0.1:1", Window(0.2), 0.0)
    assert seen.count == 0
    assert set(seen.errors) == {"UNAVAILABLE"}
    assert 1 <= seen.error_count <= 4 * (0.2 / ERROR_PAUSE_SECONDS + 1)


def test_window() -> None:
    """A window is open for its seconds, then until the replies are enough, then until its longest time."""
    window = Window(1.0, min_replies=10, max_seconds=3.0)
    moments = [(0.5, 50), (1.5, 9), (2.9, 9), (1.5, 10), (3.0, 9)]
    assert [window.is_open(*moment) for moment in moments] == [True, True, True, False, False]
    assert not Window(1.0).is_open(1.0, 0)


def test_serialise() -> None:
    """Each image becomes one request of batch 1 whose raw contents are its bytes, in order."""
    images = np.arange(2 * 3 * 2 * 1, dtype=np.uint8).reshape(2, 3, 2, 1)
    requests = [
        inference_pb2.ModelInferRequest.FromString(request)
        for request in serialise("tiny", images, input_name="image", datatype="UINT8")
    ]
    assert [list(request.inputs[0].shape) for request in requests] == [[1, 3, 2, 1]] * 2
    assert [list(request.raw_input_contents) for request in requests] == [[image.tobytes()] for image in images]
    assert all(one.model_name == other.model_name == "tiny" for one, other in pairwise(requests))

"""Statistics add up: what a client counts, the server counts."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.case import x
from tests.conformance.conftest import Target

PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
ROW = (1.0, 2.0, 3.0, 4.0)
SENT = (1, 1, 1, 2, 5)
"""Batch sizes, one after the other."""


def of(client: Any, name: str, version: str = "1") -> Any:
    (figures,) = client.get_inference_statistics(name, version).model_stats
    return figures


def sizes(figures: Any) -> dict[int, int]:
    """Return how many batches of each size have run."""
    return {each.batch_size: each.compute_infer.count for each in figures.batch_stats}


def test_counts_are_the_clients(client: Any) -> None:
    """Requests, samples and executions grow by just what was sent; every part is counted for each request."""
    before = of(client, "scale")
    for size in SENT:
        client.infer("scale", x(*[ROW] * size))
    after = of(client, "scale")
    assert after.inference_stats.success.count - before.inference_stats.success.count == len(SENT)
    assert after.inference_count - before.inference_count == sum(SENT)
    assert after.execution_count - before.execution_count == len(SENT)
    for part in PARTS:
        assert getattr(after.inference_stats, part).count == after.inference_stats.success.count
    grown = {size: sizes(after)[size] - sizes(before).get(size, 0) for size in set(SENT)}
    assert grown == {size: SENT.count(size) for size in set(SENT)}


def test_parts_add_up_to_the_whole(client: Any) -> None:
    """Batches of all sizes make all executions and samples; the parts' times are within the requests'."""
    client.infer("scale", x(ROW))
    figures = of(client, "scale")
    assert sum(sizes(figures).values()) == figures.execution_count
    assert sum(size * count for size, count in sizes(figures).items()) == figures.inference_count
    stats = figures.inference_stats
    assert stats.compute_infer.ns > 0
    assert sum(getattr(stats, part).ns for part in PARTS) <= stats.success.ns
    for each in figures.batch_stats:
        assert each.compute_infer.count == each.compute_input.count == each.compute_output.count


def test_times_and_counts_only_grow(client: Any) -> None:
    """perf_analyzer takes the difference of two readings."""
    before = of(client, "scale")
    client.infer("scale", x(ROW))
    after = of(client, "scale")
    assert after.last_inference >= before.last_inference > 10**12  # milliseconds since the epoch
    for part in (*PARTS, "success", "fail"):
        assert getattr(after.inference_stats, part).ns >= getattr(before.inference_stats, part).ns


def test_each_version_counts_its_own(client: Any) -> None:
    """An inference is the version's that ran."""
    before = [of(client, "versions", version).inference_count for version in ("1", "2")]
    client.infer("versions", x(ROW), model_version="1")
    after = [of(client, "versions", version).inference_count for version in ("1", "2")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 0]


@pytest.mark.ours
def test_a_refused_request_is_a_failure(target: Target, client: Any) -> None:
    """What is refused counts as failed, and nowhere else."""
    target.require("", ours=True)
    before = of(client, "scale")
    with pytest.raises(InferenceServerException):
        client.infer("scale", x((1, 2, 3)))
    after = of(client, "scale")
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert after.inference_stats.success.count == before.inference_stats.success.count
    assert after.inference_count == before.inference_count


def test_streamed_requests_count(client: Any) -> None:
    """A stream's requests are requests like any other."""
    before = of(client, "scale")
    came: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for _ in range(3):
        client.async_stream_infer("scale", x(ROW))
    client.stop_stream()
    assert came.qsize() == 3
    after = of(client, "scale")
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_stats.queue.count == after.inference_stats.success.count

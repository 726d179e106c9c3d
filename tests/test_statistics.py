"""What is counted for each request, and the two views of it: the metrics and ModelStatistics."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from server.metrics import DURATIONS, Metrics
from server.statistics import BATCHES, SECONDS, Histogram, Stamps, Statistics

PARTS = ("input", "queue", "compute", "output")


def stamps(arrived: float) -> Stamps:
    """Return a request whose time went: 1 + 4 input, 2 queue, 8 compute, 16 output."""
    return Stamps(arrived, arrived + 1, arrived + 3, arrived + 7, arrived + 15, arrived + 31)


def test_a_histogram_counts_up_to_each_bound() -> None:
    """A value on a bound is in its bucket, as Prometheus has it; counts are cumulative and end with all of them."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("1.0", 2.0), ("2.0", 4.0), ("+Inf", 5.0)]
    assert (histogram.count, histogram.sum) == (5, 14.0)


@pytest.mark.parametrize("bounds", [SECONDS, BATCHES])
def test_bounds_are_in_order(bounds: tuple[float, ...]) -> None:
    """Bounds rise, so that each value has one bucket."""
    assert list(bounds) == sorted(set(bounds))


def test_the_parts_are_the_whole() -> None:
    """Input, queue, compute and output leave no gap between a request's arrival and its answer."""
    statistics = Statistics()
    for each in range(3):
        statistics.answered(stamps(100.0 * each))
    assert {part: getattr(statistics, part).sum for part in PARTS} == {
        "input": 15,
        "queue": 6,
        "compute": 24,
        "output": 48,
    }
    assert sum(getattr(statistics, part).sum for part in PARTS) == statistics.request.sum == 93
    assert statistics.codes == {"OK": 3}
    assert statistics.failed_seconds == 0


def test_failures_are_counted_apart() -> None:
    """A failed request counts under its code and in the request's duration, and in none of the parts."""
    statistics = Statistics()
    statistics.answered(stamps(0))
    statistics.failed("UNAVAILABLE", 5)
    statistics.failed("INVALID_ARGUMENT", 7)
    statistics.failed("UNAVAILABLE", 9)
    assert statistics.codes == {"OK": 1, "UNAVAILABLE": 2, "INVALID_ARGUMENT": 1}
    assert statistics.failed_seconds == 21
    assert (statistics.request.count, statistics.request.sum) == (4, 31 + 21)
    assert [getattr(statistics, part).count for part in PARTS] == [1, 1, 1, 1]


def test_executions_are_counted_by_size() -> None:
    """Each batch size has its count and its seconds; the histogram of sizes has all of them."""
    statistics = Statistics()
    assert statistics.last_inference == 0
    statistics.executed(4, 0, 1, 3, 7)
    statistics.executed(4, 10, 11, 13, 17)
    statistics.executed(1, 20, 20, 21, 21)
    four, one = statistics.executions[4], statistics.executions[1]
    assert (four.count, four.input, four.compute, four.output) == (2, 2, 4, 8)
    assert (one.count, one.input, one.compute, one.output) == (1, 0, 1, 0)
    assert (statistics.batch_size.count, statistics.batch_size.sum) == (3, 9)
    assert statistics.last_inference > 0


def test_nothing_is_lost_between_threads() -> None:
    """Threads that count at once lose nothing."""
    statistics = Statistics()
    barrier = threading.Barrier(8)

    def count(_: int) -> None:
        barrier.wait(20)
        for each in range(500):
            statistics.answered(stamps(each))
            statistics.failed("CANCELLED", 1)
            statistics.executed(2, 0, 1, 2, 3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert statistics.codes == {"OK": 4000, "CANCELLED": 4000}
    assert statistics.executions[2].count == 4000
    assert statistics.request.count == 8000


def test_the_metrics_show_the_statistics() -> None:
    """Every counter is on the page, under the model's and the version's name; a reload goes on counting."""
    metrics = Metrics(CollectorRegistry())
    statistics = metrics.of("net", "2")
    statistics.answered(stamps(0))
    statistics.failed("UNAVAILABLE", 5)
    statistics.executed(4, 0, 1, 3, 7)
    statistics.executed(1, 0, 1, 3, 7)
    assert metrics.of("net", "2") is statistics

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"netweight_{name}", {"model": "net", "version": "2", **labels})

    assert value("requests_total", code="OK") == 1
    assert value("requests_total", code="UNAVAILABLE") == 1
    assert value("inferences_total") == 5
    assert value("executions_total") == 2
    assert (value("batch_size_count"), value("batch_size_sum")) == (2, 5)
    assert value("batch_size_bucket", le="2.0") == 1
    expected = {"request": 36, "input": 5, "queue": 2, "compute": 8, "output": 16}
    assert {name: value(f"{name}_duration_seconds_sum") for name in DURATIONS} == expected
    assert value("request_duration_seconds_count") == value("request_duration_seconds_bucket", le="+Inf") == 2


def test_the_seconds_of_executions_count_each_batch_once() -> None:
    """However many samples and requests share a run; the histogram of compute has it once for each request."""
    metrics = Metrics(CollectorRegistry())
    statistics = metrics.of("net", "2")
    statistics.executed(4, 0, 1, 3, 7)
    statistics.executed(1, 10, 10, 10.5, 11)
    statistics.executed(4, 20, 21, 24, 25)
    for _ in range(3):
        statistics.answered(stamps(0))
    sample, labels = metrics.registry.get_sample_value, {"model": "net", "version": "2"}
    assert sample("netweight_execution_seconds_total", labels) == 2 + 0.5 + 3
    assert sample("netweight_executions_total", labels) == 3
    assert sample("netweight_compute_duration_seconds_sum", labels) == 3 * 8


def test_a_callers_text_is_no_label() -> None:
    """Calls for a model that is not there are counted by code alone: they have no durations of their own."""
    metrics = Metrics(CollectorRegistry())
    metrics.of("", "").failed("NOT_FOUND", 1)
    nowhere = {"model": "", "version": ""}
    sample = metrics.registry.get_sample_value
    assert sample("netweight_requests_total", {**nowhere, "code": "NOT_FOUND"}) == 1
    assert sample("netweight_request_duration_seconds_count", nowhere) is None
    assert sample("netweight_executions_total", nowhere) is None

"""What happened to a model's requests: how many, how large, and where their time went.

One record for each version, plain counters under a lock. The metrics (server/metrics.py) and ModelStatistics
(server/service.py) are two views of it. The time of an answered request is cut in four, without a gap,

    arrived --input--> queued --queue--> started --input--> assembled --compute--> ran --output--> answered

so that input, queue, compute and output add up to the request's duration.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bucket bounds of the durations."""
BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Bucket bounds of the batch sizes."""


class Histogram:
    """Counts of values by bucket, as Prometheus has them, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def quantile(self, share: float) -> float | None:
        """Estimate the value that ``share`` (0 to 1) of all values do not exceed; None: there were none.

        As Prometheus' histogram_quantile does: by linear interpolation within the bucket, of which the first begins at
        0; a value beyond the last bound is told as that bound.
        """
        rank, below, lower = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, count in zip(self._bounds, self._counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * (rank - below) / count
            below, lower = below + count, bound
        return self._bounds[-1]

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each bucket's upper bound and how many values were up to it, "+Inf" last."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, float(total)


@dataclass(slots=True)
class Executions:
    """The executions of one batch size; seconds altogether."""

    count: int = 0
    input: float = 0.0
    compute: float = 0.0
    output: float = 0.0


@dataclass(slots=True)
class Stamps:
    """When a request reached each point of its way, in `time.perf_counter` seconds."""

    arrived: float
    queued: float
    started: float
    assembled: float
    ran: float
    answered: float


class Statistics:
    """One version's counters; they only grow, over reloads too."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while counting; hold it to read figures that belong together."""
        self.codes: dict[str, int] = {}
        """Requests by the name of their gRPC status code."""
        self.failed_seconds = 0.0
        """Of the requests that were not answered OK, altogether."""
        self.last_inference = 0.0
        """Seconds since the epoch; 0: none yet."""
        self.executions: dict[int, Executions] = {}
        """By batch size."""
        self.batch_size = Histogram(BATCHES)
        self.request = Histogram(SECONDS)
        """All requests, however they ended. The four parts are of those answered OK."""
        self.input = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.output = Histogram(SECONDS)

    def answered(self, at: Stamps) -> None:
        """Count one request that was answered OK."""
        with self.lock:
            self.codes["OK"] = self.codes.get("OK", 0) + 1
            self.request.observe(at.answered - at.arrived)
            self.input.observe(at.queued - at.arrived + at.assembled - at.started)
            self.queue.observe(at.started - at.queued)
            self.compute.observe(at.ran - at.assembled)
            self.output.observe(at.answered - at.ran)

    def failed(self, code: str, seconds: float) -> None:
        """Count one request that was answered otherwise, or that nobody waits for any more."""
        with self.lock:
            self.codes[code] = self.codes.get(code, 0) + 1
            self.failed_seconds += seconds
            self.request.observe(seconds)

    def executed(self, size: int, started: float, assembled: float, ran: float, answered: float) -> None:
        """Count one execution of ``size`` samples."""
        with self.lock:
            executions = self.executions.setdefault(size, Executions())
            executions.count += 1
            executions.input += assembled - started
            executions.compute += ran - assembled
            executions.output += answered - ran
            self.batch_size.observe(size)
            self.last_inference = time.time()

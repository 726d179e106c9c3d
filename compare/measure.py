"""Frozen records of what a window measured, raw values with their units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def nearest_rank(samples: NDArray[np.float64] | Sequence[float], percent: float) -> float:
    """Return the percentile (0..100) by nearest rank: the smallest sample that so many percent of all do not exceed.

    So each is a value that occurred, and p99 says something from 100 samples on. Without samples it is nan. Infinities
    count as values, where numpy's own percentile would subtract one from another.
    """
    count = len(samples)
    if not count:
        return float("nan")
    rank = max(1, math.ceil(count * percent / 100))
    return float(np.sort(np.asarray(samples, np.float64))[rank - 1])


@dataclass(frozen=True, eq=False)
class Latency:
    """Latencies as the client saw them: float64 [count], seconds; percentiles by nearest rank."""

    samples: NDArray[np.float64]

    def percentile(self, percent: float) -> float | None:
        """Return the latency in seconds at `percent` (0..100); None where there is no sample."""
        return nearest_rank(self.samples, percent) if self.samples.size else None

    @property
    def p50_seconds(self) -> float | None:
        """The median."""
        return self.percentile(50)


@dataclass(frozen=True)
class Throughput:
    """Inferences (samples, not requests) and the seconds that they took, for a number of callers."""

    callers: int
    inferences: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Inferences for each second."""
        return self.inferences / self.seconds if self.seconds > 0 else 0.0

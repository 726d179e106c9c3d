"""Frozen records of what a window measured, raw values with their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Latency:
    """Latencies as the client saw them: float64 [count], seconds.

    Percentiles are nearest-rank (numpy's ``inverted_cdf``): the smallest sample that at least q % of all samples do not
    exceed. So each is a latency that occurred, and p99 says something from 100 samples on.
    """

    samples: NDArray[np.float64]

    def percentile(self, percent: float) -> float | None:
        """Return the latency in seconds at `percent` (0..100); None where there is no sample."""
        if self.samples.size == 0:
            return None
        return float(np.percentile(self.samples, percent, method="inverted_cdf"))

    @property
    def p50_seconds(self) -> float | None:
        """The median."""
        return self.percentile(50)

    @property
    def p90_seconds(self) -> float | None:
        """What 90 % of the replies stay within."""
        return self.percentile(90)

    @property
    def p99_seconds(self) -> float | None:
        """What 99 % of the replies stay within."""
        return self.percentile(99)


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

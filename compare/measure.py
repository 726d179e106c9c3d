"""Frozen records of what was measured, raw values with their units, and the row of a result that they make up."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MB = 10**6
MIB = 2**20


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


@dataclass(frozen=True)
class FileSize:
    """Bytes on disk, in both units that people mean by 'megabytes'."""

    bytes: int

    @property
    def megabytes(self) -> float:
        """MB: 10^6 bytes."""
        return self.bytes / MB

    @property
    def mebibytes(self) -> float:
        """MiB: 2^20 bytes."""
        return self.bytes / MIB


@dataclass(frozen=True)
class Memory:
    """Resident bytes that the server gained by loading and warming a model."""

    bytes: int

    @property
    def mebibytes(self) -> float:
        """MiB: 2^20 bytes."""
        return self.bytes / MIB


@dataclass(frozen=True)
class Accuracy:
    """Top-1: how many images of how many had their label as the most probable class."""

    correct: int
    images: int

    @property
    def top1(self) -> float:
        """The share, 0..1."""
        return self.correct / self.images


@dataclass(frozen=True)
class Row:
    """What one network costs and what it gives for that: one row of ``results.json``.

    None means not measured: no checkpoint, no metrics page, or no held-out images.
    """

    network: str
    parameters: int | None
    """None: the model is from elsewhere, and its layers could not be weighed."""
    checkpoint_bytes: int | None
    onnx_bytes: int
    """The graph and the weights beside it."""
    load_seconds: float | None
    """Opening the session and warming it, as the server measured it."""
    resident_bytes: int | None
    """Resident memory that the server gained by loading and warming."""
    latency_p50_seconds: float | None
    """One caller, batch 1, seen by the client."""
    latency_p99_seconds: float | None
    throughput_per_second: float | None
    """Inferences for each second with `callers` callers."""
    accuracy: float | None
    """Top-1 (0..1) on held-out images, sent through the server."""
    title: str = ""
    version: int = 1
    trained: bool | None = True
    """None: not known, as of a model from elsewhere."""
    adaptation: str | None = None
    """What was changed in the architecture, in words."""
    latency_p90_seconds: float | None = None
    latency_samples: int = 0
    callers: int = 0
    throughputs: tuple[Throughput, ...] = field(default=())
    """One for each number of callers that was asked for."""
    accuracy_correct: int | None = None
    accuracy_images: int | None = None
    errors: int = 0
    """Requests of the timed windows that were not answered OK."""
    provider: str | None = None
    """ONNX Runtime's execution provider."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, throughputs with their rate."""
        rates = [{**asdict(throughput), "per_second": throughput.per_second} for throughput in self.throughputs]
        return {**asdict(self), "throughputs": rates}

"""The exported file against the module that it came from: the same images, the same answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch

from export.convert import IMAGE, LOGITS, PROBABILITIES
from models.spec import NetweightError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

BATCHES = (1, 2, 3, 8)
"""Batch sizes that are tried: the dynamic axis must hold for all."""

TOLERANCE = 1e-4
"""Of the output's scale. Differences in practice are 1e-8 to 1e-6."""

SEED = 1
"""Of the images; see `export.build.Built.images`."""


@dataclass(frozen=True)
class BatchParity:
    """How far apart the logits are for one batch."""

    batch: int
    max_absolute: float
    """The largest difference of two logits."""
    max_relative: float
    """The same as a share of the batch's largest logit: untrained networks give logits up to 1e6."""
    top1_agreement: float
    """The share of images for which both name the same class, 0..1."""


@dataclass(frozen=True)
class Parity:
    """How far apart ONNX Runtime and torch are, at every batch size that was tried."""

    seed: int
    tolerance: float
    """The limit of `max_relative`."""
    batches: tuple[BatchParity, ...]

    @property
    def max_relative(self) -> float:
        """The worst batch's."""
        return max(each.max_relative for each in self.batches)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "batches": [asdict(each) for each in self.batches]}


def verify(path: Path, module: nn.Module, images: Tensor, *, seed: int = SEED, tolerance: float = TOLERANCE) -> Parity:
    """Run the same images through ONNX Runtime on the CPU and through torch.

    Args:
        path: The ONNX file.
        module: What it was made from, in eval mode: images to logits and probabilities.
        images: As many as the largest of `BATCHES`, not those that the export was traced with.
        seed: That `images` were drawn with; goes into the record.
        tolerance: The limit of the difference, as a share of the output's scale.

    Raises:
        NetweightError: the outputs differ by more than the tolerance, or are not finite.
    """
    session = _open(path)
    with torch.inference_mode():
        expected: NDArray[np.float32] = module(images)[0].numpy()
    if not np.isfinite(expected).all():
        raise NetweightError("torch's own logits are not finite: train the network anew, or export another checkpoint")
    batches = tuple(_compare(session, images.numpy()[:batch], expected[:batch], tolerance) for batch in BATCHES)
    return Parity(seed, tolerance, batches)


def _open(path: Path) -> ort.InferenceSession:
    """Open a session that maps external weights rather than copying them into a second layout."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _compare(
    session: ort.InferenceSession, images: NDArray[Any], expected: NDArray[np.float32], tolerance: float
) -> BatchParity:
    """Run one batch and compare its logits with torch's, and its probabilities with the softmax of its logits."""
    logits, probabilities = session.run([LOGITS, PROBABILITIES], {IMAGE: images})
    batch = len(images)
    if logits.shape != expected.shape:
        raise NetweightError(f"batch {batch}: torch gives logits {expected.shape}, ONNX Runtime {logits.shape}")
    absolute = float(np.abs(logits - expected).max())
    relative = absolute / (float(np.abs(expected).max()) or 1.0)
    for what, difference in (
        ("logits", relative),
        ("probabilities", float(np.abs(probabilities - _softmax(logits)).max())),
    ):
        if not difference <= tolerance:  # also where it is not a number
            raise NetweightError(
                f"batch {batch}: {what} of ONNX Runtime differ from torch's by {difference:.1e} of their scale, the "
                f"tolerance is {tolerance:.1e}: nothing was published; give a larger --tolerance to accept it"
            )
    return BatchParity(batch, absolute, relative, float((logits.argmax(1) == expected.argmax(1)).mean()))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities in double precision.

    Torch's own are no measure where logits reach 1e6: a difference of 1e-7 of that scale moves probabilities by 0.1.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result

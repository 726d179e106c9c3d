"""The exported file against the module that it came from: the same images, the same answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
"""That the images are drawn with; see `export.build.Built.images` and `export.heldout.Heldout.sample`."""

RANDOM = "random"
"""Images of evenly spread pixels, or of normally spread values."""


@dataclass(frozen=True)
class BatchParity:
    """How far apart the logits are for one batch."""

    batch: int
    max_absolute: float
    """The largest difference of two logits."""
    max_relative: float
    """The same as a share of the batch's largest logit: untrained networks give logits up to 1e6."""
    probabilities_max_absolute: float
    """The largest difference between the file's probabilities and the softmax of its own logits."""
    top1_agreement: float
    """The share of images for which both name the same class, 0..1."""

    def complaint(self, tolerance: float) -> str | None:
        """Return in words what is out of tolerance; None where nothing is."""
        for what, difference in (
            ("logits of ONNX Runtime differ from torch's", self.max_relative),
            ("probabilities differ from the softmax of their logits", self.probabilities_max_absolute),
        ):
            if difference > tolerance:
                return (
                    f"batch {self.batch}: {what} by {difference:.1e} of their scale, the tolerance is {tolerance:.1e}"
                )
        return None


@dataclass(frozen=True)
class Parity:
    """How far apart ONNX Runtime and torch are, at every batch size that was tried."""

    inputs: str
    """Which images: `RANDOM`, or where they were drawn from."""
    seed: int
    """That they were drawn with."""
    tolerance: float
    """The limit of `max_relative`."""
    batches: tuple[BatchParity, ...]
    accepted: bool = False
    """Whether it is out of tolerance, and was published since `--accept-parity` said so."""

    @property
    def max_relative(self) -> float:
        """The worst batch's."""
        return max(each.max_relative for each in self.batches)

    @property
    def complaint(self) -> str | None:
        """What is out of tolerance, in the first batch that is; None where nothing is."""
        return next(filter(None, (each.complaint(self.tolerance) for each in self.batches)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**asdict(self), "batches": [asdict(each) for each in self.batches]}
        return {**values, "within_tolerance": self.complaint is None}


@dataclass(frozen=True)
class Unseen:
    """The images that an export is verified with: as many as the largest of `BATCHES`."""

    images: Tensor
    inputs: str = RANDOM
    seed: int = SEED


def verify(
    path: Path, module: nn.Module, unseen: Unseen, *, tolerance: float = TOLERANCE, accept: bool = False
) -> Parity:
    """Run the same images through ONNX Runtime on the CPU and through torch in fp32.

    Args:
        path: The ONNX file.
        module: What it was made from, in eval mode: images to logits and probabilities.
        unseen: Not the images that the export was traced with.
        tolerance: The limit of the difference, as a share of the output's scale.
        accept: Whether a difference above the tolerance is recorded rather than refused.

    Raises:
        NetweightError: the outputs differ by more than the tolerance, or are not finite, which is never accepted.
    """
    session = open_session(path)
    with torch.inference_mode():
        expected: NDArray[np.float32] = module(unseen.images)[0].numpy()
    if not np.isfinite(expected).all():
        raise NetweightError("torch's own logits are not finite: train the network anew, or export another checkpoint")
    batches = tuple(_compare(session, unseen.images.numpy()[:batch], expected[:batch]) for batch in BATCHES)
    parity = Parity(unseen.inputs, unseen.seed, tolerance, batches)
    if parity.complaint and not accept:
        raise NetweightError(
            f"{parity.complaint}: not published; --accept-parity publishes it all the same, and its card says so"
        )
    return replace(parity, accepted=parity.complaint is not None)


def open_session(path: Path) -> ort.InferenceSession:
    """Open a session as the server does: weights beside the graph are mapped, others packed as its kernels want them."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    if path.with_name(f"{path.name}.data").exists():
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _compare(session: ort.InferenceSession, images: NDArray[Any], expected: NDArray[np.float32]) -> BatchParity:
    """Run one batch and compare its logits with torch's, and its probabilities with the softmax of its logits."""
    logits, probabilities = session.run([LOGITS, PROBABILITIES], {IMAGE: images})
    batch = len(images)
    if logits.shape != expected.shape:
        raise NetweightError(f"batch {batch}: torch gives logits {expected.shape}, ONNX Runtime {logits.shape}")
    for what, values in (("logits", logits), ("probabilities", probabilities)):
        if not np.isfinite(values).all():
            raise NetweightError(
                f"batch {batch}: {what} of ONNX Runtime are not finite, torch's are: not published; export another "
                "variant or --opset"
            )
    absolute = float(np.abs(logits - expected).max())
    return BatchParity(
        batch=batch,
        max_absolute=absolute,
        max_relative=absolute / (float(np.abs(expected).max()) or 1.0),
        probabilities_max_absolute=float(np.abs(probabilities - _softmax(logits)).max()),
        top1_agreement=float((logits.argmax(1) == expected.argmax(1)).mean()),
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities in double precision.

    Torch's own are no measure where logits reach 1e6: a difference of 1e-7 of that scale moves probabilities by 0.1.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result

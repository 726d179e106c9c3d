"""Any ONNX graph, run on random input: does it run, are its answers finite, does it answer a batch as it answers each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from export import signature, verify
from export.onnx_file import first_line
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

FAILURES = (
    failures.EPFail,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
)
"""What ONNX Runtime raises about a graph or its input."""

TOLERANCE = 1e-4
"""Between two runs of the same weights, as a share of an output's scale: sums in another order."""

_EXTENTS = (224, 64, 16, 1)
"""What dynamic axes but the batch are tried with: an image's side, then shorter ones."""

_PIXELS_RANK = 3
"""UINT8 tensors from here on are images; shorter ones may be indices, of which only 0 and 1 are sure to exist."""


@dataclass(frozen=True)
class Trial:
    """A graph in a session, with the extents that its dynamic axes were run with."""

    session: ort.InferenceSession
    tensors: signature.Tensors
    extent: int

    def draw(self, seed: int) -> Arrays:
        """Draw one sample for each input: a batch of one."""
        generator = np.random.default_rng(seed)
        return {each.name: _draw(each, self.extent, generator) for each in self.tensors.inputs}

    def run(self, inputs: Arrays) -> Arrays:
        """Return every output by its name.

        Raises:
            NetweightError: ONNX Runtime refuses.
        """
        names = [each.name for each in self.tensors.outputs]
        quietly = ort.RunOptions()
        quietly.log_severity_level = 4  # what fails is told by the exception
        try:
            return dict(zip(names, self.session.run(names, inputs, quietly), strict=True))
        except FAILURES as error:
            raise NetweightError(f"ONNX Runtime does not run it: {first_line(error)}") from error


def open_trial(path: Path) -> Trial:
    """Open a graph, and find extents for its dynamic axes with which it runs.

    Raises:
        NetweightError: ONNX Runtime cannot open it, or runs it with none of them.
    """
    try:
        session = verify.open_session(path)
    except FAILURES as error:
        raise NetweightError(
            f"ONNX Runtime, which the server runs on, cannot open {path.name}: {first_line(error)}; export it again with "
            "operators and an opset that it has"
        ) from error
    tensors = signature.read(session)
    failure: NetweightError | None = None
    for extent in _EXTENTS if any(-1 in each.shape[1:] for each in tensors.inputs) else _EXTENTS[:1]:
        trial = Trial(session, tensors, extent)
        try:
            trial.run(trial.draw(seed=0))
        except NetweightError as error:
            failure = failure or error
        else:
            return trial
    raise NetweightError(f"{path.name} does not run on random input: {failure}") from failure


def finite(outputs: Arrays) -> bool:
    """Whether no number in the outputs is infinite or none at all."""
    return all(bool(np.isfinite(each).all()) for each in outputs.values() if each.dtype.kind == "f")


def same(first: Arrays, second: Arrays) -> bool:
    """Whether two runs gave the same, floating-point numbers within `TOLERANCE` of their scale."""
    return all(_same(each, second[name]) for name, each in first.items())


def batched(trial: Trial, samples: Sequence[Arrays], answers: Sequence[Arrays]) -> bool:
    """Whether a graph gives for all samples in one batch what was answered for each alone."""
    joined = {name: np.concatenate([each[name] for each in samples]) for name in samples[0]}
    try:
        expected = {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
        return same(expected, trial.run(joined))
    except (NetweightError, ValueError):  # an output without a first axis, or of another length for each sample
        return False


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    scale = float(np.abs(first[np.isfinite(first)]).max(initial=0.0)) or 1.0
    return bool(np.allclose(first, second, rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def _draw(tensor: signature.Tensor, extent: int, generator: np.random.Generator) -> NDArray[Any]:
    """Draw a tensor: pixels, normally spread numbers, or 0 and 1 where they may be indices."""
    shape = tuple(each if each >= 0 else 1 if axis == 0 else extent for axis, each in enumerate(tensor.shape))
    if tensor.dtype is np.object_:
        return np.full(shape, "a", np.object_)
    if np.dtype(tensor.dtype).kind == "f":
        return np.asarray(generator.standard_normal(shape), tensor.dtype)
    largest = 255 if tensor.dtype is np.uint8 and len(shape) >= _PIXELS_RANK else 1
    return np.asarray(generator.integers(0, largest + 1, shape), tensor.dtype)

"""What a network would weigh in each variant, before one is made: initializer bytes, counted on a hollow graph."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from export.calibration import Calibration
from export.half import compute_in_half, weights_to_half
from export.hollow import resize, weightless
from export.quantize import static
from export.weigh import Weight, weigh_model
from export.weight_only import quantize_matrices

if TYPE_CHECKING:
    from collections.abc import Callable

    _Count = Callable[[ir.Model], int | None]
    """Counts the bytes of one variant in a hollow graph, which it may change; None: there is no such variant of it."""

FP32 = "fp32"

_INPUTS, _OUTPUTS = 0, 1


@dataclass(frozen=True)
class Size:
    """What one variant would weigh."""

    variant: str
    bytes: int
    """Of all initializers."""
    head: str | None = None
    """What takes the classifier's place, in words; None: nothing."""

    @property
    def suffix(self) -> str:
        """What the export appends to the model's name: nothing in fp32 with its own head."""
        head = [self.head.partition(",")[0]] if self.head else []
        return "".join(f".{part}" for part in (*head, *([] if self.variant == FP32 else [self.variant])))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def sizes(model: ir.Model) -> tuple[Size, ...]:
    """Return the size of a hollow fp32 graph, and of each variant that can be made of it."""
    counted = ((variant, count(model.clone())) for variant, count in _COUNTS.items())
    return tuple(Size(variant, size) for variant, size in counted if size is not None)


def layers(model: ir.Model) -> Weight:
    """Weigh a hollow graph layer by layer."""
    return weigh_model(weightless(model))


def _bytes(model: ir.Model, factors: dict[str, int] | None = None) -> int:
    """Add up a graph's initializers; those that were cut short count as often as they were."""
    factors = factors or {}
    held = {name: value.const_value.nbytes for name, value in model.graph.initializers.items() if value.const_value}
    return sum(size * factors.get(name, 1) for name, size in held.items())


def _fp16(model: ir.Model) -> int:
    """Count a graph that computes in FP16, as if no image made any value too large for it."""
    compute_in_half(model, {})
    return _bytes(model)


def _fp16_weights(model: ir.Model) -> int:
    """Count a graph whose weights are stored in FP16."""
    weights_to_half(model)
    return _bytes(model)


def _int8(model: ir.Model) -> int:
    """Count a graph that computes in INT8, by quantising one whose matrices and kernels have a single input channel.

    Scales are by output channel, and ranges of activations one for each: neither depends on the inputs.
    """
    cut = _cut(model, _INPUTS)
    ranges = {value.name: _RANGE for value in (*model.graph.inputs, *_computed(model))}
    with tempfile.TemporaryDirectory(prefix="netweight-") as directory:
        cache = Path(directory) / "ranges.json"
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), cache)
        made = static(model, Calibration("none"), calibration_cache_path=cache)
    return _bytes(made, {f"{name}{end}": factor for name, factor in cut.items() for end in ("", "_quantized")})


_RANGE = (np.float32(-1), np.float32(1))
"""Of every activation."""


def _weight_only(bits: int) -> _Count:
    """Return what counts a graph whose matrices are quantised, by quantising ones with a single output."""

    def count(model: ir.Model) -> int | None:
        cut = _cut(model, _OUTPUTS)
        if not quantize_matrices(model, bits):
            return None  # there is no matrix
        ends = ("", f"_Q{bits}", "_scales")
        return _bytes(model, {f"{name}{end}": factor for name, factor in cut.items() for end in ends})

    return count


_COUNTS: dict[str, _Count] = {
    FP32: _bytes,
    "fp16": _fp16,
    "fp16-weights": _fp16_weights,
    "int8": _int8,
    "int8-weights": _weight_only(8),
    "int4-weights": _weight_only(4),
}


def _computed(model: ir.Model) -> list[ir.Value]:
    """Return all that a graph's nodes compute."""
    return [value for node in model.graph for value in node.outputs]


def _cut(model: ir.Model, side: int) -> dict[str, int]:
    """Leave one input, or one output, to each kernel and matrix; return how many there were, by the weight's name.

    Kernels keep their outputs: nothing but INT8 touches them, which goes by the output.
    """
    cut: dict[str, int] = {}
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        axis = _axis(node, side)
        if axis is None or weight is None or not weight.is_initializer() or weight.name in cut:
            continue
        assert weight.const_value is not None
        shape = list(weight.const_value.shape.numpy())
        if len(shape) < 2 or weight.dtype != ir.DataType.FLOAT:
            continue
        cut[weight.name or ""] = shape[axis]
        shape[axis] = 1
        resize(weight, tuple(shape))
    return cut


def _axis(node: ir.Node, side: int) -> int | None:
    """Return which axis of a node's weight has its inputs or its outputs; None: it has no such weight."""
    if node.op_type == "Conv" and side == _INPUTS:
        return 1
    if node.op_type in {"Gemm", "MatMul"}:
        return side if not node.attributes.get_int("transB", 0) else 1 - side
    return None

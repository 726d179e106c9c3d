"""Half precision: fp16 computes in it, fp16-weights only stores weights in it.

ONNX Runtime's own converter (onnxruntime.transformers.float16, 1.32) was tried first and is not used: on these graphs it
rounds the probabilities to FP16 on their way out (they then add up to 1.0002), keeps a cast pair around each node that
stays FP32, and leaves the nodes in an order that ONNX's checker refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from export.build import PREPROCESSING
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 65504.0
"""The largest number of FP16."""

MARGIN = 4.0
"""A value stays FP32 where the images that were tried bring it within this factor of `LARGEST`: others may go further."""

KEPT = {
    "Softmax": "probabilities are computed from FP32 logits, as the answer has them",
    "LRN": "it squares its input, and 256 squared is beyond FP16",
    "Resize": "ONNX wants its scales in FP32",
}
"""Operators that stay FP32, with the reason."""

_PREPROCESSING_REASON = "preprocessing: from UINT8 pixels to the first layer, once for each image"


@dataclass(frozen=True)
class Blocked:
    """A node that stays FP32."""

    node: str
    op: str
    reason: str


def weights_to_half(model: ir.Model) -> tuple[str, ...]:
    """Store each weight of two or more axes as FP16, with a Cast to FP32 behind it; return their names.

    An initializer ``W`` keeps its name and becomes FP16; the Cast's output is ``W_fp32``. Biases, batch norm and
    preprocessing stay FP32: they are a thousandth of the bytes.

    Raises:
        NetweightError: a weight is beyond FP16.
    """
    turned = []
    for name, weight in sorted(model.graph.initializers.items()):
        if not _is_weight(weight):
            continue
        if _largest(weight) > LARGEST:
            raise NetweightError(f"{name} has weights beyond FP16 ({_largest(weight):.3g}): use another variant")
        users = tuple(weight.uses())
        wide = ir.Value(name=f"{name}_fp32", type=ir.TensorType(ir.DataType.FLOAT), shape=weight.shape)
        first = min((use.node for use in users), key=list(model.graph).index)
        _to_half(weight)
        cast = ir.node("Cast", [weight], {"to": ir.DataType.FLOAT.value}, outputs=[wide], name=f"cast_{name}")
        model.graph.insert_before(first, cast)
        for use in users:
            use.node.replace_input_with(use.idx, wide)
        turned.append(name)
    return tuple(turned)


def compute_in_half(model: ir.Model, largest: Mapping[str, float]) -> tuple[Blocked, ...]:
    """Let every node compute in FP16 that can; FP32 values that meet FP16 ones are cast once.

    A value ``V`` that is cast has its other form in ``V_fp16`` or ``V_fp32``; inputs and outputs of the graph keep
    names and datatypes, and so do initializers, of which those of FP16 nodes become FP16.

    Args:
        model: An fp32 graph, changed in place.
        largest: The largest magnitude of each FP32 value that was seen (`export.magnitudes.measure`).

    Returns:
        The nodes with FP32 inputs that stay as they are.
    """
    reasons = {node: _reason(node, largest) for node in model.graph if any(map(_is_float, node.inputs))}
    half = {node for node, reason in reasons.items() if reason is None}
    for value in list(model.graph.initializers.values()):
        _turn_initializer(model, value, half)
    for node in list(model.graph):
        if node in half:
            for value in node.outputs:
                _turn_output(model, value, half)
    for value in [*model.graph.inputs, *(out for node in list(model.graph) for out in node.outputs)]:
        _feed_half(model, value, half)
    return tuple(Blocked(node.name or "", node.op_type, reason) for node, reason in reasons.items() if reason)


def _reason(node: ir.Node, largest: Mapping[str, float]) -> str | None:
    """Return why a node stays FP32; None: it computes in FP16."""
    held = [value for value in node.inputs if value is not None and value.is_initializer() and _is_float(value)]
    if any((value.name or "").startswith(f"{PREPROCESSING}.") for value in held):
        return _PREPROCESSING_REASON
    if node.op_type in KEPT or node.domain not in {"", "ai.onnx"}:
        return KEPT.get(node.op_type, "it is no operator of ONNX itself")
    for value in held:
        if _largest(value) > LARGEST:
            return f"{value.name} reaches {_largest(value):.3g}, beyond FP16"
    for seen in (value for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value)):
        magnitude = largest.get(seen.name or "", 0.0)
        if not magnitude <= LARGEST / MARGIN:
            return f"{seen.name} reaches {magnitude:.3g}, too near to FP16's {LARGEST:.0f}"
    return None


def _turn_initializer(model: ir.Model, value: ir.Value, half: set[ir.Node]) -> None:
    """Make an initializer FP16 for those that compute in it; where others read it too, they keep an FP32 one."""
    if not _is_float(value):
        return
    uses = tuple(value.uses())
    wide = [use for use in uses if use.node not in half]
    if len(wide) == len(uses):
        return
    if wide:
        copy = ir.Value(name=f"{value.name}_fp32", type=value.type, shape=value.shape, const_value=value.const_value)
        model.graph.register_initializer(copy)
        for use in wide:
            use.node.replace_input_with(use.idx, copy)
    _to_half(value)


def _turn_output(model: ir.Model, value: ir.Value, half: set[ir.Node]) -> None:
    """Make what an FP16 node computes FP16, with a Cast for those that read FP32, the caller of the graph among them."""
    if not _is_float(value):
        return
    name, node = value.name, value.producer()
    assert node is not None
    wide = [use for use in value.uses() if use.node not in half]
    returned = value.is_graph_output()
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    if not wide and not returned:
        return
    if returned:
        value.name = f"{name}_fp16"
    full = ir.Value(name=name if returned else f"{name}_fp32", type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
    model.graph.insert_after(node, _cast(value, full, ir.DataType.FLOAT))
    for use in wide:
        use.node.replace_input_with(use.idx, full)
    for position, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[position] = full


def _feed_half(model: ir.Model, value: ir.Value, half: set[ir.Node]) -> None:
    """Cast an FP32 value once for all FP16 nodes that read it."""
    readers = [use for use in value.uses() if use.node in half]
    if not _is_float(value) or not readers:
        return
    narrow = ir.Value(name=f"{value.name}_fp16", type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape)
    cast = _cast(value, narrow, ir.DataType.FLOAT16)
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], cast)
    else:
        model.graph.insert_after(producer, cast)
    for use in readers:
        use.node.replace_input_with(use.idx, narrow)


def _cast(value: ir.Value, result: ir.Value, to: ir.DataType) -> ir.Node:
    """Return a Cast named after what it makes."""
    return ir.node("Cast", [value], {"to": to.value}, outputs=[result], name=f"cast_{result.name}")


def _to_half(value: ir.Value) -> None:
    """Make an initializer FP16; its numbers are turned when the file is written, one tensor at a time."""
    full = value.const_value
    assert full is not None
    value.const_value = ir.LazyTensor(
        lambda: ir.tensor(full.numpy().astype(np.float16), name=value.name),
        dtype=ir.DataType.FLOAT16,
        shape=ir.Shape(full.shape.numpy()),
        name=value.name,
    )
    value.type = ir.TensorType(ir.DataType.FLOAT16)


def _is_weight(value: ir.Value) -> bool:
    """Whether a value is a matrix or a kernel, which is where the bytes are."""
    full = value.const_value
    named = (value.name or "").startswith(f"{PREPROCESSING}.")
    return full is not None and _is_float(value) and len(full.shape) > 1 and not named and bool(value.uses())


def _is_float(value: ir.Value | None) -> bool:
    """Whether a value is FP32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def _largest(value: ir.Value) -> float:
    """Return the largest magnitude of an initializer."""
    assert value.const_value is not None
    numbers = value.const_value.numpy()
    return float(max(numbers.max(), -numbers.min())) if numbers.size else 0.0

"""What a network weighs, layer by layer, read off its ONNX graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import onnx

from export.build import PREPROCESSING

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTED = ("Conv", "Gemm", "MatMul", "BatchNormalization")
"""Operators that hold weights, in their second input and beyond. Batch norm remains only where no convolution stands before it to fold it into."""

_FOUR_BITS = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)


@dataclass(frozen=True)
class Layer:
    """One node of the graph that holds weights."""

    name: str
    """The weight's name in the state dict without ``.weight``."""
    op: str
    output_shape: tuple[int, ...]
    """Without the batch."""
    parameters: int
    """Weights and biases. Batch norm that was folded in has become a bias, four values for each channel less."""
    bytes: int
    multiply_accumulates: int
    """For one image; batch norm counts as none, as in published figures."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Weight:
    """A graph and its layers, in the order of the graph."""

    layers: tuple[Layer, ...]
    initializer_bytes: int
    """Of all constants: the layers' weights, and the few numbers of preprocessing, shapes and limits."""

    @property
    def parameters(self) -> int:
        """The layers' parameters: what is left after batch norm was folded; preprocessing constants are none."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_accumulates(self) -> int:
        """For one image."""
        return sum(layer.multiply_accumulates for layer in self.layers)


def weigh(path: Path) -> Weight:
    """Weigh an ONNX file; weights beside the graph are not read, their shapes are enough."""
    return weigh_model(onnx.load(path, load_external_data=False))


def weigh_model(model: onnx.ModelProto) -> Weight:
    """Weigh a graph whose shapes can be inferred, but for the batch."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layers, counted = [], set[str]()
    for node in graph.node:
        held = [constants[name] for name in node.input if name in constants and name not in counted]
        if node.op_type not in _WEIGHTED or not held or _is_preprocessing(node):
            continue
        counted.update(tensor.name for tensor in held)
        layers.append(_layer(node, held, shapes[node.output[0]]))
    return Weight(tuple(layers), sum(_bytes(tensor) for tensor in graph.initializer))


def _is_preprocessing(node: onnx.NodeProto) -> bool:
    """Whether a node normalises pixels: its constants are named after that part of the module."""
    return any(name.startswith(f"{PREPROCESSING}.") for name in node.input)


def _layer(node: onnx.NodeProto, held: list[onnx.TensorProto], output_shape: tuple[int, ...]) -> Layer:
    """Weigh one node."""
    weight = held[0]
    return Layer(
        name=weight.name.removesuffix(".weight"),
        op=node.op_type,
        output_shape=output_shape,
        parameters=sum(prod(tensor.dims) for tensor in held),
        bytes=sum(_bytes(tensor) for tensor in held),
        multiply_accumulates=_multiply_accumulates(node.op_type, prod(weight.dims), output_shape),
    )


def _multiply_accumulates(op: str, weights: int, output_shape: tuple[int, ...]) -> int:
    """Return how often a weight is multiplied: each output value takes the weights of its channel once.

    Channels are the first axis of a convolution's output and the last of a matrix product's.
    """
    if op == "BatchNormalization":
        return 0
    channels = output_shape[0] if op == "Conv" else output_shape[-1]
    return prod(output_shape) * weights // channels


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a value's shape without its first axis, the batch."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor's values; those of four bits are packed, two in a byte."""
    values = prod(tensor.dims)
    if tensor.data_type in _FOUR_BITS:
        return -(-values // 2)
    return values * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize

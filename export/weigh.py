"""What a network weighs, layer by layer, read off its ONNX graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import onnx

from export.build import PREPROCESSING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PRODUCTS = ("Conv", "Gemm", "MatMul", "MatMulNBits")
"""Operators that multiply by weights, in their second input; a bias is in the third, or in an Add behind them."""

_WEIGHTED = (*_PRODUCTS, "BatchNormalization", "LayerNormalization", "PRelu")
"""Operators that hold weights. Batch norm remains only where no convolution stands before it to fold it into."""

_UNFOLDING = ("DequantizeLinear", "Cast", "Transpose", "QuantizeLinear")
"""Operators that turn a constant as it is stored into one to compute with."""

_STORED = ("_quantized", "_Q8", "_Q4")
"""What variants append to a weight's name; see `export.variants`."""

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
    """As stored, with the scales and zero points of its weights."""
    multiply_accumulates: int
    """For one image; batch norm counts as none, as in published figures."""
    datatype: str = "float32"
    """Of the weights as stored."""

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
    return _Scales(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph).weigh()


class _Scales:
    """One graph, being weighed."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
        self.constants = _constants(graph)
        self.makers = {output: node for node in graph.node for output in node.output}
        self.counted: set[str] = set()
        self.layers: dict[str, Layer] = {}
        """By the name of what the node computes."""

    def weigh(self) -> Weight:
        """Go through the graph once."""
        for node in self.graph.node:
            held = [stored for name in node.input for stored in [self.stored(name)] if stored]
            if node.op_type == "Add" and held:
                self.add_bias(node, held)
            elif node.op_type in _WEIGHTED and held and not _is_preprocessing(held):
                self.add(node, held)
        return Weight(tuple(self.layers.values()), sum(map(_bytes, self.constants.values())))

    def stored(self, name: str) -> list[onnx.TensorProto]:
        """Return the constants that a value is made of: the numbers, then scales and zero points; none: it is computed."""
        if name in self.constants:
            return [self.constants[name]]
        node = self.makers.get(name)
        if node is None or node.op_type not in _UNFOLDING:
            return []
        parts = [self.stored(each) for each in node.input if each]
        return [tensor for part in parts for tensor in part] if all(parts) else []

    def add(self, node: onnx.NodeProto, held: list[list[onnx.TensorProto]]) -> None:
        """Add a layer for a node, unless all that it holds was counted before."""
        fresh = self.fresh(held)
        if not fresh:
            return
        weight = held[0][0]
        shape = self.shapes.get(node.output[0]) or (_attribute(node, "N"),)
        whole = _attribute(node, "N") * _attribute(node, "K") if node.op_type == "MatMulNBits" else prod(weight.dims)
        self.layers[node.output[0]] = Layer(
            name=_layer_name(weight.name),
            op=node.op_type,
            output_shape=shape,
            parameters=_parameters(node, fresh, whole),
            bytes=sum(_bytes(tensor) for tensors in fresh for tensor in tensors),
            multiply_accumulates=_multiply_accumulates(node.op_type, whole, shape),
            datatype=_datatype(node, weight),
        )

    def add_bias(self, node: onnx.NodeProto, held: list[list[onnx.TensorProto]]) -> None:
        """Count a bias that is added behind a matrix product into the product's layer."""
        product = next((name for name in node.input if name in self.layers), None)
        if product is None or self.layers[product].op not in ("MatMul", "MatMulNBits") or len(held) != 1:
            return
        layer = self.layers[product]
        bias = self.fresh(held)
        self.layers[product] = replace(
            layer,
            parameters=layer.parameters + sum(prod(tensors[0].dims) for tensors in bias),
            bytes=layer.bytes + sum(_bytes(tensor) for tensors in bias for tensor in tensors),
        )

    def fresh(self, held: list[list[onnx.TensorProto]]) -> list[list[onnx.TensorProto]]:
        """Return what no earlier layer has: a weight that several share counts once, and so does a scale."""
        new = []
        for tensors in held:
            rest = [tensor for tensor in tensors if tensor.name not in self.counted]
            self.counted.update(tensor.name for tensor in rest)
            if rest and rest[0] is tensors[0]:
                new.append(rest)
        return new


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the graph's constants by name: initializers, and what Constant nodes hold."""
    nodes = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    return {
        **{tensor.name: tensor for tensor in graph.initializer},
        **{node.output[0]: _named(node.attribute[0].t, node.output[0]) for node in nodes},
    }


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Return a tensor under the name that the graph knows it by."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _is_preprocessing(held: Iterable[list[onnx.TensorProto]]) -> bool:
    """Whether constants normalise pixels: they are named after that part of the module."""
    return any(tensors[0].name.startswith(f"{PREPROCESSING}.") for tensors in held)


def _parameters(node: onnx.NodeProto, fresh: list[list[onnx.TensorProto]], whole: int) -> int:
    """Count weights and biases as the network has them; scales and zero points are none."""
    if node.op_type == "MatMulNBits":  # a packed matrix and its scales; a sixth input is the bias
        bias = fresh[-1][0] if len(node.input) > 5 and node.input[5] else None
        return whole + (prod(bias.dims) if bias is not None else 0)
    return sum(prod(tensors[0].dims) for tensors in fresh)


def _layer_name(stored: str) -> str:
    """Return a layer's name from that of its weight as it is stored."""
    for ending in _STORED:
        stored = stored.removesuffix(ending)
    return stored.removesuffix(".weight")


def _datatype(node: onnx.NodeProto, weight: onnx.TensorProto) -> str:
    """Return the datatype in which a layer's weights are stored."""
    if node.op_type == "MatMulNBits":
        return f"int{_attribute(node, 'bits')}"
    if weight.data_type in _FOUR_BITS:
        return onnx.TensorProto.DataType.Name(weight.data_type).lower()
    return str(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return a number that a node holds, 0 where it holds none of that name."""
    return next((each.i for each in node.attribute if each.name == name), 0)


def _multiply_accumulates(op: str, weights: int, output_shape: tuple[int, ...]) -> int:
    """Return how often a weight is multiplied: each output value takes the weights of its channel once.

    Channels are the first axis of a convolution's output and the last of a matrix product's.
    """
    if op not in _PRODUCTS:
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

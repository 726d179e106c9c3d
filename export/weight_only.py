"""int8-weights and int4-weights: the matrices of fully connected layers in blocks of whole numbers, the rest as it was."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
"""Weights that share a scale, along the inputs of a layer; the last block is filled up with zeros."""

_ACCURACY_LEVEL = 4
"""How the product is computed: activations as INT8, a scale for each block. Of a 4096x4096 matrix at batch 1 (ms, 2
threads, AVX-512 with VNNI): FP32 2.2, four bits 0.2, eight bits 0.2; with level 0, which computes in FP32, four bits 0.7
and eight bits, which have no such kernel, 70."""

_DOMAIN = "com.microsoft"


def quantize_matrices(model: ir.Model, bits: int) -> tuple[str, ...]:
    """Put `MatMulNBits` in the place of each Gemm and MatMul with a constant matrix, changing the graph in place.

    Rounding is to nearest, symmetric, by blocks of `BLOCK`. A matrix ``W`` of K inputs and N outputs becomes ``W_Q8``
    UINT8 [N, ceil(K / 64), 64] or ``W_Q4`` [N, ceil(K / 64), 32], and ``W_scales`` FP32 [N, ceil(K / 64)]; a bias stays
    and is added by an Add.

    Returns:
        The names of the matrices.
    """
    turned = []
    for node in list(model.graph):
        matrix = _matrix(node)
        if matrix is None:
            continue
        name = node.inputs[1].name  # type: ignore[union-attr] # _matrix has seen it
        assert name is not None
        _replace(model, node, matrix, name, bits)
        turned.append(name)
    if turned:
        model.graph.opset_imports[_DOMAIN] = 1
    return tuple(turned)


def _matrix(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the constant FP32 [K, N] that a node multiplies with; None: it is not of that kind."""
    if node.op_type not in {"Gemm", "MatMul"} or node.inputs[1] is None or node.inputs[1].dtype != ir.DataType.FLOAT:
        return None
    constant = node.inputs[1].const_value
    if constant is None or len(constant.shape) != 2:
        return None
    plain = all(
        node.attributes.get_float(factor, 1.0) == 1.0 for factor in ("alpha", "beta")
    ) and not node.attributes.get_int("transA", 0)
    if not plain:
        return None
    numbers = constant.numpy()
    return np.ascontiguousarray(numbers.T if node.attributes.get_int("transB", 0) else numbers)


def _replace(model: ir.Model, node: ir.Node, matrix: NDArray[np.float32], name: str, bits: int) -> None:
    """Put MatMulNBits, and an Add where there is a bias, in a node's place."""
    packed, scales = _blocks(matrix, bits)
    held = [_initializer(model, f"{name}_Q{bits}", packed), _initializer(model, f"{name}_scales", scales)]
    inputs, output = list(node.inputs), node.outputs[0]
    rows, columns = matrix.shape
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": BLOCK, "accuracy_level": _ACCURACY_LEVEL}
    bias = inputs[2] if len(inputs) > 2 else None
    product = ir.Value(
        name=output.name if bias is None else f"{output.name}_product", type=output.type, shape=output.shape
    )
    nodes = [
        ir.node(
            "MatMulNBits",
            [inputs[0], *held],
            attributes,
            domain=_DOMAIN,
            outputs=[product],
            name=f"{node.name}_Q{bits}",
        )
    ]
    last = product
    if bias is not None:
        last = ir.Value(name=output.name, type=output.type, shape=output.shape)
        nodes.append(ir.node("Add", [product, bias], outputs=[last], name=f"{node.name}_bias"))
    model.graph.insert_before(node, nodes)
    output.replace_all_uses_with(last, replace_graph_outputs=True)
    matrix_value = inputs[1]
    model.graph.remove(node, safe=True)
    if matrix_value is not None and not matrix_value.uses():
        del model.graph.initializers[name]


def _blocks(matrix: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a matrix in blocks, and their scales, as ONNX Runtime's own quantiser makes them."""
    before, level = list(logging.root.handlers), logging.root.level
    from onnxruntime.quantization import matmul_nbits_quantizer as library  # it sets up logging when it is imported

    logging.root.handlers[:] = before
    logging.root.setLevel(level)
    config = library.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    packed, scales, _zero_points = library.DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix)
    return packed, scales


def _initializer(model: ir.Model, name: str, numbers: NDArray[np.generic]) -> ir.Value:
    """Add a constant to the graph."""
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value

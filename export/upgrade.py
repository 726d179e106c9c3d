"""A graph of an old opset becomes one of today's, by ONNX's own converter."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import onnx
import onnx_ir

from export.convert import PROTOBUF_BYTES, save
from export.onnx_file import first_line
from models.spec import NetweightError

if TYPE_CHECKING:
    from pathlib import Path

OLDEST_OPSET = 13
"""From here on a graph is kept as it came, and an older one is brought here and no further: each step of the converter
is a chance of a mistake. ONNX Runtime promises to run graphs from opset 7 on, but a scale for each channel
(QuantizeLinear's axis) came with 13, and without it there is no int8 variant; and since 13 Softmax and its kin mean what
frameworks mean by them, one axis."""

_FAILURES = (
    onnx.version_converter.ConvertError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)


def upgrade(path: Path, directory: Path) -> tuple[Path, ...]:
    """Write a graph anew with opset `OLDEST_OPSET`.

    Args:
        path: The graph; weights beside it are read.
        directory: An empty one, for the new files.

    Returns:
        The files written; the first is the graph, of the same name.

    Raises:
        NetweightError: the converter cannot do it.
    """
    model = onnx.load(path, load_external_data=False)
    weights = sum(prod(each.dims) * _width(each) for each in model.graph.initializer)
    if weights >= PROTOBUF_BYTES:
        raise NetweightError(
            f"ONNX's converter takes one message of protobuf, up to {PROTOBUF_BYTES:,} bytes; the weights are {weights:,}"
        )
    onnx.load_external_data_for_model(model, str(path.parent))
    try:
        converted = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        return save(onnx_ir.from_proto(converted), directory / path.name)
    except _FAILURES as error:
        raise NetweightError(f"ONNX's converter: {first_line(error)}") from error


def _width(tensor: onnx.TensorProto) -> int:
    """Return the bytes of one value."""
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize

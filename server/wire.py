"""Between protobuf messages and numpy arrays, both ways; pure functions."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from server.errors import InvalidArgumentError
from server.pb import inference_pb2 as pb
from server.tensors import DATATYPES, NUMPY, Array, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Buffer: TypeAlias = "bytes | memoryview"
Contents: TypeAlias = "Sequence[Buffer]"
LARGE_BYTES = 64 * 1024
"""From here on a message is taken apart before it is parsed."""
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}
"""Bytes of the wire types of fixed size."""
LONGEST_VARINT = 10
RAW_INPUT_CONTENTS = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The typed field that carries each datatype; FP16 has none, it is raw only."""


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the caller wants."""

    name: str
    classification: int = 0
    """The k highest as ``value:index:label``; 0: the tensor itself."""


class InferRequest(NamedTuple):
    """A decoded ModelInferRequest."""

    model: str
    version: str
    id: str
    inputs: dict[str, Array]
    outputs: tuple[RequestedOutput, ...]
    """Empty: all, in the model's order."""
    timeout_seconds: float
    """In the queue; 0: the server's setting."""
    priority: int = 0
    """1 is the highest; 0: the model's default."""


def parse(raw: bytes) -> tuple[pb.ModelInferRequest, Contents]:
    """Return a request and its raw contents, which for a large message are views of it and not in the request.

    protobuf would copy the tensors twice, into the message and out of it.

    Raises:
        DecodeError: the bytes are no ModelInferRequest.
    """
    if len(raw) < LARGE_BYTES:
        message = pb.ModelInferRequest.FromString(raw)
        return message, message.raw_input_contents
    head, contents = _split_raw(raw)
    return pb.ModelInferRequest.FromString(head), contents


def decode(message: pb.ModelInferRequest, contents: Contents | None = None) -> InferRequest:
    """Return the arrays and the wishes of a request. Raw contents are viewed, not copied.

    Args:
        message: the request.
        contents: its raw contents, if they are not in it (`parse`).

    Raises:
        InvalidArgumentError: contents and shape disagree, a datatype is unknown, a parameter is of the wrong type.
    """
    where = f"model {message.model_name}"
    inputs: dict[str, Array] = {}
    for tensor, raw in zip(message.inputs, _contents(where, message, contents), strict=True):
        if tensor.name in inputs:
            raise InvalidArgumentError(f"{where}: input {tensor.name!r} is given twice; name each input once")
        inputs[tensor.name] = _array(f"{where}: input {tensor.name!r}", tensor, raw)
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=inputs,
        outputs=tuple(_requested(where, output) for output in message.outputs),
        timeout_seconds=_timeout(where, message.parameters) if message.parameters else 0.0,
        priority=_priority(where, message.parameters) if message.parameters else 0,
    )


def encode(model: str, version: str, request_id: str, outputs: Mapping[str, Array]) -> pb.ModelInferResponse:
    """Return the answer that carries these outputs, raw, in this order."""
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        response.raw_output_contents.append(to_raw(array))
    return response


def to_raw(array: Array) -> bytes:
    """Return an array's bytes as the wire has them: little-endian, row-major, BYTES with their lengths."""
    if array.dtype != np.object_:
        return array.tobytes()
    # strings are str where ONNX Runtime made them, bytes elsewhere
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def from_raw(where: str, datatype: str, shape: tuple[int, ...], raw: Buffer) -> Array:
    """Return the array that these bytes hold; a view of them but for BYTES.

    Raises:
        InvalidArgumentError: the datatype is unknown, or the number of bytes is not the shape's.
    """
    if datatype not in NUMPY:
        raise InvalidArgumentError(f"{where} has datatype {datatype!r}; expected one of {', '.join(NUMPY)}")
    if any(extent < 0 for extent in shape):
        raise InvalidArgumentError(f"{where} has shape {show(shape)}; extents are 0 or more")
    count = math.prod(shape)
    if datatype == "BYTES":
        items = list(_split(where, bytes(raw)))
        if len(items) != count:
            raise InvalidArgumentError(f"{where} of shape {show(shape)} needs {count} elements, got {len(items)}")
        return np.array(items, np.object_).reshape(shape)
    dtype = NUMPY[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidArgumentError(
            f"{where} of {datatype} {show(shape)} needs {count * dtype.itemsize} bytes, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def classify(scores: Array, k: int, labels: Sequence[str]) -> Array:
    """Return the k highest of each sample as BYTES ``value:index:label``, highest first.

    Args:
        scores: [batch, ...]; a sample's scores are flattened.
        k: how many; fewer where there are fewer scores.
        labels: by index; where there is none, ``value:index``.
    """
    flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores.reshape(1, -1)
    k = min(k, flat.shape[1])
    order = np.argsort(-flat.astype(np.float64), axis=1, kind="stable")[:, :k]
    rows = [
        [f"{row[i]:.6f}:{i}{f':{labels[i]}' if i < len(labels) else ''}".encode() for i in best]
        for row, best in zip(flat, order, strict=True)
    ]
    result = np.empty((len(rows), k), np.object_)
    for index, row in enumerate(rows):
        result[index] = row
    return result


def _contents(where: str, message: pb.ModelInferRequest, contents: Contents | None) -> list[Buffer | None]:
    """Return each input's raw bytes, or None for each where the request is typed."""
    typed = [tensor for tensor in message.inputs if tensor.HasField("contents")]
    raw = message.raw_input_contents if contents is None else contents
    if typed and raw:
        raise InvalidArgumentError(f"{where}: raw_input_contents and typed contents in one request; use one of them")
    if typed:
        return [None] * len(message.inputs)
    if len(raw) != len(message.inputs):
        raise InvalidArgumentError(
            f"{where}: {len(message.inputs)} inputs need as many raw_input_contents, got {len(raw)}"
        )
    return list(raw)


def _split_raw(message: bytes) -> tuple[bytes, list[memoryview]]:
    """Return a serialised ModelInferRequest without its raw_input_contents, and these, as views.

    Raises:
        DecodeError: the bytes end inside a field, or a field is of a kind that protobuf has not.
    """
    view = memoryview(message)
    head, contents = [], []
    start = 0
    while start < len(message):
        key, at = _varint(message, start)
        kind = key & 7
        if kind == LENGTH_DELIMITED:
            length, at = _varint(message, at)
            end = at + length
        elif kind == VARINT:
            _, end = _varint(message, at)
        elif kind in FIXED_BYTES:
            end = at + FIXED_BYTES[kind]
        else:
            raise DecodeError(f"wire type {kind} at byte {start}")
        if end > len(message):
            raise DecodeError(f"the message ends inside a field, at byte {len(message)}")
        if key == RAW_INPUT_CONTENTS:
            contents.append(view[at:end])
        else:
            head.append(view[start:end])
        start = end
    return b"".join(head), contents


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place of a serialised message, and the place after it."""
    value = shift = 0
    for place in range(at, min(at + LONGEST_VARINT, len(message))):
        value |= (message[place] & 127) << shift
        if message[place] < 128:
            return value, place + 1
        shift += 7
    raise DecodeError(f"no number at byte {at}")


def _array(where: str, tensor: pb.ModelInferRequest.InferInputTensor, raw: Buffer | None) -> Array:
    shape = tuple(tensor.shape)
    if raw is not None:
        return from_raw(where, tensor.datatype, shape, raw)
    if tensor.datatype not in CONTENTS:
        raise InvalidArgumentError(
            f"{where} has datatype {tensor.datatype!r}; typed contents carry {', '.join(CONTENTS)}"
        )
    if any(extent < 0 for extent in shape):
        raise InvalidArgumentError(f"{where} has shape {show(shape)}; extents are 0 or more")
    values = getattr(tensor.contents, CONTENTS[tensor.datatype])
    if len(values) != math.prod(shape):
        raise InvalidArgumentError(
            f"{where} of shape {show(shape)} needs {math.prod(shape)} elements in {CONTENTS[tensor.datatype]}, "
            f"got {len(values)}"
        )
    try:
        return np.array(values, NUMPY[tensor.datatype]).reshape(shape)
    except OverflowError as error:
        raise InvalidArgumentError(f"{where} has a value out of the range of {tensor.datatype}: {error}") from error


def _split(where: str, raw: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise InvalidArgumentError(f"{where}: BYTES ends inside a length at byte {offset} of {len(raw)}")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > len(raw):
            raise InvalidArgumentError(f"{where}: BYTES element of {length} bytes at byte {offset} of {len(raw)}")
        yield raw[offset : offset + length]
        offset += length


def _requested(where: str, output: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    if "classification" not in output.parameters:
        return RequestedOutput(output.name)
    k = _integer(f"{where}: output {output.name!r}: classification", output.parameters["classification"])
    if k <= 0:
        raise InvalidArgumentError(f"{where}: output {output.name!r}: classification is {k}; expected 1 or more")
    return RequestedOutput(output.name, k)


def _timeout(where: str, parameters: Mapping[str, pb.InferParameter]) -> float:
    if "timeout" not in parameters:
        return 0.0
    microseconds = _integer(f"{where}: timeout", parameters["timeout"])
    if microseconds < 0:
        raise InvalidArgumentError(f"{where}: timeout is {microseconds} microseconds; expected 0 or more")
    return microseconds / 1e6


def _priority(where: str, parameters: Mapping[str, pb.InferParameter]) -> int:
    if "priority" not in parameters:
        return 0
    level = _integer(f"{where}: priority", parameters["priority"])
    if level < 0:
        raise InvalidArgumentError(f"{where}: priority is {level}; expected 0 (the default) or more, 1 is the highest")
    return level


def _integer(where: str, parameter: pb.InferParameter) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidArgumentError(f"{where} came as {kind}; expected int64_param")
    value: int = getattr(parameter, kind)
    return value

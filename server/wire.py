"""Between protobuf messages and numpy arrays, both ways; pure functions."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from server.errors import InvalidArgumentError
from server.limits import Limits
from server.pb import inference_pb2 as pb
from server.shared_memory import BYTE_SIZE, OFFSET, REGION, Part, SharedMemory
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
LONGEST_LENGTH = 1 + 5
"""Bytes of the key of raw_input_contents and of the length after it, which has 32 bits."""
RAW_INPUT_CONTENTS = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED

NO_MEMORY = SharedMemory()
LIMITS = Limits()
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
    part: Part | None = None
    """Where it goes in shared memory; None: into the answer."""


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
    if len(raw) >= LARGE_BYTES:
        with contextlib.suppress(DecodeError):  # what unusual bytes mean, if anything, is protobuf's to say
            head, contents = _split_raw(raw)
            return pb.ModelInferRequest.FromString(head), contents
    message = pb.ModelInferRequest.FromString(raw)
    return message, message.raw_input_contents


def decode(
    message: pb.ModelInferRequest,
    contents: Contents | None = None,
    memory: SharedMemory = NO_MEMORY,
    limits: Limits = LIMITS,
) -> InferRequest:
    """Return the arrays and the wishes of a request. Raw contents are viewed, what is in shared memory is copied.

    Args:
        message: the request.
        contents: its raw contents, if they are not in it (`parse`).
        memory: where tensors are that the message only names.
        limits: held against the request before anything is made of it.

    Raises:
        InvalidArgumentError: contents and shape disagree, a datatype is unknown, a parameter is of the wrong type; or
            the request is beyond a limit.
        NotFoundError: a region of shared memory is not registered.
        UnimplementedError: shared memory is off.
    """
    model, version, request_id, parameters = message.model_name, message.model_version, message.id, message.parameters
    limits.check_head((model, version, request_id), len(message.inputs), len(message.outputs))
    where = f"model {model}"
    if parameters:
        limits.check_parameters(where, parameters)
    inputs: dict[str, Array] = {}
    for tensor, raw in zip(message.inputs, _contents(where, message, contents, memory, limits), strict=True):
        name = tensor.name
        if len(name) > limits.string_characters:
            limits.check_text(f"{where}: an input's name", name)
        if name in inputs:
            raise InvalidArgumentError(f"{where}: input {name!r} is given twice; name each input once")
        inputs[name] = _array(f"{where}: input {name!r}", tensor, raw, limits)
    return InferRequest(
        model=model,
        version=version,
        id=request_id,
        inputs=inputs,
        outputs=tuple([_requested(where, output, memory, limits) for output in message.outputs]),
        timeout_seconds=_timeout(where, parameters) if parameters else 0.0,
        priority=_priority(where, parameters) if parameters else 0,
    )


def encode(
    model: str, version: str, request_id: str, outputs: Mapping[str, Array], asked: Sequence[RequestedOutput] = ()
) -> pb.ModelInferResponse:
    """Return the answer that carries these outputs, raw, in this order.

    Those that were asked into shared memory are written there. In their place the answer has empty raw contents:
    clients look for an output's contents by its position.

    Raises:
        InvalidArgumentError: an output needs more room than it was given.
        UnavailableError: it cannot be written.
    """
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    parts = {each.name: each.part for each in asked if each.part is not None}
    for name, array in outputs.items():
        tensor = response.outputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        if (part := parts.get(name)) is None:
            response.raw_output_contents.append(to_raw(array))
            continue
        raw = to_raw(array) if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data
        tensor.parameters[BYTE_SIZE].int64_param = part.write(f"model {model}: output {name!r}", raw)
        tensor.parameters[REGION].string_param = part.region.name
        tensor.parameters[OFFSET].int64_param = part.offset
        response.raw_output_contents.append(b"")
    return response


def names_memory(message: pb.ModelInferRequest) -> bool:
    """Whether a tensor of the request is, or goes, into shared memory."""
    return any(REGION in each.parameters for each in message.inputs) or any(
        REGION in each.parameters for each in message.outputs
    )


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
        items = list(itertools.islice(_split(where, bytes(raw)), min(count, len(raw)) + 1))
        if len(items) != count:
            got = "more" if len(items) > count else len(items)
            raise InvalidArgumentError(f"{where} of shape {show(shape)} needs {count} elements, got {got}")
        return _shaped(where, np.array(items, np.object_), shape)
    dtype = NUMPY[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidArgumentError(
            f"{where} of {datatype} {show(shape)} needs {count * dtype.itemsize} bytes, got {len(raw)}"
        )
    return _shaped(where, np.frombuffer(raw, dtype), shape)


def classify(scores: Array, k: int, labels: Sequence[str]) -> Array:
    """Return the k highest of each sample as BYTES ``value:index:label``, highest first.

    Args:
        scores: [batch, ...]; a sample's scores are flattened.
        k: how many; fewer where there are fewer scores.
        labels: by index; where there is none, ``value:index``.
    """
    samples = len(scores) if scores.ndim > 1 else 1
    flat = scores.reshape(samples, scores.size // max(1, samples)).astype(np.float64)
    k = min(k, flat.shape[1])
    order = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    rows = [
        [f"{row[i]:.6f}:{i}{f':{labels[i]}' if i < len(labels) else ''}".encode() for i in best]
        for row, best in zip(flat, order, strict=True)
    ]
    result = np.empty((len(rows), k), np.object_)
    for index, row in enumerate(rows):
        result[index] = row
    return result


def _contents(
    where: str, message: pb.ModelInferRequest, contents: Contents | None, memory: SharedMemory, limits: Limits
) -> list[Buffer | None]:
    """Return each input's raw bytes, or None for each that is typed."""
    raw = message.raw_input_contents if contents is None else contents
    if not any(tensor.parameters for tensor in message.inputs):
        return _sent(where, message.inputs, raw)
    for each in message.inputs:
        limits.check_parameters(f"{where}: input {each.name!r}", each.parameters)
    named = memory.inputs(where, [(each.name, each.parameters) for each in message.inputs])
    if any(each.name in named and each.HasField("contents") for each in message.inputs):
        raise InvalidArgumentError(f"{where}: an input is in shared memory and has contents; use one of them")
    sent = iter(_sent(where, [each for each in message.inputs if each.name not in named], raw))
    return [named[each.name] if each.name in named else next(sent) for each in message.inputs]


def _sent(where: str, inputs: Sequence[pb.ModelInferRequest.InferInputTensor], raw: Contents) -> list[Buffer | None]:
    """Return the raw bytes of each input that is in the message, or None for each where the request is typed."""
    typed = [tensor for tensor in inputs if tensor.HasField("contents")]
    if typed and raw:
        raise InvalidArgumentError(f"{where}: raw_input_contents and typed contents in one request; use one of them")
    if typed:
        return [None] * len(inputs)
    if len(raw) != len(inputs):
        raise InvalidArgumentError(f"{where}: {len(inputs)} inputs need as many raw_input_contents, got {len(raw)}")
    return list(raw)


def _split_raw(message: bytes) -> tuple[bytes, list[memoryview]]:
    """Return a serialised ModelInferRequest without its raw_input_contents, and these, as views.

    Raises:
        DecodeError: the bytes end inside a field, or a field is not written as writers do: a group, a long-winded number.
    """
    view = memoryview(message)
    head, contents = [], []
    start = 0
    while start < len(message):
        key, content = _varint(message, start)
        kind = key & 7
        end = content
        if kind == LENGTH_DELIMITED:
            length, content = _varint(message, content)
            end = content + length
        elif kind == VARINT:
            _, end = _varint(message, content)
        elif kind in FIXED_BYTES:
            end = content + FIXED_BYTES[kind]
        else:
            raise DecodeError(f"wire type {kind} at byte {start}")
        if end > len(message):
            raise DecodeError(f"the message ends inside a field, at byte {len(message)}")
        if key == RAW_INPUT_CONTENTS:
            if content - start > LONGEST_LENGTH:
                raise DecodeError(f"a long-winded number at byte {start}")
            contents.append(view[content:end])
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


def _array(where: str, tensor: pb.ModelInferRequest.InferInputTensor, raw: Buffer | None, limits: Limits) -> Array:
    shape = tuple(tensor.shape)
    limits.check_elements(where, shape, listed=raw is None or tensor.datatype == "BYTES")
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
        array = np.array(values, NUMPY[tensor.datatype])
    except OverflowError as error:
        raise InvalidArgumentError(f"{where} has a value out of the range of {tensor.datatype}: {error}") from error
    return _shaped(where, array, shape)


def _shaped(where: str, flat: Array, shape: tuple[int, ...]) -> Array:
    """Return as many elements as the shape has in that shape; one without elements may still be beyond any array."""
    try:
        return flat.reshape(shape)
    except ValueError as error:
        raise InvalidArgumentError(f"{where} has shape {show(shape)}, which no array can have: {error}") from error


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


def _requested(
    where: str, output: pb.ModelInferRequest.InferRequestedOutputTensor, memory: SharedMemory, limits: Limits
) -> RequestedOutput:
    name, parameters = output.name, output.parameters
    if len(name) > limits.string_characters:
        limits.check_text(f"{where}: an output's name", name)
    if not parameters:
        return RequestedOutput(name)
    where = f"{where}: output {name!r}"
    limits.check_parameters(where, parameters)
    part = memory.named(where, output.parameters)
    if "classification" not in output.parameters:
        return RequestedOutput(output.name, part=part)
    k = _integer(f"{where}: classification", output.parameters["classification"])
    if k <= 0:
        raise InvalidArgumentError(f"{where}: classification is {k}; expected 1 or more")
    limits.check_classification(where, k)
    return RequestedOutput(output.name, k, part)


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

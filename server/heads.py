"""What messages have in common, worked out once: all of them but their id and their tensors' bytes.

Callers send the same head again and again: a request's is found by its bytes, an answer's by what it consists of.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from server import wire
from server.pb import inference_pb2 as pb
from server.tensors import NUMPY, Array

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec: TypeAlias = "tuple[str, str, tuple[int, ...]]"
"""A tensor's name, datatype and shape."""
MOST = 1024
"""Heads that are kept; all are dropped when there are more. A head of a kilobyte or more is not kept."""
LONGEST_BYTES = 1024
_ID, _RAW = 3, 6
"""Field numbers in ModelInferResponse."""


class RequestHead(NamedTuple):
    """A decoded ModelInferRequest without its id and contents."""

    model: str
    version: str
    wishes: tuple[float, int, tuple[tuple[str, int], ...]]
    """Timeout in seconds, priority, and each requested output with its classification."""
    specs: tuple[Spec, ...]
    sizes: list[int]
    """The bytes of each tensor."""


class RequestHeads:
    """Reads requests; each head is decoded once."""

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def read(self, message: pb.ModelInferRequest, contents: wire.Contents) -> RequestHead | None:
        """Return a request's head; None: it is of no known kind, and is to be decoded.

        Args:
            message: the request; it has lost its raw contents afterwards.
            contents: the raw contents, a copy.
        """
        head = self._known.get(_key(message))
        return head if head is not None and head.sizes == [len(each) for each in contents] else None

    def learn(self, message: pb.ModelInferRequest, contents: wire.Contents, request: wire.InferRequest) -> None:
        """Keep the head of a request that was decoded, if others like it can be read by it."""
        if not contents or any(array.dtype.hasobject for array in request.inputs.values()):
            return
        key = _key(message)
        if len(key) > LONGEST_BYTES:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = RequestHead(
            request.model,
            request.version,
            wishes(request),
            tuple((each.name, each.datatype, tuple(each.shape)) for each in message.inputs),
            [len(each) for each in contents],
        )


def _key(message: pb.ModelInferRequest) -> bytes:
    """Return a message as it goes over the wire, without its id and its raw contents; it loses the latter."""
    request_id = message.id
    message.ClearField("id")
    message.ClearField("raw_input_contents")
    key = message.SerializeToString()
    message.id = request_id
    return key


class AnswerHeads:
    """Writes answers; each head is encoded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[Spec, ...]], tuple[bytes, list[bytes]]] = {}

    def write(
        self, model: str, version: str, request_id: str, specs: tuple[Spec, ...], contents: Sequence[bytes]
    ) -> bytes:
        """Return a ModelInferResponse as it goes over the wire.

        Args:
            model: the model's name.
            version: that ran.
            request_id: of the request.
            specs: of the outputs.
            contents: each output's bytes, as raw_output_contents has them.
        """
        key = (model, version, specs)
        if key not in self._known:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = _head(*key)
        head, lengths = self._known[key]
        parts = [head]
        if request_id:
            text = request_id.encode()
            parts += (prefix(_ID, len(text)), text)
        for before, (_, datatype, _), raw in zip(lengths, specs, contents, strict=True):
            parts += (before if datatype != "BYTES" else prefix(_RAW, len(raw)), raw)
        return b"".join(parts)


def arrays(specs: tuple[Spec, ...], contents: wire.Contents) -> dict[str, Array]:
    """Return the tensors, views of these bytes; none of them is BYTES."""
    return {
        name: np.frombuffer(raw, NUMPY[datatype]).reshape(shape)
        for (name, datatype, shape), raw in zip(specs, contents, strict=True)
    }


def wishes(request: wire.InferRequest) -> tuple[float, int, tuple[tuple[str, int], ...]]:
    """Return what a request asks for besides its inputs, as `RequestHead.wishes`."""
    outputs = tuple((each.name, each.classification) for each in request.outputs)
    return request.timeout_seconds, request.priority, outputs


def _head(model: str, version: str, specs: tuple[Spec, ...]) -> tuple[bytes, list[bytes]]:
    """Return all of an answer but its id and contents, and what stands before each tensor's contents."""
    answer = pb.ModelInferResponse(model_name=model, model_version=version)
    lengths = []
    for name, datatype, shape in specs:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
        lengths.append(prefix(_RAW, math.prod(shape) * NUMPY[datatype].itemsize))
    return answer.SerializeToString(), lengths


def prefix(field: int, length: int) -> bytes:
    """Return the tag of a length-delimited field, and its length as a varint. Fields may come in any order."""
    written = bytearray([field << 3 | 2])
    while length > 127:
        written.append(length & 127 | 128)
        length >>= 7
    written.append(length)
    return bytes(written)

"""What comes off the wire: taken apart by hand as protobuf does it, decoded or refused, whatever it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from server import wire
from server.errors import InvalidArgumentError, UnimplementedError
from server.model import UNORDERED
from server.pb import inference_pb2 as pb
from server.tensors import NUMPY
from tests.fuzz.mutations import Draw, edited, mutated
from tests.fuzz.requests import WORDS, good

IN_PROCESS = settings(max_examples=5 * settings().max_examples)
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def messages() -> st.SearchStrategy[pb.ModelInferRequest]:
    return st.sampled_from(good()).flatmap(lambda each: edited(each, WORDS))


def _varint(number: int, extra: int) -> bytes:
    """Return a number with so many bytes more than it needs."""
    groups = [number >> shift & 127 for shift in range(0, max(7, number.bit_length()), 7)] + [0] * extra
    return bytes([*(each | 128 for each in groups[:-1]), groups[-1]])


@st.composite
def fields(draw: Draw) -> bytes:
    """Return a field of any number and wire type, groups and needlessly long numbers among them."""
    number = draw(st.sampled_from((0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 99, 2**29 - 1, 2**29)))
    kind = draw(st.sampled_from((0, 1, 2, 2, 2, 2, 2, 3, 4, 5, 6, 7)))
    extra = draw(st.sampled_from((0, 0, 0, 0, 1, 3, 4, 5, 8, 9)))
    key = _varint(number << 3 | kind, extra)
    if kind == 0:
        return key + _varint(draw(st.integers(0, 2**64 + 5)), draw(st.sampled_from((0, 0, 1, 9))))
    if kind == 2:
        content: bytes = draw(st.binary(max_size=8) | st.just(b"\xff\xfe"))
        length = len(content) + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 2**31, 2**32)))
        return key + _varint(max(0, length), draw(st.sampled_from((0, 0, 0, 1, 4, 5, 9)))) + content
    if kind == 3:
        inner = b"".join(draw(st.lists(fields(), max_size=2)))
        return key + inner + _varint(draw(st.sampled_from((number, 1))) << 3 | 4, 0)
    fixed: bytes = draw(st.binary(min_size=8, max_size=8))
    return key + fixed[: {1: 8, 5: 4}.get(kind, 0)]


SERIALISED = (
    st.lists(fields(), max_size=5).map(b"".join)
    | messages().flatmap(lambda each: mutated(each.SerializeToString()))
    | messages().map(lambda each: each.SerializeToString())
)


@IN_PROCESS
@given(SERIALISED, st.booleans())
def test_both_parsers_agree(raw: bytes, large: bool) -> None:
    """A message is the same, or refused alike, whether protobuf reads it or it is taken apart by hand first."""
    if large:  # so that `parse` takes it apart
        raw += pb.ModelInferRequest(raw_input_contents=[bytes(wire.LARGE_BYTES)]).SerializeToString()
    else:
        wire_large, wire.LARGE_BYTES = wire.LARGE_BYTES, 0
    try:
        expected = pb.ModelInferRequest.FromString(raw)
    except DecodeError:
        expected = None
    try:
        message, contents = wire.parse(raw)
    except DecodeError:
        message = None
    finally:
        if not large:
            wire.LARGE_BYTES = wire_large
    assert (message is None) == (expected is None)
    if message is not None and expected is not None:
        assert [bytes(each) for each in contents] == list(expected.raw_input_contents)
        del message.raw_input_contents[:], expected.raw_input_contents[:]
        assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@IN_PROCESS
@given(messages())
def test_a_message_is_decoded_or_refused(message: pb.ModelInferRequest) -> None:
    """Decoding gives arrays of the shapes and types that were said, or says what is wrong; it never fails otherwise."""
    try:
        request = wire.decode(message)
    except (InvalidArgumentError, UnimplementedError):  # the latter: shared memory is off
        return
    assert len(request.inputs) == len(message.inputs)
    for tensor in message.inputs:
        array = request.inputs[tensor.name]
        assert array.shape == tuple(tensor.shape)
        assert array.dtype == NUMPY[tensor.datatype]
        assert array.size == math.prod(tensor.shape)
    for array, raw in zip(request.inputs.values(), message.raw_input_contents, strict=False):
        assert wire.to_raw(array) == raw
    assert request.priority >= 0
    assert request.timeout_seconds >= 0


@IN_PROCESS
@given(
    st.sampled_from(sorted(NUMPY)),
    st.lists(st.sampled_from((0, 1, 2, 3, 2**31, 2**62, 2**63 - 1, -1, -(2**63))), max_size=70),
    st.binary(max_size=40),
)
def test_raw_bytes_are_an_array_or_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    """Any shape over any bytes: an array of both, or INVALID_ARGUMENT; extents may be huge, their product too."""
    try:
        array = wire.from_raw("x", datatype, tuple(shape), raw)
    except InvalidArgumentError:
        return
    assert array.shape == tuple(shape)
    assert wire.to_raw(array) == raw


@IN_PROCESS
@given(
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(sorted(NUMPY.keys() - set(UNORDERED))),
    st.integers(1, 2**63 - 1),
)
def test_numbers_can_be_classified(shape: tuple[int, ...], datatype: str, k: int) -> None:
    """The k highest of any numbers are BYTES [batch, min(k, n)], whatever their type and shape."""
    scores = np.ones(shape, NUMPY[datatype])
    rows = shape[0] if len(shape) > 1 else 1
    assert wire.classify(scores, k, ("a",)).shape == (rows, min(k, scores.size // max(1, rows)))

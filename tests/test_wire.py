"""Between messages and arrays: what is decoded, encoded and refused."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from server import wire
from server.client import arrays, infer_request
from server.errors import InvalidArgumentError
from server.pb import inference_pb2 as pb
from server.tensors import NUMPY


@pytest.mark.parametrize("datatype", [name for name in NUMPY if name != "BYTES"])
def test_raw_round_trip(datatype: str) -> None:
    """An array's raw bytes give the array back, for every datatype."""
    array = np.arange(6).reshape(2, 3).astype(NUMPY[datatype])
    back = wire.from_raw("x", datatype, (2, 3), wire.to_raw(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_raw_is_viewed_not_copied() -> None:
    """Decoding copies no tensor: the array's memory is the message's."""
    raw = bytes(range(4))
    assert np.shares_memory(wire.from_raw("x", "UINT8", (4,), raw), np.frombuffer(raw, np.uint8))


def test_bytes_are_elements_with_lengths() -> None:
    """A BYTES element is a 4-byte little-endian length and that many bytes."""
    array = np.array([b"ab", b""], np.object_)
    raw = wire.to_raw(array)
    assert raw == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"
    assert wire.from_raw("x", "BYTES", (2,), raw).tolist() == [b"ab", b""]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("FP32", (2,), b"1234567", r"x of FP32 \[2\] needs 8 bytes, got 7"),
        ("FLOAT", (2,), b"", "x has datatype 'FLOAT'; expected one of BOOL"),
        ("FP32", (-1,), b"", r"x has shape \[-1\]; extents are 0 or more"),
        ("BYTES", (1,), b"\x05\x00\x00\x00ab", "BYTES element of 5 bytes at byte 4 of 6"),
        ("BYTES", (1,), b"\x05\x00", "ends inside a length at byte 0 of 2"),
        ("BYTES", (2,), b"\x01\x00\x00\x00a", r"of shape \[2\] needs 2 elements, got 1"),
    ],
)
def test_wrong_raw_contents_are_refused(datatype: str, shape: tuple[int, ...], raw: bytes, text: str) -> None:
    """Bytes that are not the shape's are refused with both numbers, before anything is allocated."""
    with pytest.raises(InvalidArgumentError, match=text):
        wire.from_raw("x", datatype, shape, raw)


def test_typed_contents() -> None:
    """Typed contents give the same array as raw ones."""
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[3])
    tensor.contents.int_contents.extend([1, -2, 3])
    array = wire.decode(message).inputs["x"]
    assert array.dtype == np.int8
    assert array.tolist() == [1, -2, 3]


def test_typed_contents_that_do_not_fit_are_refused() -> None:
    """The wrong number of elements, a value out of range and a datatype without a typed field are refused."""
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[2])
    tensor.contents.int_contents.append(1)
    with pytest.raises(InvalidArgumentError, match="needs 2 elements in int_contents, got 1"):
        wire.decode(message)
    tensor.contents.int_contents.append(1000)
    with pytest.raises(InvalidArgumentError, match="out of the range of INT8"):
        wire.decode(message)
    tensor.datatype = "FP16"
    with pytest.raises(InvalidArgumentError, match="typed contents carry BOOL"):
        wire.decode(message)


def test_raw_and_typed_do_not_mix() -> None:
    """Both in one request, or neither, is refused."""
    message = infer_request("m", {"x": np.zeros(2, np.float32)})
    message.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(InvalidArgumentError, match="raw_input_contents and typed contents in one request"):
        wire.decode(message)
    message = infer_request("m", {"x": np.zeros(2, np.float32)})
    del message.raw_input_contents[:]
    with pytest.raises(InvalidArgumentError, match="1 inputs need as many raw_input_contents, got 0"):
        wire.decode(message)


def test_parameters() -> None:
    """Timeout is microseconds and checked; unknown parameters are tolerated."""
    message = infer_request("m", {"x": np.zeros(2, np.float32)})
    message.parameters["timeout"].int64_param = 2_500_000
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    assert wire.decode(message).timeout_seconds == 2.5
    message.parameters["timeout"].int64_param = -1
    with pytest.raises(InvalidArgumentError, match="timeout is -1 microseconds"):
        wire.decode(message)
    message.parameters["timeout"].string_param = "soon"
    with pytest.raises(InvalidArgumentError, match="came as string_param; expected int64_param"):
        wire.decode(message)


@pytest.mark.parametrize("k", [0, -1])
def test_classification_needs_a_positive_count(k: int) -> None:
    """Classification below 1 is refused."""
    message = infer_request("m", {}, outputs=["y"])
    message.outputs[0].parameters["classification"].int64_param = k
    with pytest.raises(InvalidArgumentError, match=f"classification is {k}; expected 1 or more"):
        wire.decode(message)


def test_classify() -> None:
    """The k highest come first, six decimals, with labels where there are any; k above n gives n."""
    scores = np.array([[0.25, 0.5, 0.125], [3, 1, 2]], np.float32)
    assert wire.classify(scores, 2, ("a", "b")).tolist() == [
        [b"0.500000:1:b", b"0.250000:0:a"],
        [b"3.000000:0:a", b"2.000000:2"],
    ]
    assert wire.classify(scores, 9, ()).shape == (2, 3)
    assert wire.classify(np.array([1, 1], np.float32), 1, ()).tolist() == [[b"1.000000:0"]]


def test_answers_are_raw_and_in_order() -> None:
    """An answer has one raw entry for each output, in the order given, and echoes the id."""
    answer = wire.encode("m", "3", "id", {"b": np.zeros((1, 2), np.float32), "a": np.array([[b"x"]], np.object_)})
    assert [each.name for each in answer.outputs] == ["b", "a"]
    assert [each.datatype for each in answer.outputs] == ["FP32", "BYTES"]
    assert len(answer.raw_output_contents) == 2
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "id")
    assert arrays(answer)["a"].tolist() == [[b"x"]]


def test_a_large_message_is_taken_apart_without_a_copy() -> None:
    """From LARGE_BYTES on, contents are views of the message, and decoding gives what protobuf's own parser gives."""
    big, small = np.arange(wire.LARGE_BYTES, dtype=np.uint8).reshape(2, -1), np.array([1.5], np.float32)
    message = infer_request("m", {"big": big, "small": small}, outputs=["a"], request_id="seven")
    message.parameters["timeout"].int64_param = 10**6
    raw = message.SerializeToString()
    head, contents = wire.parse(raw)
    assert not head.raw_input_contents
    assert all(isinstance(each, memoryview) and each.obj is raw for each in contents)
    taken, decoded = wire.decode(head, contents), wire.decode(message)
    assert taken._replace(inputs={}) == decoded._replace(inputs={})
    for name, array in decoded.inputs.items():
        np.testing.assert_array_equal(taken.inputs[name], array)
        assert np.shares_memory(taken.inputs[name], np.frombuffer(raw, np.uint8))


def test_unknown_fields_of_every_kind_are_passed_over() -> None:
    """A later protocol's fields do not hinder: varint, 8 bytes, a length and bytes, 4 bytes."""
    raw = infer_request("m", {"x": np.zeros(wire.LARGE_BYTES, np.uint8)}).SerializeToString()
    extra = b"\xf8\x07\xac\x02" + b"\xf9\x07" + bytes(8) + b"\xfa\x07\x03abc" + b"\xfd\x07" + bytes(4)
    head, contents = wire.parse(extra + raw)
    assert wire.decode(head, contents).inputs["x"].shape == (wire.LARGE_BYTES,)


@pytest.mark.parametrize("cut", [1, 70, wire.LARGE_BYTES])
def test_a_large_message_that_is_cut_off_is_refused(cut: int) -> None:
    """A length beyond the end, or a number that does not end, is an error as with protobuf's own parser."""
    raw = infer_request("m", {"x": np.zeros(2 * wire.LARGE_BYTES, np.uint8)}).SerializeToString()
    with pytest.raises(DecodeError):
        wire.parse(raw[:-cut])
    with pytest.raises(DecodeError):
        wire.parse(raw + b"\xff" * cut)
    with pytest.raises(DecodeError):
        wire.parse(raw + b"\x0f")

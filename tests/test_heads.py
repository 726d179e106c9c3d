"""Heads of messages: what is worked out once stands for what would be worked out anew."""

from __future__ import annotations

import numpy as np
import pytest

from server import heads, wire
from server.client import infer_request
from server.errors import InvalidArgumentError
from server.heads import AnswerHeads, RequestHeads
from server.pb import inference_pb2 as pb
from server.tensors import DATATYPES

X = np.arange(12, dtype=np.float32).reshape(3, 4)
TEXT = np.array([b"caf\xc3\xa9", b""], np.object_)


def request(**changes: object) -> pb.ModelInferRequest:
    message = infer_request("m", {"x": X, "y": X[:1]}, outputs=["a"], classification=3, request_id="seven")
    message.parameters["timeout"].int64_param = 5_000_000
    message.parameters["priority"].uint64_param = 2
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def learnt() -> RequestHeads:
    known = RequestHeads()
    message = request()
    known.learn(message, list(message.raw_input_contents), wire.decode(request()))
    return known


def test_a_known_head_reads_as_decoding_does() -> None:
    """Requests that differ in id and contents alone are read by one head, to what decoding gives."""
    message = request(id="eight")
    message.raw_input_contents[0] = (X + 1).tobytes()
    decoded = wire.decode(message)
    contents = list(message.raw_input_contents)
    head = learnt().read(message, contents)
    assert head is not None
    assert (head.model, head.version, head.wishes) == ("m", "", (5.0, 2, (("a", 3),)))
    assert head.wishes == heads.wishes(decoded)
    arrays = heads.arrays(head.specs, contents)
    assert list(arrays) == list(decoded.inputs)
    for name, array in decoded.inputs.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("field", ["model_name", "model_version"])
def test_another_head_is_not_taken_for_it(field: str) -> None:
    """A request that differs in anything else is not read, and but for its raw contents left as it was."""
    message, same = request(**{field: "other"}), request(**{field: "other"})
    assert learnt().read(message, list(message.raw_input_contents)) is None
    same.ClearField("raw_input_contents")
    assert message == same


def test_wrong_contents_are_left_to_decoding() -> None:
    """Contents of another length, missing or surplus ones are not read, so that decoding says what is wrong."""
    for contents in ([X.tobytes(), b"short"], [X.tobytes()], [X.tobytes(), X[:1].tobytes(), b""]):
        message = request()
        del message.raw_input_contents[:]
        message.raw_input_contents.extend(contents)
        assert learnt().read(message, contents) is None
        with pytest.raises(InvalidArgumentError):
            wire.decode(message, contents)


def test_what_cannot_be_read_by_its_head_is_not_learnt() -> None:
    """Text, typed contents, no inputs and very long heads are decoded each time."""
    typed = pb.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(7)
    for message in (
        infer_request("m", {"x": TEXT}),
        infer_request("m" * heads.LONGEST_BYTES, {"x": X}),
        pb.ModelInferRequest(model_name="m"),
        typed,
    ):
        known = RequestHeads()
        contents = list(message.raw_input_contents)
        known.learn(message, contents, wire.decode(message, contents))
        assert known.read(message, contents) is None


def test_the_heads_kept_are_bounded() -> None:
    """However many heads callers invent, only so many are kept."""
    known, answers = RequestHeads(), AnswerHeads()
    for number in range(heads.MOST + 10):
        message = infer_request(f"m{number}", {"x": X})
        known.learn(message, list(message.raw_input_contents), wire.decode(message))
        answers.write(f"m{number}", "1", "", (), ())
    assert len(known._known) <= heads.MOST
    assert len(answers._known) <= heads.MOST


def test_answers_are_those_of_the_encoder() -> None:
    """Written answers parse to the message that the encoder makes, for ids, texts and lengths of all kinds."""
    answers = AnswerHeads()
    for request_id in ("", "seven", "\u00e9" * 100):
        for outputs in ({"a": X, "b": X[:0]}, {"t": TEXT, "big": np.ones((3, 70000), np.uint8)}, {}):
            specs = tuple((name, DATATYPES[array.dtype], array.shape) for name, array in outputs.items())
            contents = [wire.to_raw(array) for array in outputs.values()]
            for _ in range(2):
                written = answers.write("m", "3", request_id, specs, contents)
                assert pb.ModelInferResponse.FromString(written) == wire.encode("m", "3", request_id, outputs)

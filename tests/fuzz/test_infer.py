"""ModelInfer against the real server: messages that are nearly right, and bytes that are nearly a message."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from server.infer_call import INTERNAL
from server.pb import inference_pb2 as pb
from tests.fuzz.mutations import edited, mutated
from tests.fuzz.requests import IDENTITIES, WORDS, good
from tests.fuzz.target import Target


def _serialised(message: pb.ModelInferRequest) -> bytes:
    return message.SerializeToString()


pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@given(st.sampled_from(good()).flatmap(lambda each: edited(each, WORDS)))
def test_any_message_is_answered(target: Target, message: pb.ModelInferRequest) -> None:
    """Whatever a message's fields hold: the right answer, or an error of the contract; and the server goes on."""
    hold(message, target.send(message.SerializeToString()))


@given(st.sampled_from(good()).flatmap(lambda each: mutated(each.SerializeToString())))
def test_any_bytes_are_answered(target: Target, raw: bytes) -> None:
    """Bytes that are no ModelInferRequest, or another than was meant, are answered just so."""
    answer = target.send(raw)
    if isinstance(answer, pb.ModelInferResponse):
        hold(pb.ModelInferRequest.FromString(raw), answer)


@given(
    st.lists(st.sampled_from(good()).flatmap(lambda each: edited(each, WORDS)).map(_serialised) | st.binary(max_size=9))
)
def test_any_stream_is_answered(target: Target, messages: list[bytes]) -> None:
    """A stream has an answer to each of its messages, in their order, and ends when its caller ends it."""
    answers = target.stream(messages)
    assert len(answers) == len(messages)
    for raw, answer in zip(messages, answers, strict=True):
        if not answer.error_message:
            hold(pb.ModelInferRequest.FromString(raw), answer.infer_response)
        else:
            assert answer.error_message != INTERNAL


def test_large_bytes_are_answered(target: Target) -> None:
    """A large message, which is taken apart by hand, is refused where it is cut off or spoilt."""
    big = pb.ModelInferRequest(model_name="scale", raw_input_contents=[bytes(3 * 2**20)]).SerializeToString()
    for raw in (big, big[:-1], big + b"\x0b", b"\x0b\x0c" + big, big + b"\xba\x80\x80\x80\x00\x00", b"\xff" * len(big)):
        answer = target.send(raw)
        assert answer.code().name == "INVALID_ARGUMENT", answer
        assert ("the message is no" in answer.details()) == _is_no_message(raw)


def hold(message: pb.ModelInferRequest, answer: object) -> None:
    """Hold an answer against what was asked; errors have been looked at."""
    if not isinstance(answer, pb.ModelInferResponse):
        return
    assert (answer.model_name, answer.id) == (message.model_name, message.id)
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        assert not raw or "shared_memory_region" not in output.parameters
    wishes = any(each.parameters for each in message.inputs) or any(each.parameters for each in message.outputs)
    plain = message.raw_input_contents and not wishes
    if plain and message.model_name == "scale":
        sent, got = (
            np.frombuffer(each[0], np.float32) for each in (message.raw_input_contents, answer.raw_output_contents)
        )
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(got, 2 * sent)
    if plain and message.model_name in IDENTITIES:
        assert answer.raw_output_contents[0] == message.raw_input_contents[0]
        assert answer.outputs[0].shape == message.inputs[0].shape


def _is_no_message(raw: bytes) -> bool:
    try:
        pb.ModelInferRequest.FromString(raw)
    except DecodeError:
        return True
    return False

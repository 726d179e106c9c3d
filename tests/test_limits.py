"""Limits: what is beyond one is refused with its setting's name, before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from server import wire
from server.client import infer_request
from server.config import Settings
from server.errors import InvalidArgumentError
from server.limits import MOST_DIMENSIONS, Limits
from server.pb import inference_pb2 as pb

SMALL = Limits(tensors=2, elements=8, listed_elements=4, parameters=2, string_characters=20)


def request(datatype: str = "FP32", shape: tuple[int, ...] = (2,), raw: bytes = bytes(8)) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message


def long_name(message: pb.ModelInferRequest) -> None:
    message.model_name = "m" * 21


def long_version(message: pb.ModelInferRequest) -> None:
    message.model_version = "1" * 21


def long_id(message: pb.ModelInferRequest) -> None:
    message.id = "i" * 21


def long_input(message: pb.ModelInferRequest) -> None:
    message.inputs[0].name = "x" * 21


def long_output(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="y" * 21)


def many_inputs(message: pb.ModelInferRequest) -> None:
    for name in ("y", "z"):
        message.inputs.add(name=name, datatype="FP32", shape=[2])


def many_outputs(message: pb.ModelInferRequest) -> None:
    for name in ("a", "b", "c"):
        message.outputs.add(name=name)


def many_parameters(message: pb.ModelInferRequest) -> None:
    for name in ("a", "b", "c"):
        message.parameters[name].bool_param = True


def long_parameter(message: pb.ModelInferRequest) -> None:
    message.parameters["a" * 21].bool_param = True


def long_value(message: pb.ModelInferRequest) -> None:
    message.parameters["a"].string_param = "a" * 21


def parameters_of_an_input(message: pb.ModelInferRequest) -> None:
    for name in ("a", "b", "c"):
        message.inputs[0].parameters[name].bool_param = True


def parameters_of_an_output(message: pb.ModelInferRequest) -> None:
    output = message.outputs.add(name="y")
    for name in ("a", "b", "c"):
        output.parameters[name].bool_param = True


def many_classes(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="y").parameters["classification"].int64_param = 5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (long_name, "a name, version or id: got 21 characters; expected at most 20 .*--max-string-characters"),
        (long_version, "a name, version or id: got 21 characters"),
        (long_id, "a name, version or id: got 21 characters"),
        (long_input, "an input's name: got 21 characters"),
        (long_output, "an output's name: got 21 characters"),
        (many_inputs, "got 3 inputs or outputs; expected at most 2 .*--max-tensors"),
        (many_outputs, "got 3 inputs or outputs"),
        (many_parameters, "model m: got 3 parameters; expected at most 2 .*--max-parameters"),
        (long_parameter, "a parameter's name: got 21 characters"),
        (long_value, "parameter 'a': got 21 characters"),
        (parameters_of_an_input, "input 'x': got 3 parameters"),
        (parameters_of_an_output, "output 'y': got 3 parameters"),
        (many_classes, "output 'y': got 5 classes; expected at most 4 .*--max-listed-elements"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(change: Callable[[pb.ModelInferRequest], None], text: str) -> None:
    """A request within the limits passes; one beyond any of them is refused, with both numbers and the setting."""
    message = request()
    wire.decode(message, limits=SMALL)
    change(message)
    with pytest.raises(InvalidArgumentError, match=text):
        wire.decode(message, limits=SMALL)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request(shape=(3, 3), raw=bytes(36)), "input 'x': got 9 elements; expected at most 8 .*--max-tensor-elements"),
        (request(shape=(2**62, 2**62), raw=b""), "expected at most 8"),
        (request("BYTES", (5,), bytes(20)), "got 5 elements as BYTES or typed contents; expected at most 4"),
        (request(shape=(1,) * 33), f"has 33 dimensions; expected at most {MOST_DIMENSIONS}"),
        (request(shape=(2**63 - 1,) * 10**6), "has 1000000 dimensions"),
    ],
)
def test_large_tensors_are_refused(message: pb.ModelInferRequest, text: str) -> None:
    """Elements and dimensions are bounded, those that cost an object each more tightly."""
    with pytest.raises(InvalidArgumentError, match=text):
        wire.decode(message, limits=SMALL)


def test_typed_contents_are_bounded() -> None:
    """Each element of typed contents is an object for a while: they count as BYTES do."""
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[5])
    tensor.contents.fp32_contents.extend([0.0] * 5)
    with pytest.raises(InvalidArgumentError, match="got 5 elements as BYTES or typed contents"):
        wire.decode(message, limits=SMALL)


def test_texts_beyond_the_shape_are_not_made() -> None:
    """Millions of empty texts for a shape of one element are refused once there is one too many."""
    made = 0

    def counting(_: str, raw: bytes) -> Iterator[bytes]:
        nonlocal made
        for _each in range(len(raw) // 4):
            made += 1
            yield b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_split", counting)
        with pytest.raises(InvalidArgumentError, match="needs 1 elements, got more"):
            wire.decode(request("BYTES", (1,), bytes(4 * 10**6)))
    assert made == 2


def test_settings_give_the_limits() -> None:
    """The settings' defaults are the limits' own, and each setting reaches its limit."""
    assert Settings().limits == Limits()
    chosen = Settings(
        max_tensors=2, max_tensor_elements=8, max_listed_elements=4, max_parameters=2, max_string_characters=64
    )
    assert chosen.limits == Limits(2, 8, 4, 2, 64)


def test_defaults_hold_no_image_back() -> None:
    """A batch of 64 pictures of 224 x 224 is well within the defaults."""
    pictures = np.zeros((64, 224, 224, 3), np.uint8)
    assert wire.decode(infer_request("vgg16", {"image": pictures})).inputs["image"].shape == pictures.shape

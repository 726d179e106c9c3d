"""What an ONNX file names as external data is found by a walk of our own: it must miss nothing that ONNX would read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from server import external_data
from server.errors import ModelLoadError
from tests.fuzz import models
from tests.fuzz.models import WORDS_OF_GRAPHS
from tests.fuzz.mutations import edited, mutated

IN_PROCESS = settings(max_examples=5 * settings().max_examples)


def with_external_data() -> onnx.ModelProto:
    """Return the graph with a weight, and a tensor in a branch, that lie elsewhere."""
    model = onnx.load_from_string(models.graph())
    branch = model.graph.node[1].attribute[0].g
    for where, tensor in (("w.data", model.graph.initializer[0]), ("deep/b.data", branch.initializer.add())):
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", where), ("offset", "0")):
            tensor.external_data.add(key=key, value=value)
    model.functions.append(helper.make_function("test", "f", ["x"], ["y"], [model.graph.node[1]], model.opset_import))
    return model


@IN_PROCESS
@given(
    edited(with_external_data(), WORDS_OF_GRAPHS).map(lambda each: each.SerializeToString())
    | mutated(with_external_data().SerializeToString())
    | st.binary(max_size=40)
)
def test_no_location_is_missed(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Where protobuf reads a model, every location that it has is found, or the file is refused."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(content)
    try:
        found = external_data.locations(path)
    except ModelLoadError:
        return
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return
    assert set(_locations(model)) <= found


def test_the_good_model_has_locations(tmp_path: Path) -> None:
    """The comparison compares something: three locations, one of them in a branch, one in a function's."""
    path = tmp_path / "model.onnx"
    path.write_bytes(with_external_data().SerializeToString())
    assert external_data.locations(path) == {"w.data", "deep/b.data"} == set(_locations(with_external_data()))


def _locations(message: Message) -> Iterator[str]:
    """Find them by protobuf's own reading."""
    if isinstance(message, onnx.TensorProto):
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                yield from _locations(each)

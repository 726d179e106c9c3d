"""Where weights lie that are not in the graph: found wherever a graph can name them, and never outside its directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper

from server import external_data
from server.errors import ModelLoadError
from tests import graphs

WEIGHTS = np.arange(4, dtype=np.float32)
OPSETS = [helper.make_opsetid("", graphs.OPSET), helper.make_opsetid("own", 1)]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])


def weights(location: str, *, name: str = "w") -> TensorProto:
    """Return a tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(location: str) -> Any:
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=weights(location)))
    return node


def model(nodes: list[Any], initializers: list[TensorProto] | None = None, functions: list[Any] | None = None) -> Any:
    graph = helper.make_graph(nodes, "test", [X], [Y], initializers)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, functions=functions)


def as_initializer(location: str) -> Any:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [weights(location)])


def as_constant(location: str) -> Any:
    return model([constant(location), helper.make_node("Add", ["x", "w"], ["y"])])


def in_a_branch(location: str) -> Any:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["o"])], "branch", [], [out], [weights(location)])
    return model(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["positive"], to=TensorProto.BOOL),
            helper.make_node("If", ["positive"], ["y"], then_branch=branch, else_branch=branch),
        ]
    )


def in_a_function(location: str) -> Any:
    body = [constant(location), helper.make_node("Add", ["x", "w"], ["y"])]
    function = helper.make_function("own", "AddWeights", ["x"], ["y"], body, OPSETS[:1])
    return model([helper.make_node("AddWeights", ["x"], ["y"], domain="own")], functions=[function])


PLACES: list[Callable[[str], Any]] = [as_initializer, as_constant, in_a_branch, in_a_function]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return a version's directory, with weights in it, above it and linked from it."""
    directory = tmp_path / "model" / "1"
    (directory / "sub").mkdir(parents=True)
    for path in (directory / "weights", directory / "sub" / "weights", tmp_path / "model" / "secret"):
        path.write_bytes(WEIGHTS.tobytes())
    (directory / "link").symlink_to("../secret")
    (directory / "up").symlink_to("..")
    return directory


def written(version: Path, proto: Any) -> Path:
    path = version / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["weights", "sub/weights"])
def test_data_in_the_directory_pass(version: Path, place: Callable[[str], Any], location: str) -> None:
    """Files of the version's directory pass wherever the graph names them, and ONNX Runtime runs it."""
    path = written(version, place(location))
    assert external_data.locations(path) == {location}
    external_data.check(path)
    (answer,) = ort.InferenceSession(path).run(None, {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(answer, WEIGHTS + 1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("../secret", "begins with a dot"),
        ("sub/../../secret", "begins with a dot"),
        ("/dev/zero", "is absolute"),
        ("link", "is a link that leads out of 1"),
        ("up/secret", "is a link that leads out of 1"),
        ("absent", "is no file; expected it beside model.onnx"),
        ("sub", "is no file"),
        ("", "is empty"),
        ("*/_ORT_MEM_ADDR_/*", "is no file"),
    ],
)
def test_data_elsewhere_are_refused(version: Path, place: Callable[[str], Any], location: str, text: str) -> None:
    """What lies outside, or nowhere, is refused before ONNX Runtime sees the file; ONNX Runtime refuses it as well."""
    path = written(version, place(location))
    with pytest.raises(ModelLoadError, match=text) as refused:
        external_data.check(path)
    assert str(refused.value).startswith("model.onnx: external data ")
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        ort.InferenceSession(path)


def test_data_are_found_in_every_attribute(version: Path) -> None:
    """Lists of tensors, graphs in lists, sparse tensors and training's graphs may name data too."""
    inner = helper.make_graph([], "inner", [], [], [weights("in-graphs")])
    node = helper.make_node("Any", [], ["y"])
    node.attribute.append(AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=[weights("in-tensors")]))
    node.attribute.append(AttributeProto(name="b", type=AttributeProto.GRAPHS, graphs=[inner]))
    for name, field in (("one", "sparse_tensor"), ("many", "sparse_tensors")):
        sparse = onnx.SparseTensorProto(values=weights(f"{name}-values"), indices=weights(f"{name}-indices"), dims=[4])
        attribute = node.attribute.add(name=name)
        target = getattr(attribute, field)
        (target.add() if name == "many" else target).CopyFrom(sparse)
    proto = model([node])
    proto.graph.sparse_initializer.add().values.CopyFrom(weights("sparse"))
    proto.training_info.add().initialization.CopyFrom(inner)
    proto.training_info[0].algorithm.initializer.add().CopyFrom(weights("training"))
    expected = {"in-graphs", "in-tensors", "one-values", "one-indices", "many-values", "many-indices"}
    assert external_data.locations(written(version, proto)) == expected | {"sparse", "training"}


def test_a_location_hidden_behind_another_is_found(version: Path) -> None:
    """Of a doubled field protobuf takes the last; all of them are looked at."""
    raw = as_initializer("weights").SerializeToString()
    entry = b"\x0a\x08location\x12\x07weights"
    doubled = b"\x0a\x08location\x12\x07weights\x12\x09../secret"
    tensor = (
        weights("weights").SerializeToString().replace(bytes([len(entry)]) + entry, bytes([len(doubled)]) + doubled)
    )
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    path = version / "model.onnx"
    path.write_bytes(raw + b"\x3a" + bytes([len(graph)]) + graph)  # a second graph is merged into the first
    assert external_data.locations(path) == {"weights", "../secret"}


def test_what_lies_between_is_not_read(version: Path) -> None:
    """Megabytes of weights inside the graph are stepped over: as few fields are looked at as without them."""
    proto = as_initializer("weights")
    counts = []
    for size in (1, 4 * 2**20):
        inside = onnx.numpy_helper.from_array(np.zeros(size, np.float32), "inside")
        del proto.graph.initializer[1:]
        proto.graph.initializer.append(inside)
        walk = external_data.Walk(proto.SerializeToString())
        assert list(walk.locations()) == ["weights"]
        counts.append(walk.fields)
    assert counts[0] == counts[1]


def test_a_graph_with_too_many_fields_is_refused(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is bounded, and so is the depth."""
    path = written(version, as_initializer("weights"))
    monkeypatch.setattr(external_data, "MOST_FIELDS", 3)
    with pytest.raises(ModelLoadError, match="more than 3 fields"):
        external_data.check(path)
    monkeypatch.undo()
    monkeypatch.setattr(external_data, "DEEPEST", 2)
    with pytest.raises(ModelLoadError, match="more than 2 messages inside each other"):
        external_data.check(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x3a\x05\x01", b"not a model", b"\x3a" + b"\xff" * 11, b"\x0b"])
def test_what_is_no_graph_is_refused(version: Path, content: bytes) -> None:
    """Bytes that are no protobuf message are one line."""
    path = version / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"^model.onnx is no ONNX graph that can be read: "):
        external_data.check(path)


def test_every_cut_is_an_error_or_a_shorter_message(version: Path) -> None:
    """However a file is cut off, the answer is locations or an error of ours."""
    raw = in_a_function("weights").SerializeToString()
    path = version / "model.onnx"
    for end in range(1, len(raw)):
        path.write_bytes(raw[:end])
        with contextlib.suppress(ModelLoadError):
            assert external_data.locations(path) <= {"weights"}

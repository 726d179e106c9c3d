"""export.adopt: ONNX files from elsewhere, checked, tried, weighed and published."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2

import netweight
from compare.card import read_card
from compare.run import compare
from compare.table import as_text
from export.adopt import adopt
from export.upgrade import OLDEST_OPSET
from models.spec import NetweightError
from server import card, config_fields, model_config
from tests.plans import ONCE
from tests.servers import running_server

FLOAT = TensorProto.FLOAT


def graph(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], opset: int = 17
) -> Path:
    """Write a graph as another program would; inputs and outputs are (name, element type, shape)."""
    made = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="other")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def classifier(path: Path, *, batch: Any = 1, opset: int = 17) -> Path:
    """Write what torch's former exporter makes of a small network: FP32 [1, 3, 8, 8] to five probabilities."""
    generator = np.random.default_rng(0)
    former: dict[str, Any] = {"broadcast": 1} if opset < 7 else {}
    return graph(
        path,
        [
            helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
            helper.make_node("Reshape", ["means", "flat"], ["row"]),
            helper.make_node("Gemm", ["row", "fc.weight", "fc.bias"], ["scores"], transB=1, **former),
            helper.make_node("Softmax", ["scores"], ["output"], axis=1),
        ],
        [("input", FLOAT, [batch, 3, 8, 8])],
        [("output", FLOAT, [batch, 5])],
        {
            "conv.weight": generator.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "conv.bias": np.zeros(4, np.float32),
            "flat": np.array([1 if batch == 1 else 0, -1], np.int64),
            "fc.weight": generator.standard_normal((5, 4)).astype(np.float32),
            "fc.bias": np.zeros(5, np.float32),
        },
        opset,
    )


def mixing(path: Path, batch: Any) -> Path:
    """Write a graph that takes the mean of its whole batch off each sample."""
    return graph(
        path,
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])],
        [("x", FLOAT, [batch, 4])],
        [("y", FLOAT, [batch, 4])],
        {},
    )


def with_weights_beside(path: Path, location: str = "weights.bin") -> Path:
    """Write the classifier with its weights in another file."""
    model = onnx.load(classifier(path))
    (path.parent / location).parent.mkdir(exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=64)
    return path


def pointing_to(path: Path, location: str) -> Path:
    """Write a graph whose weight says that it lies there."""
    model = onnx.load(
        graph(
            path, [helper.make_node("Add", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])], {}
        )
    )
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    return path


def config_of(directory: Path) -> Any:
    """Parse config.pbtxt with Triton's own definition, and see that our server acts on all of it."""
    ours = model_config.read(directory)
    assert (model_config.unknown(directory), config_fields.ignored(ours)) == ([], [])
    return text_format.Parse((directory / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def answers(path: Path, **inputs: Any) -> list[Any]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    given: list[Any] = session.run(None, inputs)
    return given


def images(count: int) -> Any:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8), np.float32)


def refusal(source: Path, repository: Path, **options: Any) -> str:
    """Return the message that adopting ends with: one line, and the repository is as it was."""
    before = sorted(repository.rglob("*"))
    with pytest.raises(NetweightError) as caught:
        adopt(source, repository, **options)
    assert "\n" not in str(caught.value)
    assert sorted(repository.rglob("*")) == before
    return str(caught.value)


def test_the_card_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    """Layers, bytes and hashes come off the file; architecture, weights, parity and accuracy are null."""
    source = classifier(tmp_path / "net.onnx")
    published = adopt(source, tmp_path / "repository")
    known = json.loads((published.path / "card.json").read_text())
    assert known == json.loads(json.dumps(published.card))
    assert (known["name"], known["version"], published.path) == ("net", 1, tmp_path / "repository" / "net" / "1")
    assert (known["parameters"], known["initializer_bytes"]) == (3 * 3 * 3 * 4 + 4 + 20 + 5, 4 * 137 + 16)
    assert [layer["name"] for layer in known["layers"]] == ["conv", "fc"]
    assert known["weights"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    written = (published.path / "model.onnx").read_bytes()
    facts = {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    assert known["graph"]["files"] == {"model.onnx": facts}
    assert set(known["architecture"].values()) == {None}
    assert [known[each] for each in ("parity", "accuracy", "preprocessing")] == [None] * 3
    assert (known["weights"]["trained"], known["adopted"]["producer"]) == (None, "other")
    assert known["adopted"]["finite_on_random_input"]


def test_a_batch_fixed_at_one_becomes_dynamic(tmp_path: Path) -> None:
    """The graph then takes batches, its reshape too, and gives for each image what it gave alone."""
    source = classifier(tmp_path / "net.onnx")
    published = adopt(source, tmp_path / "repository")
    config = config_of(published.path.parent)
    assert config.max_batch_size == 32
    assert [list(each.dims) for each in (*config.input, *config.output)] == [[3, 8, 8], [5]]
    three = images(3)
    (given,) = answers(published.path / "model.onnx", input=three)
    alone = np.concatenate([answers(source, input=three[[each]])[0] for each in range(3)])
    np.testing.assert_allclose(given, alone, rtol=1e-5)
    assert "the batch, fixed at 1, became dynamic" in published.card["adopted"]["changes"][0]


def test_what_needs_no_change_is_kept_to_the_byte(tmp_path: Path) -> None:
    """A file of an opset of today with a dynamic batch is published as it came."""
    source = classifier(tmp_path / "net.onnx", batch="n")
    published = adopt(source, tmp_path / "repository")
    assert (published.path / "model.onnx").read_bytes() == source.read_bytes()
    assert (published.card["adopted"]["changes"], published.card["adopted"]["notes"]) == ([], [])
    assert config_of(published.path.parent).max_batch_size == 32


@pytest.mark.parametrize("opset", [7, 9, OLDEST_OPSET - 1])
def test_an_old_opset_is_upgraded(tmp_path: Path, opset: int) -> None:
    """The graph is brought to the oldest opset that is kept, and answers as before."""
    source = classifier(tmp_path / "net.onnx", batch="n", opset=opset)
    published = adopt(source, tmp_path / "repository")
    assert published.card["adopted"]["changes"] == [f"opset {opset} became {OLDEST_OPSET}"]
    assert published.card["graph"]["opset"] == OLDEST_OPSET
    two = images(2)
    written = published.path / "model.onnx"
    np.testing.assert_allclose(answers(written, input=two)[0], answers(source, input=two)[0], rtol=1e-5)


def test_an_opset_that_onnx_runtime_has_not_is_upgraded(tmp_path: Path) -> None:
    """A graph of opset 6, whose Gemm ONNX Runtime does not run, answers as the same graph of opset 17 does."""
    published = adopt(classifier(tmp_path / "net.onnx", opset=6), tmp_path / "repository")
    assert published.card["adopted"]["changes"][0] == f"opset 6 became {OLDEST_OPSET}"
    one, of_today = images(1), classifier(tmp_path / "today.onnx")
    written = published.path / "model.onnx"
    np.testing.assert_allclose(answers(written, input=one)[0], answers(of_today, input=one)[0], rtol=1e-5)


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_graph_that_mixes_its_batch_gets_none(tmp_path: Path, batch: Any) -> None:
    """Where two samples at once change each other's answers the file is kept, and requests are run one by one."""
    source = mixing(tmp_path / "mixing.onnx", batch)
    published = adopt(source, tmp_path / "repository")
    assert (published.path / "model.onnx").read_bytes() == source.read_bytes()
    config = config_of(published.path.parent)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [1 if batch == 1 else -1, 4])
    assert not config.HasField("dynamic_batching")
    (note,) = published.card["adopted"]["notes"]
    assert "max_batch_size 0" in note
    assert sorted(each.name for each in published.path.iterdir()) == ["card.json", "model.onnx"]


def test_several_inputs_and_outputs_of_any_datatype(tmp_path: Path) -> None:
    """Each tensor has its name, Triton's datatype and its dims; a scalar has one of 1, and its reshape."""
    source = graph(
        tmp_path / "two.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Where", ["mask", "rows", "zero"], ["y"]),
            helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
        ],
        [("ids", TensorProto.INT64, ["n", "t"]), ("mask", TensorProto.BOOL, ["n", "t"])],
        [("y", TensorProto.FLOAT16, ["n", "t"]), ("total", TensorProto.FLOAT16, [])],
        {"table": np.arange(3, dtype=np.float16), "zero": np.float16(0)},
    )
    published = adopt(source, tmp_path / "repository")
    config = config_of(published.path.parent)
    assert config.max_batch_size == 0  # the total has no batch
    described = [(each.name, model_config_pb2.DataType.Name(each.data_type), list(each.dims)) for each in config.input]
    assert described == [("ids", "TYPE_INT64", [-1, -1]), ("mask", "TYPE_BOOL", [-1, -1])]
    assert [(each.name, list(each.dims)) for each in config.output] == [("y", [-1, -1]), ("total", [1])]
    assert config.output[1].HasField("reshape")


def test_weights_beside_the_graph_come_along(tmp_path: Path) -> None:
    """Files in the graph's directory, and below it, are published with their hashes; a directory names its only graph."""
    source = with_weights_beside(tmp_path / "net" / "classifier.onnx", "data/weights.bin")
    published = adopt(tmp_path / "net", tmp_path / "repository")
    assert published.name == "classifier"
    weights = published.path / "data" / "weights.bin"
    assert weights.read_bytes() == (source.parent / "data" / "weights.bin").read_bytes()
    files = published.card["graph"]["files"]
    assert set(files) == {"model.onnx", "data/weights.bin"}
    assert files["data/weights.bin"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert published.card["graph"]["onnx_bytes"] == sum(each["bytes"] for each in files.values())
    one = images(1)
    np.testing.assert_allclose(
        answers(published.path / "model.onnx", input=one)[0], answers(source, input=one)[0], rtol=1e-5
    )


def test_old_weights_beside_the_graph_are_upgraded_with_it(tmp_path: Path) -> None:
    """What the converter writes holds the weights, and the former file of weights is gone."""
    model = onnx.load(classifier(tmp_path / "old" / "model.onnx", opset=9))
    source = tmp_path / "old" / "model.onnx"
    onnx.save(model, source, save_as_external_data=True, location="w.bin", size_threshold=64)
    published = adopt(tmp_path / "old", tmp_path / "repository")
    assert (published.name, set(published.card["graph"]["files"])) == ("old", {"model.onnx"})
    one = images(1)
    written = published.path / "model.onnx"
    np.testing.assert_allclose(answers(written, input=one)[0], answers(source, input=one)[0], rtol=1e-5)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "link.bin", "none.bin", ""])
def test_weights_outside_the_directory_are_refused(tmp_path: Path, location: str) -> None:
    """An absolute path, one that climbs, a link that leads out, and a file that is not there are named."""
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    source = pointing_to(tmp_path / "net" / "net.onnx", location)
    (source.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert f"names weights in {location!r}" in refusal(source, tmp_path / "repository")


@pytest.mark.parametrize("location", ["model.onnx", "card.json"])
def test_weights_cannot_take_a_versions_own_names(tmp_path: Path, location: str) -> None:
    """Weights that would lie where the version's graph or card lies are refused."""
    source = pointing_to(tmp_path / "net" / "net.onnx", location)
    (source.parent / location).write_bytes(bytes(16))
    assert "which a version has for itself" in refusal(source, tmp_path / "repository")


@pytest.mark.parametrize("content", [b"", b"no graph", bytes(100), b"\x08\x08\x12\x05other"])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """An empty file, a text, zeros and a model without a graph are no ONNX files."""
    (tmp_path / "net.onnx").write_bytes(content)
    assert "is not an ONNX file" in refusal(tmp_path / "net.onnx", tmp_path / "repository")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A file that was cut off while it was copied is not published."""
    source = classifier(tmp_path / "net.onnx")
    source.write_bytes(source.read_bytes()[:300])
    assert f"{source} is not an ONNX file" in refusal(source, tmp_path / "repository")


def test_a_graph_that_breaks_the_rules_is_refused(tmp_path: Path) -> None:
    """ONNX's checker speaks in one line."""
    nodes = [helper.make_node("Relu", ["nothing"], ["y"])]
    source = graph(tmp_path / "net.onnx", nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], {})
    assert "breaks ONNX's rules" in refusal(source, tmp_path / "repository")


def test_a_graph_that_the_server_cannot_open_is_refused(tmp_path: Path) -> None:
    """An operator that ONNX Runtime has not is told before anything is published."""
    nodes = [helper.make_node("Spin", ["x"], ["y"], domain="their.own")]
    source = graph(tmp_path / "net.onnx", nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], {})
    model = onnx.load(source)
    model.opset_import.append(helper.make_opsetid("their.own", 1))
    onnx.save(model, source)
    assert "cannot open model.onnx" in refusal(source, tmp_path / "repository")


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """Sequences and maps, as of scikit-learn's converter, are told by their type."""
    made = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "elsewhere",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 2])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, ["n", 2])],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx")
    assert "output y is a seq(tensor(float))" in refusal(tmp_path / "net.onnx", tmp_path / "repository")


def test_answers_that_are_not_finite_are_told(tmp_path: Path) -> None:
    """The logarithm of a negative number is published, and the card says so."""
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    source = graph(tmp_path / "log.onnx", nodes, [("x", FLOAT, ["n", 9])], [("y", FLOAT, ["n", 9])], {})
    assert adopt(source, tmp_path / "repository").card["adopted"]["finite_on_random_input"] is False


def test_an_opset_that_cannot_be_upgraded_is_kept(tmp_path: Path) -> None:
    """What ONNX Runtime runs as it is and ONNX's converter has no way for is published as it came, and the card says why."""
    nodes = [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")]
    scales = np.array([1, 1, 2, 2], np.float32)
    source = graph(
        tmp_path / "up.onnx",
        nodes,
        [("x", FLOAT, ["n", 1, 4, 4])],
        [("y", FLOAT, ["n", 1, 8, 8])],
        {"scales": scales},
        9,
    )
    published = adopt(source, tmp_path / "repository")
    assert (published.path / "model.onnx").read_bytes() == source.read_bytes()
    assert published.card["graph"]["opset"] == 9
    assert "opset 9 was kept" in published.card["adopted"]["notes"][0]


def test_labels_go_to_the_output_with_as_many_values(tmp_path: Path) -> None:
    """Class names come from a file with one in each line; another count is refused, naming the outputs."""
    source = classifier(tmp_path / "net.onnx")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    published = adopt(source, tmp_path / "repository", labels=tmp_path / "names.txt")
    assert (published.path.parent / "labels.txt").read_text() == "ant\nbee\ncat\ndog\nelk\n"
    assert config_of(published.path.parent).output[0].label_filename == "labels.txt"
    assert published.card["architecture"]["classes"] == 5
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    message = refusal(source, tmp_path / "repository", labels=tmp_path / "names.txt")
    assert "2 class names, but no output ends with as many values: output [1, 5]" in message
    assert "none.txt" in refusal(source, tmp_path / "repository", labels=tmp_path / "none.txt")


def test_versions_of_a_name_look_the_same(tmp_path: Path) -> None:
    """The same interface makes version 2, another is refused with --name."""
    adopt(classifier(tmp_path / "net.onnx"), tmp_path / "repository")
    assert adopt(tmp_path / "net.onnx", tmp_path / "repository").version == 2
    other = mixing(tmp_path / "other.onnx", "n")
    assert "--name" in refusal(other, tmp_path / "repository", name="net")
    assert "cannot be a model's name" in refusal(other, tmp_path / "repository", name="../net")


def test_a_directory_holds_one_graph(tmp_path: Path) -> None:
    """None, or several of which none is model.onnx, are told; nothing at all too."""
    (tmp_path / "net").mkdir()
    assert "has no *.onnx" in refusal(tmp_path / "net", tmp_path / "repository")
    for name in ("a.onnx", "b.onnx"):
        classifier(tmp_path / "net" / name)
    assert "has a.onnx, b.onnx: expected one" in refusal(tmp_path / "net", tmp_path / "repository")
    shutil.copy(tmp_path / "net" / "a.onnx", tmp_path / "net" / "model.onnx")
    assert adopt(tmp_path / "net", tmp_path / "repository").name == "net"
    assert "no ONNX file at" in refusal(tmp_path / "none.onnx", tmp_path / "repository")


def test_an_adopted_model_is_served_and_compared(tmp_path: Path) -> None:
    """By the command line into a repository, then a real server answers Triton's client as ONNX Runtime does.

    Images as files are refused, since nothing tells how they become tensors; the comparison marks what is not known.
    """
    repository = tmp_path / "repository"
    arguments = ["adopt", str(classifier(tmp_path / "net.onnx")), "--repository", str(repository), "--name", "theirs"]
    done = CliRunner().invoke(netweight.main, arguments)
    assert done.exit_code == 0, done.output
    assert f"published {repository}/theirs/1" in done.output
    two = images(2)
    with running_server(repository, tmp_path) as server:
        given = InferInput("input", list(two.shape), "FP32")
        given.set_data_from_numpy(two)
        with InferenceServerClient(server.address) as client:
            answered = client.infer("theirs", [given]).as_numpy("output")
        measured = compare(
            ["theirs"], repository=repository, address=server.address, plan=ONCE, report=lambda _line: None
        )
    expected = answers(repository / "theirs" / "1" / "model.onnx", input=two)[0]
    np.testing.assert_allclose(answered, expected, rtol=1e-5)
    assert "does not tell how" in str(card.preprocessing(repository / "theirs" / "1"))
    known = read_card(repository, "theirs")
    assert (known.title, known.trained, known.parameters, measured.cards[0].parameters) == ("theirs", None, 137, 137)
    assert "theirs‡" in as_text(measured)

"""export.convert: a torch module becomes an ONNX file."""

from __future__ import annotations

import sysconfig
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from export.build import Built, Deployed, build
from export.convert import OPSETS, convert
from export.verify import BATCHES, SEED, Unseen, verify
from models import catalog
from models.spec import NetweightError
from models.weights import parse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def lenet5() -> Built:
    return build(catalog.get("lenet5"), parse("random"))


@pytest.fixture(scope="module")
def exported(lenet5: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 as one file."""
    path: Path = tmp_path_factory.mktemp("inside") / "model.onnx"
    assert convert(lenet5.module, lenet5.images(2, 0), path, metadata={"weights": "random"}) == (path,)
    return path


@pytest.fixture(scope="module")
def beside(lenet5: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 with its weights beside the graph."""
    path: Path = tmp_path_factory.mktemp("beside") / "model.onnx"
    files = convert(lenet5.module, lenet5.images(2, 0), path, external_data_above=0, metadata={"weights": "random"})
    assert files == (path, path.with_name("model.onnx.data"))
    return path


def describe(values: Any) -> list[tuple[str, int, list[str | int]]]:
    """Return names, element types and axes."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


def test_graph_takes_pixels_and_gives_logits_and_probabilities(exported: Path) -> None:
    """Names, datatypes and the dynamic axis are what clients are promised."""
    graph = onnx.load(exported).graph
    assert describe(graph.input) == [("image", onnx.TensorProto.UINT8, ["batch", 32, 32, 1])]
    assert describe(graph.output) == [
        ("logits", onnx.TensorProto.FLOAT, ["batch", 10]),
        ("probabilities", onnx.TensorProto.FLOAT, ["batch", 10]),
    ]


def test_file_says_who_made_it_of_what(exported: Path) -> None:
    """Producer, opset and the caller's metadata stand in the file."""
    model = onnx.load(exported)
    assert model.producer_name == "netweight"
    assert {each.key: each.value for each in model.metadata_props} == {"weights": "random"}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]


def test_weights_keep_their_names(exported: Path, lenet5: Built) -> None:
    """Each tensor of the state dict is an initializer of the same name, so that both can be compared."""
    names = {each.name for each in onnx.load(exported).graph.initializer}
    assert names >= set(lenet5.module.network.state_dict())


def test_same_module_gives_the_same_bytes(exported: Path, lenet5: Built, tmp_path: Path) -> None:
    """An export can be repeated and compared by its SHA-256."""
    convert(lenet5.module, lenet5.images(2, 0), tmp_path / "model.onnx", metadata={"weights": "random"})
    assert (tmp_path / "model.onnx").read_bytes() == exported.read_bytes()


def test_file_holds_no_path_of_this_machine(exported: Path) -> None:
    """The exporter's stack traces are left out."""
    content = exported.read_bytes()
    assert sysconfig.get_paths()["purelib"].encode() not in content
    assert b"stack_trace" not in content


def test_weights_beside_the_graph_can_be_mapped(beside: Path, lenet5: Built) -> None:
    """Above the threshold every weight lies in the .data file at a page's beginning; small constants stay inside."""
    held = {each.name: each for each in onnx.load(beside, load_external_data=False).graph.initializer}
    weight = held["features.c5.weight"]
    assert weight.data_location == onnx.TensorProto.EXTERNAL
    entries = {each.key: each.value for each in weight.external_data}
    assert entries["location"] == "model.onnx.data"
    assert int(entries["offset"]) % 4096 == 0
    stored = np.memmap(beside.with_name("model.onnx.data"), np.float32, "r", int(entries["offset"]), (120, 16, 5, 5))
    np.testing.assert_array_equal(stored, lenet5.module.network.state_dict()["features.c5.weight"].numpy())
    assert held["features.c1.bias"].data_location == onnx.TensorProto.DEFAULT
    assert beside.stat().st_size < 20_000


def test_weights_inside_and_beside_give_the_same_answers(exported: Path, beside: Path, lenet5: Built) -> None:
    """Where the weights lie changes nothing for ONNX Runtime."""
    image = lenet5.images(5, seed=4).numpy()
    answers = [
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"image": image})[0]
        for path in (exported, beside)
    ]
    np.testing.assert_array_equal(*answers)


def test_pooling_and_batch_norm_are_exported_plainly(tmp_path: Path) -> None:
    """Batch norm is folded into its convolution, and pooling to one pixel is a mean, not a gather by strides."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    built = build(catalog.get("lenet5"), parse("random"))
    module = Deployed(built.module.preprocessing, network).eval()
    convert(module, built.images(2, 0), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    preprocessing = ["Transpose", "Cast", "BatchNormalization"]
    assert operators == [*preprocessing, "Conv", "Relu", "ReduceMean", "Reshape", "Softmax"]


@pytest.mark.parametrize("opset", [OPSETS.start, OPSETS.stop - 1])
def test_every_opset_has_the_same_operators(exported: Path, lenet5: Built, tmp_path: Path, opset: int) -> None:
    """The oldest and the newest opset give the default's operators, and answer as torch does."""
    path = tmp_path / "model.onnx"
    convert(lenet5.module, lenet5.images(2, 0), path, opset=opset)
    assert onnx.load(path).opset_import[0].version == opset
    nodes = [[(node.op_type, node.name) for node in onnx.load(each).graph.node] for each in (exported, path)]
    assert nodes[0] == nodes[1]
    assert verify(path, lenet5.module, Unseen(lenet5.images(max(BATCHES), SEED))).complaint is None


@pytest.mark.parametrize("opset", [12, 99])
def test_opsets_that_cannot_be_exported_are_refused(tmp_path: Path, opset: int) -> None:
    """The message says which can, and nothing is written."""
    with pytest.raises(NetweightError, match=rf"opset {opset} cannot be exported: expected one of 18 to 23"):
        convert(nn.Identity(), torch.zeros(2, 1), tmp_path / "model.onnx", opset=opset)
    assert not list(tmp_path.iterdir())

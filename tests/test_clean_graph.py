"""export.clean and export.naming: graphs hold what inference needs, under names that a person can read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from export.build import build
from export.convert import convert, metadata
from models import catalog
from models.weights import parse

SMALL = ("lenet5", "mobilenet_v2", "resnet18")
LARGE = tuple(name for name in catalog.names() if name not in (*SMALL, "squeezenet1_1"))
TRAINING = {"Dropout", "Identity", "Constant", "RandomUniform", "RandomUniformLike"}
UNFOLDED = {"densenet121": 58 + 4, "densenet169": 82 + 4, "densenet201": 98 + 4}
"""Batch norms in front of which stands no convolution but a concatenation or a pool, so that there is nothing to fold into:
the first of each dense layer, one in each of three transitions, and the last."""
HERE = str(Path(__file__).parents[1])
EXPORT = """
import sys; from pathlib import Path
from export.build import build; from export.convert import convert, metadata
from models import catalog; from models.weights import parse
built = build(catalog.get("squeezenet1_1"), parse("random"), classes=10)
convert(built.module, built.images(2, seed=0), Path(sys.argv[1]), metadata=metadata(built))
"""


def exported(name: str, directory: Path) -> Path:
    """Export a network of 10 classes."""
    built = build(catalog.get(name), parse("random"), classes=10)
    path = directory / "model.onnx"
    convert(built.module, built.images(2, seed=0), path, metadata=metadata(built))
    return path


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("squeezenet1_1", tmp_path_factory.mktemp("squeezenet"))


def check(name: str, path: Path) -> None:
    """Walk a graph: nothing dead, nothing of training, batch norm folded, readable names, the metadata filled in."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["logits", "probabilities"]
    used = {each for node in graph.node for each in node.input} | {"logits", "probabilities"}
    assert {tensor.name for tensor in graph.initializer} <= used
    assert all(used.intersection(node.output) for node in graph.node)
    operators = Counter(node.op_type for node in graph.node)
    assert not TRAINING & set(operators)
    normalised = [node for node in graph.node if node.op_type == "BatchNormalization"]
    preprocessing = [node for node in normalised if node.name.startswith("preprocessing")]
    assert len(preprocessing) == 1
    assert len(normalised) - 1 == UNFOLDED.get(name, 0)
    assert not {attribute.name for node in normalised for attribute in node.attribute} & {"training_mode", "momentum"}
    names = [node.name for node in graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    learned = {key.removeprefix("network.") for key in build(catalog.get(name), parse("random")).module.state_dict()}
    weighted = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    for node in weighted:
        assert node.input[1] == f"{node.name}.weight"
        assert node.input[1] in learned
    assert model.producer_name == "netweight"
    told = {each.key: each.value for each in model.metadata_props}
    assert told["architecture"] == graph.name == name
    assert told["weights"] == "random, seed 0"
    assert {"classes", "class_names", "preprocessing"} <= set(told)
    assert not any(node.doc_string or node.metadata_props for node in graph.node)
    assert not any(value.doc_string or value.metadata_props for value in (*graph.input, *graph.output))


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs_are_clean(name: str, tmp_path: Path) -> None:
    """A network of each kind: plain, depthwise, residual."""
    check(name, exported(name, tmp_path))


def test_a_graph_with_paths_is_clean(squeezenet: Path) -> None:
    """So is one whose paths meet in concatenations."""
    check("squeezenet1_1", squeezenet)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_graph_is_clean(name: str, tmp_path: Path) -> None:
    """All the other networks of the catalogue."""
    check(name, exported(name, tmp_path))


def test_weights_are_single_precision_and_shared(squeezenet: Path) -> None:
    """The constants of an fp32 graph are fp32 or whole numbers of shapes, and none is there twice under two names."""
    initializers = onnx.load(squeezenet, load_external_data=False).graph.initializer
    assert {tensor.data_type for tensor in initializers} <= {TensorProto.FLOAT, TensorProto.INT64}
    small = [(tuple(each.dims), each.raw_data) for each in initializers if len(each.raw_data) <= 8]
    assert len(set(small)) == len(small)


def test_another_process_writes_the_same_file(squeezenet: Path, tmp_path: Path) -> None:
    """The same network gives the same SHA-256 in another process, whatever the order of its sets."""
    path = tmp_path / "other.onnx"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", EXPORT, str(path)], cwd=HERE, env=environment, check=True)
    digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (squeezenet, path)]
    assert digests[0] == digests[1]

"""export.variants: each lighter form of a network, its bytes, its answers, and what is refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from export.build import Deployed, Pixels, build
from export.convert import IMAGE, LOGITS, convert, metadata, save
from export.variants import VARIANTS, Calibration, make
from export.weigh import weigh
from models import catalog, data
from models.spec import NetweightError
from models.weights import parse
from server.client import Client
from tests.servers import running_server

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENET5 = catalog.get("lenet5")
MATRICES = {"classifier.f6": (120, 84), "classifier.output": (84, 10)}
"""LeNet-5's fully connected layers: inputs and outputs."""

DIGITS = Calibration("digits", images=32)
LOSES = {"fp16": 0.005, "fp16-weights": 0.005, "int8": 0.015, "int8-weights": 0.015, "int4-weights": 0.03}
"""The largest fall of the held-out accuracy, 0..1."""


@pytest.fixture(scope="module")
def digits() -> data.DataSet:
    return data.load("digits", 1)


@pytest.fixture(scope="module")
def fp32(digits: data.DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5, trained on the digits for a second or two."""
    torch.manual_seed(0)
    built = build(LENET5, parse("random"), classes=10)
    built.module.network.train().requires_grad_()
    optimizer = torch.optim.Adam(built.module.network.parameters(), 0.003)
    for epoch in range(6):
        for pixels, labels in digits.training.batches(32, order_seed=epoch):
            optimizer.zero_grad()
            functional.cross_entropy(built.module(pixels)[0], labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    trained = replace(built, weights=replace(built.weights, kind="checkpoint", source="this test"))
    convert(
        built.module.eval().requires_grad_(requires_grad=False), built.images(2, 0), path, metadata=metadata(trained)
    )
    return path


@pytest.fixture(scope="module")
def made(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every variant's file, and what its card will say."""
    paths = {name: tmp_path_factory.mktemp(name) / "model.onnx" for name in VARIANTS}
    return {name: (path, make(name, fp32, path, DIGITS)) for name, path in paths.items()}


@pytest.fixture(scope="module")
def heldout(digits: data.DataSet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batches = digits.heldout.batches(len(digits.heldout))
    return next((pixels.numpy(), labels.numpy()) for pixels, labels in batches)


def logits(path: Path, images: NDArray[Any], **settings: str) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run([LOGITS], {IMAGE: images})[0]
    return answer


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_answers_as_fp32_does(
    name: str,
    fp32: Path,
    made: dict[str, tuple[Path, dict[str, Any]]],
    heldout: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """Logits differ by no more than the variant's tolerance, and held-out accuracy by no more than its points."""
    images, labels = heldout
    expected, got = logits(fp32, images), logits(made[name][0], images)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= VARIANTS[name].tolerance * np.abs(expected).max()
    assert not np.array_equal(got, expected)
    accuracy = [(each.argmax(1) == labels).mean() for each in (expected, got)]
    assert accuracy[0] > 0.9
    assert accuracy[1] >= accuracy[0] - LOSES[name]


def test_bytes_are_those_of_the_layout(fp32: Path, made: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    """Initializers take exactly what the module's docstring says, counted from the layers' shapes."""
    source = ir.load(fp32).graph.initializers
    whole = weigh(fp32).initializer_bytes
    tensors = {name: value.const_value for name, value in source.items() if value.const_value is not None}
    weights = {name: each for name, each in tensors.items() if len(each.shape) > 1}
    biases = {name: each for name, each in tensors.items() if name.removesuffix("bias") + "weight" in weights}
    channels = sum(each.shape.numpy()[0] for each in weights.values())
    quantized = ir.load(made["int8"][0]).graph
    activations = sum(node.op_type == "QuantizeLinear" for node in quantized)
    expected = {
        "fp16": whole - sum(each.nbytes // 2 for each in (*weights.values(), *biases.values())),
        "fp16-weights": whole - sum(each.nbytes // 2 for each in weights.values()),
        "int8": whole
        - sum(each.nbytes * 3 // 4 for each in weights.values())
        + 5 * channels
        + sum(each.size * 8 for each in biases.values())
        + 5 * activations,
    }
    for bits in (8, 4):
        blocks = sum(outputs * ceil(inputs / 64) for inputs, outputs in MATRICES.values())
        saved = sum(4 * inputs * outputs for inputs, outputs in MATRICES.values())
        expected[f"int{bits}-weights"] = whole - saved + blocks * (64 * bits // 8 + 4)
    assert {name: weigh(made[name][0]).initializer_bytes for name in VARIANTS} == expected


def test_card_says_how_it_was_made(made: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    """Method, images, ranges, what stays FP32 and why, which weights were changed and which were left, versions."""
    kernels = {f"features.c{number}.weight" for number in (1, 3, 5)}
    matrices = {f"{name}.weight" for name in MATRICES}
    for name, (_path, facts) in made.items():
        touched = matrices if name in {"int8-weights", "int4-weights"} else kernels | matrices
        assert set(facts["changed"]) == touched
        assert set(facts["left"]) == (kernels | matrices) - touched
        assert facts["tools"]["onnxruntime"] == ort.__version__
        assert facts["tolerance"]["relative"] == VARIANTS[name].tolerance
    int8 = made["int8"][1]
    assert (int8["calibration"]["source"], int8["calibration"]["images"]) == ("digits", 32)
    assert int8["ranges"] == {"method": "minmax"}
    assert {each["op"] for each in int8["blocked"]} >= {"BatchNormalization", "Tanh", "Softmax"}
    assert {each["op"] for each in made["fp16"][1]["blocked"]} == {"BatchNormalization", "Softmax"}


@pytest.mark.parametrize("name", VARIANTS)
def test_same_input_gives_same_file(
    name: str, fp32: Path, made: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    """Made again, a variant has the same SHA-256 and the same facts."""
    again = tmp_path / "model.onnx"
    assert make(name, fp32, again, DIGITS) == made[name][1]
    assert sha256(again) == sha256(made[name][0])


@pytest.mark.slow
def test_int8_does_not_depend_on_the_order_of_sets(
    fp32: Path, made: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    """Another process, with another seed of Python's hashes, writes the same bytes."""
    code = (
        "import sys; from pathlib import Path; from export.variants import Calibration, make; "
        "make('int8', Path(sys.argv[1]), Path(sys.argv[2]), Calibration('digits', images=32))"
    )
    path = tmp_path / "model.onnx"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", code, str(fp32), str(path)], check=True, env=environment)
    assert sha256(path) == sha256(made["int8"][0])


def test_fp16_keeps_the_types_of_inputs_and_outputs(made: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    """Pixels go in, FP32 comes out; in between everything but preprocessing and softmax is FP16, and cast once."""
    graph = ir.load(made["fp16"][0]).graph
    assert [value.dtype for value in (*graph.inputs, *graph.outputs)] == [
        ir.DataType.UINT8,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT,
    ]
    datatypes = {node.op_type: node.outputs[0].dtype for node in graph}
    assert datatypes["Conv"] == datatypes["Tanh"] == datatypes["Gemm"] == ir.DataType.FLOAT16
    assert datatypes["Softmax"] == ir.DataType.FLOAT
    assert [node.name for node in graph if (node.name or "").startswith("cast_")] == [
        f"cast_{next(node for node in graph if node.op_type == 'Conv').inputs[0].name}",  # type: ignore[union-attr]
        "cast_logits",
    ]


@pytest.mark.parametrize("weight", [3e4, 1e6])
def test_what_fp16_cannot_hold_stays_fp32(weight: float, fp32: Path, tmp_path: Path) -> None:
    """A layer whose values, or weights, are too large computes in FP32; the card names it and why."""
    model = ir.load(fp32)
    kernel = model.graph.initializers["features.c1.weight"]
    assert kernel.const_value is not None
    kernel.const_value = ir.tensor(kernel.const_value.numpy() * np.float32(weight), name=kernel.name)
    save(model, tmp_path / "large.onnx")
    facts = make("fp16", tmp_path / "large.onnx", tmp_path / "half.onnx")
    blocked = {each["op"]: each["reason"] for each in facts["blocked"]}
    assert "too near to FP16's 65504" in blocked["Tanh"]
    assert ("beyond FP16" if weight > 1e5 else "too near") in blocked["Conv"]
    assert facts["left"] == ["features.c1.weight"]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    expected, got = (logits(tmp_path / name, images) for name in ("large.onnx", "half.onnx"))
    assert np.abs(got - expected).max() <= VARIANTS["fp16"].tolerance * np.abs(expected).max()


def test_weights_beside_the_graph_where_the_kernels_allow_it(fp32: Path, tmp_path: Path) -> None:
    """fp16's may be mapped; those of whole numbers must be packed, so that they stay inside. Both answer."""
    images = np.zeros((2, 32, 32, 1), np.uint8)
    for name, beside in (("fp16", True), ("fp16-weights", True), ("int8", False), ("int4-weights", False)):
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        make(name, fp32, path, DIGITS, external_data_above=1000)
        assert path.with_name("model.onnx.data").exists() == beside
        assert np.isfinite(logits(path, images, disable_prepacking="1" if beside else "0")).all()


def test_source_with_weights_beside_it(
    fp32: Path, made: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    """A source whose weights lie beside it gives the same variant, which holds its own weights."""
    save(ir.load(fp32), tmp_path / "model.onnx", external_data_above=0)
    assert (tmp_path / "model.onnx.data").exists()
    for name in ("fp16", "int8", "int8-weights"):
        made_anew = tmp_path / f"{name}.onnx"
        make(name, tmp_path / "model.onnx", made_anew, DIGITS)
        assert sha256(made_anew) == sha256(made[name][0])


class Flat(nn.Module):
    """A network without a fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.convolution(image).relu().mean((2, 3))  # type: ignore[no-any-return]


def test_refusals(fp32: Path, tmp_path: Path) -> None:
    """What cannot be had is one line that says how to go on, and nothing is written."""
    target = tmp_path / "model.onnx"
    with pytest.raises(NetweightError, match="unknown variant 'int2': expected one of fp16, int8"):
        make("int2", fp32, target)
    with pytest.raises(NetweightError, match="none were given: add --calibration digits"):
        make("int8", fp32, target)
    with pytest.raises(NetweightError, match="not calibrated on random pixels"):
        make("int8", fp32, target, Calibration("random"))
    plain = replace(LENET5.preprocessing, height=8, width=8)
    flat = tmp_path / "flat.onnx"
    module = Deployed(Pixels(plain), Flat()).eval()
    convert(module, torch.zeros(2, 8, 8, 1, dtype=torch.uint8), flat)
    with pytest.raises(NetweightError, match="no fully connected layer to store in 4 bits: use int8 or fp16-weights"):
        make("int4-weights", flat, target)
    assert not target.exists()


def test_the_server_serves_variants(
    made: dict[str, tuple[Path, dict[str, Any]]],
    fp32: Path,
    heldout: tuple[NDArray[np.uint8], NDArray[np.int64]],
    tmp_path: Path,
) -> None:
    """int8, int4-weights and fp16, the latter with its weights beside the graph, answer through gRPC as in a session."""
    repository = tmp_path / "repository"
    for name in ("fp16", "int8", "int4-weights"):
        path = repository / f"lenet5.{name}" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        make(name, fp32, path, DIGITS, external_data_above=1000)
    images = heldout[0][:5]
    with running_server(repository, tmp_path) as server, Client(server.address) as client:
        assert server.models_ready == 3
        for name in ("fp16", "int8", "int4-weights"):
            answer = client.infer(f"lenet5.{name}", {IMAGE: images})
            expected = logits(made[name][0], images)
            assert np.abs(answer.outputs[LOGITS] - expected).max() <= 0.02 * np.abs(expected).max()
            assert np.allclose(answer.outputs["probabilities"].sum(1), 1, atol=1e-5)

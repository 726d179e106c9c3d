"""export.weigh: parameters, bytes and multiply-accumulates by layer, against known answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from export.build import build
from export.calibration import Calibration
from export.convert import convert, metadata
from export.variants import make
from export.weigh import weigh, weigh_model
from models import catalog
from models.weights import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Shapes = list[tuple[str, list[int]]]


def model(nodes: list[onnx.NodeProto], image: list[int], weights: Shapes) -> onnx.ModelProto:
    """Return a graph whose weights have shapes but no values: nothing else is weighed."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", *image])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT) for name, dims in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolutions(image: list[int], *kernels: list[int], group: int = 1) -> onnx.ModelProto:
    """Return convolutions without padding, one after the other."""
    nodes = [
        helper.make_node("Conv", [f"x{i}", f"c{i}.weight", f"c{i}.bias"], [f"x{i + 1}"], group=group)
        for i in range(len(kernels))
    ]
    weights = [each for i, dims in enumerate(kernels) for each in ((f"c{i}.weight", dims), (f"c{i}.bias", dims[:1]))]
    return model(nodes, image, weights)


def test_convolutions_of_the_text_book() -> None:
    """64x64x3 through 3x3x16 gives 62x62x16 with 432 weights; through 3x3x32 then 60x60x32 with 4,608."""
    first, second = weigh_model(convolutions([3, 64, 64], [16, 3, 3, 3], [32, 16, 3, 3])).layers
    assert (first.name, first.op, first.output_shape) == ("c0", "Conv", (16, 62, 62))
    assert (first.parameters, first.bytes) == (432 + 16, 4 * (432 + 16))
    assert first.multiply_accumulates == 62 * 62 * 432
    assert (second.output_shape, second.parameters) == ((32, 60, 60), 4608 + 32)
    assert second.multiply_accumulates == 60 * 60 * 4608


def test_bottleneck_saves_weights() -> None:
    """32 to 64 channels by 3x3 has 18,432 weights; by 1x1x8 and then 3x3x64 only 256 + 4,608."""
    (wide,) = weigh_model(convolutions([32, 9, 9], [64, 32, 3, 3])).layers
    narrow = weigh_model(convolutions([32, 9, 9], [8, 32, 1, 1], [64, 8, 3, 3]))
    assert wide.parameters - 64 == 18_432
    assert narrow.parameters - 8 - 64 == 256 + 4608 == 4864


def test_depthwise_convolutions_see_one_channel_each() -> None:
    """A convolution in as many groups as channels multiplies each output value by nine weights."""
    (layer,) = weigh_model(convolutions([32, 10, 10], [32, 1, 3, 3], group=32)).layers
    assert layer.multiply_accumulates == 8 * 8 * 32 * 9


def test_remaining_batch_norm_has_four_values_a_channel() -> None:
    """Batch norm with no convolution before it keeps scale, shift, mean and variance, and counts no product."""
    names = ("n.weight", "n.bias", "n.running_mean", "n.running_var")
    node = helper.make_node("BatchNormalization", ["x0", *names], ["y"])
    (layer,) = weigh_model(model([node], [8, 4, 4], [(name, [8]) for name in names])).layers
    assert (layer.name, layer.parameters, layer.multiply_accumulates) == ("n", 32, 0)


def test_shared_weights_count_once() -> None:
    """Two layers with the same weight hold it once."""
    nodes = [helper.make_node("MatMul", [f"x{i}", "w.weight"], [f"x{i + 1}"]) for i in range(2)]
    weight = weigh_model(model(nodes, [6], [("w.weight", [6, 6])]))
    assert (weight.parameters, weight.initializer_bytes) == (36, 144)


def vgg16() -> onnx.ModelProto:
    """Return the graph of VGG-16 after table 1, column D of the paper."""
    nodes: list[onnx.NodeProto] = []
    weights: Shapes = []

    def add(op: str, *names_and_dims: tuple[str, list[int]], **attributes: Any) -> None:
        names = [name for name, _ in names_and_dims]
        nodes.append(helper.make_node(op, [f"x{len(nodes)}", *names], [f"x{len(nodes) + 1}"], **attributes))
        weights.extend(names_and_dims)

    channels = 3
    for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for i in range(1, depth + 1):
            name = f"conv{stage}_{i}"
            kernel = (f"{name}.weight", [width, channels, 3, 3])
            add("Conv", kernel, (f"{name}.bias", [width]), pads=[1, 1, 1, 1])
            channels = width
        add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    add("Flatten")
    for name, rows, columns in (("fc6", 4096, 25088), ("fc7", 4096, 4096), ("fc8", 1000, 4096)):
        add("Gemm", (f"{name}.weight", [rows, columns]), (f"{name}.bias", [rows]), transB=1)
    return model(nodes, [3, 224, 224], weights)


def test_vgg16_is_heavy_in_its_full_layers() -> None:
    """138,357,544 parameters, 15.47 G multiply-accumulates; 89.4 % in three full layers, 74.3 % in the first alone."""
    weight = weigh_model(vgg16())
    assert weight.parameters == 138_357_544
    assert weight.initializer_bytes == 4 * 138_357_544
    assert round(weight.multiply_accumulates / 1e9, 2) == 15.47
    full = [layer for layer in weight.layers if layer.op == "Gemm"]
    assert round(100 * sum(layer.parameters for layer in full) / weight.parameters, 1) == 89.4
    assert round(100 * full[0].parameters / weight.parameters, 1) == 74.3


@pytest.mark.parametrize("limit", [0, 1e9], ids=["beside", "inside"])
def test_exported_network_weighs_what_torch_counts(tmp_path: Path, limit: float) -> None:
    """Where no batch norm was folded the layers hold every parameter; preprocessing is no layer; files may be gone."""
    built = build(catalog.get("lenet5"), parse("random"))
    path, *beside = convert(built.module, built.images(2, 0), tmp_path / "model.onnx", external_data_above=limit)
    for file in beside:
        file.unlink()
    weight = weigh(path)
    assert weight.parameters == built.parameters == 61_706
    assert [layer.name.rpartition(".")[2] for layer in weight.layers] == ["c1", "c3", "c5", "f6", "output"]
    assert [layer.output_shape for layer in weight.layers] == [(6, 28, 28), (16, 10, 10), (120, 1, 1), (84,), (10,)]
    assert 4 * 61_706 <= weight.initializer_bytes < 4 * 61_706 + 100


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build(catalog.get("lenet5"), parse("random"))
    path = tmp_path_factory.mktemp("lenet5") / "model.onnx"
    return convert(built.module, built.images(2, 0), path, metadata=metadata(built))[0]


STORED: dict[str, Callable[[int, int, int], int]] = {
    # A layer's bytes with a weights and b outputs; for matrices of K inputs, blocks of 64 with a scale each.
    "fp16": lambda weights, outputs, _inputs: 2 * (weights + outputs),
    "fp16-weights": lambda weights, outputs, _inputs: 2 * weights + 4 * outputs,
    "int8": lambda weights, outputs, _inputs: weights + 5 * outputs + 12 * outputs,
    "int8-weights": lambda _weights, outputs, inputs: outputs * -(-inputs // 64) * (64 + 4) + 4 * outputs,
    "int4-weights": lambda _weights, outputs, inputs: outputs * -(-inputs // 64) * (32 + 4) + 4 * outputs,
}
"""As export.variants says that each lays out its bytes: a scale and a zero point for each output channel of int8, and
three numbers of four bytes for each of its biases."""


@pytest.mark.parametrize("variant", STORED)
def test_variants_are_weighed_with_their_scales(tmp_path: Path, lenet5: Path, variant: str) -> None:
    """Of every variant the layers keep name, shape, parameters and products; their bytes hold scales and zero points."""
    target = tmp_path / "model.onnx"
    make(variant, lenet5, target, Calibration("random", images=2))
    plain, stored = weigh(lenet5), weigh(target)
    for before, after in zip(plain.layers, stored.layers, strict=True):
        same = ("name", "output_shape", "parameters", "multiply_accumulates")
        assert [getattr(before, each) for each in same] == [getattr(after, each) for each in same]
    full = next(layer for layer in stored.layers if layer.name == "classifier.f6")
    assert full.bytes == STORED[variant](84 * 120, 84, 120)
    assert full.datatype == {"fp16": "float16", "fp16-weights": "float16", "int4-weights": "int4"}.get(variant, "int8")
    assert 0 <= stored.initializer_bytes - sum(layer.bytes for layer in stored.layers) < 100


def test_constant_nodes_and_unpacked_matrices_are_weighed() -> None:
    """Older exporters keep weights in Constant nodes, with a Transpose behind them and the bias in an Add."""
    matrix = helper.make_tensor("", TensorProto.FLOAT, [5, 7], bytes(4 * 35), raw=True)
    nodes = [
        helper.make_node("Constant", [], ["w.weight"], value=matrix),
        helper.make_node("Transpose", ["w.weight"], ["w.t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x0", "w.t"], ["y"]),
        helper.make_node("Add", ["y", "b"], ["z"]),
    ]
    weight = weigh_model(model(nodes, [7], [("b", [5])]))
    (layer,) = weight.layers
    assert (layer.name, layer.op, layer.output_shape) == ("w", "MatMul", (5,))
    assert (layer.parameters, layer.bytes, layer.multiply_accumulates) == (40, 160, 35)
    assert weight.initializer_bytes == 160


def test_thin_layers_are_weighed_each() -> None:
    """A matrix that became two (25088 x 4096 by way of 64) weighs 64 * (25088 + 4096) values."""
    nodes = [helper.make_node("Gemm", [f"x{i}", f"fc.{i}.weight"], [f"x{i + 1}"], transB=1) for i in range(2)]
    weight = weigh_model(model(nodes, [25_088], [("fc.0.weight", [64, 25_088]), ("fc.1.weight", [4_096, 64])]))
    assert [layer.name for layer in weight.layers] == ["fc.0", "fc.1"]
    assert weight.parameters == weight.multiply_accumulates == 64 * (25_088 + 4_096)

"""models.arithmetic and models.layers: one layer worked out by hand, a network measured, and both against torch."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import netweight
from models import build, catalog
from models.arithmetic import Window, convolution, linear, pooling
from models.layers import layers, measure
from models.spec import NetweightError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netweight.main, ("models", "show", *arguments))


def test_convolutions_of_the_text_book() -> None:
    """64x64x3 through 3x3x16 gives 62x62x16 with 432 weights; through 3x3x32 then 60x60x32 with 4,608."""
    first = convolution((64, 64, 3), (3, 3, 16))
    assert (first.output_shape, first.weights, first.biases) == ((62, 62, 16), 432, 16)
    assert (first.multiply_accumulates, first.bytes) == (62 * 62 * 432, 4 * 448)
    second = convolution(first.output_shape, (3, 3, 32))
    assert (second.output_shape, second.weights, second.biases) == ((60, 60, 32), 4608, 32)


@pytest.mark.parametrize("side", [3, 14, 62])
def test_the_bottleneck_saves_weights(side: int) -> None:
    """32 to 64 channels by 3x3 has 18,432 weights at any size; by 1x1x8 and then 3x3x64 only 256 + 4,608 = 4,864."""
    image = (side, side, 32)
    assert convolution(image, (3, 3, 64)).weights == 18_432
    narrow = convolution(image, (1, 1, 8))
    assert (narrow.weights, convolution(narrow.output_shape, (3, 3, 64)).weights) == (256, 4608)


def test_alexnet_rounds_down() -> None:
    """AlexNet's 11x11 kernels at stride 4 with padding 2 make 55x55 of 224x224; overlapping pooling then 27x27."""
    first = convolution((224, 224, 3), (11, 11, 64), Window(4, 2))
    assert first.output_shape == (55, 55, 64)
    assert "rounded down" in first.sums[0].numbers
    assert pooling(first.output_shape, (3, 3), Window(2)).output_shape == (27, 27, 64)


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    window=st.builds(Window, st.integers(1, 4), st.integers(0, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    multiples=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
)
def test_any_convolution_is_torchs(
    sides: tuple[int, int],
    kernel: tuple[int, int],
    window: Window,
    groups: int,
    multiples: tuple[int, int],
    bias: bool,
) -> None:
    inputs, outputs = (groups * each for each in multiples)
    reach = [window.dilation * (k - 1) + 1 for k in kernel]
    assume(all(n + 2 * window.padding >= r for n, r in zip(sides, reach, strict=True)))
    ours = convolution((*sides, inputs), (*kernel, outputs), window, groups, bias=bias)
    module = nn.Conv2d(
        inputs, outputs, kernel, window.stride, window.padding, window.dilation, groups, bias=bias, device="meta"
    )
    (torchs,) = measure(module, (inputs, *sides))
    assert torchs.output_shape == (ours.output_shape[2], *ours.output_shape[:2])
    assert (torchs.parameters, torchs.bytes) == (ours.parameters, ours.bytes)
    assert torchs.multiply_accumulates == ours.multiply_accumulates


def test_a_linear_layer_is_torchs() -> None:
    """25,088 features to 4,096: 102,764,544 parameters, the matrix that holds three quarters of VGG-16."""
    ours = linear(25_088, 4_096)
    assert ours.parameters == 102_764_544
    (torchs,) = measure(nn.Linear(25_088, 4_096, device="meta"), (25_088,))
    assert (torchs.parameters, torchs.multiply_accumulates) == (ours.parameters, ours.multiply_accumulates)


@pytest.mark.parametrize("name", {each.family: each.name for each in reversed(list(catalog.architectures()))}.values())
def test_a_networks_layers_hold_all_of_it(name: str) -> None:
    """Of each family's first: the layers' parameters add up to the record's, and each row's bytes are four for each; nothing takes memory."""
    architecture = catalog.get(name)
    rows = layers(architecture)
    assert sum(row.parameters for row in rows) == architecture.parameters
    assert all(row.bytes == 4 * row.parameters for row in rows)
    assert rows[-1].output_shape in {(architecture.classes,), (architecture.classes, 1, 1)} or not rows[-1].parameters
    assert all(parameter.is_meta for parameter in build.on_meta(architecture, 1000).parameters())


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2", "vit_b_16", "swin_t", "regnet_y_400mf"])
def test_multiply_accumulates_are_torchvisions(name: str) -> None:
    """The sum is what torchvision's weight records print, also where attention is computed outside its modules."""
    from torchvision import models

    try:
        with torch.device("meta"):
            network = models.get_model(name)
    except NotImplementedError:
        network = models.get_model(name).to("meta")
    record = models.get_model_weights(name).DEFAULT.meta
    rows = measure(network, (3, 224, 224))
    assert round(sum(row.multiply_accumulates for row in rows) / 1e9, 3) == record["_ops"]
    assert sum(row.parameters for row in rows) == record["num_params"]


def test_what_takes_no_part_is_not_counted() -> None:
    """A head that the network does not call in eval mode weighs nothing; a layer that is called twice weighs once."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.auxiliary = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.shared(self.shared(x))
            return (y, self.auxiliary(y)) if self.training else y  # type: ignore[return-value]

    rows = measure(Network().to("meta"), (6,))
    assert [(row.name, row.parameters, row.multiply_accumulates) for row in rows] == [
        ("shared", 42, 36),
        ("shared", 0, 36),
    ]


def test_show_conv_prints_the_formula() -> None:
    """The page has the shapes, the formula, the numbers put in, and what comes out."""
    shown = run("conv", "64x64x3", "3x3x16").output
    assert "64x64x3 -> convolution 3x3x16 -> 62x62x16" in shown
    assert "(n - k + 2p) / s + 1 = (64 - 3 + 2 x 0) / 1 + 1 = 62" in shown
    assert "3 x 3 x 3 x 16 = 432" in shown
    assert "62 x 62 x 432 = 1,660,608" in shown
    assert "(432 + 16) x 4 = 1,792" in shown


def test_show_conv_chains() -> None:
    """Kernels on one line come one after the other, and are summed."""
    shown = run("conv", "62x62x32", "1x1x8", "3x3x64").output
    assert "62x62x8 -> convolution 3x3x64 -> 60x60x64" in shown
    assert "256 + 4,608 = 4,864 weights, 72 biases" in shown
    first, second = json.loads(run("conv", "62x62x32", "1x1x8", "3x3x64", "--json").output)
    assert (first["weights"], second["weights"], second["bytes"]) == (256, 4608, 4 * 4672)
    assert second["output_shape"] == [60, 60, 64]


def test_show_depthwise_pool_and_linear() -> None:
    """Groups divide the depth; pooling holds no weights; a linear layer flattens the image before it."""
    assert "3 x 3 x 32 / 32 x 32 = 288" in run("conv", "10x10x32", "3x3x32", "--groups", "32", "--no-bias").output
    pooled = run("pool", "224x224x64", "2x2").output
    assert "-> 112x112x64" in pooled
    assert "none" in pooled
    assert f"{prod((7, 7, 512, 4096)):,}" in run("linear", "7x7x512", "4096").output


FAILURES = {
    "no shape": (["conv", "64x64", "3x3x16"], "'64x64' is no image"),
    "text": (["conv", "64x64x3", "three"], "'three' is no kernel: expected whole numbers above 0 such as 3x3x16"),
    "zero": (["conv", "64x64x0", "3x3x16"], "'64x64x0' is no image"),
    "kernel too large": (["conv", "6x9x3", "7x7x4"], "a kernel of height 7 does not fit into an image of height 6"),
    "dilated kernel too large": (["conv", "6x6x3", "3x3x4", "--dilation", "3"], "height 3 (dilated: 7) does not fit"),
    "padded image too small": (["conv", "6x6x3", "9x9x4", "--padding", "1"], "height 6 (8 with its padding)"),
    "stride": (["conv", "6x6x3", "3x3x4", "--stride", "0"], "--stride 0: expected 1 or more"),
    "padding": (["pool", "6x6x3", "3x3", "--padding", "-1"], "--padding -1: expected 0 or more"),
    "groups": (
        ["conv", "6x6x3", "3x3x4", "--groups", "2"],
        "--groups 2: expected a number that divides the 3 channels",
    ),
    "no kernel": (["conv", "6x6x3"], "conv needs two shapes or more, got 1"),
    "pool with groups": (["pool", "6x6x3", "2x2", "--groups", "2"], "pool has no --groups"),
    "linear with a stride": (["linear", "6", "2", "--stride", "2"], "linear has no --stride"),
    "a network with shapes": (["vgg16", "3x3x3"], "vgg16 takes no 3x3x3"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_bad_input_is_one_line(case: str) -> None:
    """What cannot be worked out is told in one line."""
    arguments, text = FAILURES[case]
    failed = run(*arguments)
    assert failed.exit_code == 1
    (line,) = failed.output.splitlines()
    assert line.startswith("Error: ")
    assert text in line


def test_channels_must_divide_into_groups() -> None:
    """A convolution in as many groups as channels is depthwise; in another number it is refused."""
    assert convolution((9, 9, 32), (3, 3, 32), groups=32).weights == 9 * 32
    with pytest.raises(NetweightError, match="expected a number that divides the 32 channels"):
        convolution((9, 9, 32), (3, 3, 32), groups=5)

"""models/nets: the networks that are defined here are those of their papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import models.torchvision_on_cpu  # noqa: F401
from models.nets import vgg
from models.nets.alexnet_2012 import alexnet_2012
from models.nets.inception_v2 import TABLE, Logits, inception_v2
from models.nets.mobilenet_v1 import mobilenet_v1
from models.nets.resnet_small import cifar_resnet
from models.spec import NetweightError

# isort: split
import torchvision

VGGS = pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
WITHOUT_OWN = pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16_c"])


def on_meta(builder: Callable[..., nn.Module], **options: object) -> nn.Module:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return builder(**options).eval()


def shapes(network: nn.Module) -> list[tuple[str, torch.Size]]:
    """Return the names and shapes of all weights."""
    return [(name, tensor.shape) for name, tensor in network.state_dict().items()]


def count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def maps(layers: nn.Module, side: int) -> dict[str, tuple[int, ...]]:
    """Return the shape that each layer of a sequence gives, without the batch."""
    image = torch.empty(1, 3, side, side, device="meta")
    given = {}
    for name, layer in layers.named_children():
        image = layer(image)
        given[name] = tuple(image.shape[1:])
    return given


def test_alexnets_sides_follow_the_formula() -> None:
    """Each map of AlexNet has the side (n - k + 2p) / s + 1, whole without rounding: 55, 27, 13, 6."""
    features = on_meta(alexnet_2012).get_submodule("features")
    side, seen = 227, []
    for name, (_, height, width) in maps(features, 227).items():
        layer = features.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (
                each[0] if isinstance(each, tuple) else each
                for each in (layer.kernel_size, layer.stride, layer.padding)
            )
            assert isinstance(stride, int)
            numerator = side - int(kernel) + 2 * int(padding)
            assert numerator % stride == 0
            side = numerator // stride + 1
            seen.append(side)
        assert (height, width) == (side, side)
    assert seen == [55, 27, 27, 13, 13, 13, 13, 6]


def test_alexnets_layers_are_the_papers() -> None:
    """AlexNet has the paper's channels, its two groups, overlapping pools, and 60 million parameters."""
    network = on_meta(alexnet_2012)
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [96, 256, 384, 384, 256]
    assert [each.groups for each in convolutions] == [1, 2, 1, 2, 2]
    pools = [each for each in network.modules() if isinstance(each, nn.MaxPool2d)]
    assert all((each.kernel_size, each.stride) == (3, 2) for each in pools)
    assert count(network) == 60_965_224


def test_alexnets_normalisation_has_the_papers_constants() -> None:
    """LRN divides by (2 + 1e-4 * sum of the squares of five neighbouring maps) ^ 0.75, cut off at the edges."""
    values = torch.rand(1, 7, 2, 2, dtype=torch.float64) * 100
    layer = alexnet_2012(2).get_submodule("features.lrn1")
    squares = values.pow(2)
    sums = torch.stack([squares[:, max(0, at - 2) : at + 3].sum(dim=1) for at in range(7)], dim=1)
    torch.testing.assert_close(layer(values), values / (2 + 1e-4 * sums).pow(0.75))


@VGGS
def test_own_vgg_is_torchvisions(name: str) -> None:
    """Our own VGG has torchvision's weights, name by name, with batch norm and without."""
    assert shapes(on_meta(getattr(vgg, name))) == shapes(on_meta(getattr(torchvision.models, name)))
    normalised = on_meta(getattr(vgg, name), batch_norm=True)
    assert shapes(normalised) == shapes(on_meta(getattr(torchvision.models, f"{name}_bn")))


def test_own_vgg_computes_what_torchvisions_does() -> None:
    """With the same weights our own VGG-11 gives the same logits as torchvision's, at quarter width and full."""
    own = vgg.vgg11(num_classes=5, width=0.25).eval()
    theirs = torchvision.models.vgg.VGG(own.features, num_classes=5, init_weights=False).eval()
    theirs.classifier = own.classifier
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(own(images), theirs(images))


@WITHOUT_OWN
def test_vgg_takes_a_width(name: str) -> None:
    """A width multiplies every layer's channels, the full layers' too; the last layer keeps its classes."""
    full, quarter = on_meta(getattr(vgg, name)), on_meta(getattr(vgg, name), width=0.25, num_classes=7)
    widths = [
        [each.weight.shape[0] for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        for network in (full, quarter)
    ]
    assert widths[1] == [each // 4 for each in widths[0][:-1]] + [7]
    assert widths[0][-3:] == [4096, 4096, 1000]


def test_vgg_with_lrn_is_vgg11_and_one_layer() -> None:
    """VGG-11 (LRN) is VGG-11 with one normalisation after its first convolution, which has no parameters."""
    network = on_meta(vgg.vgg11_lrn)
    kinds = [type(each).__name__ for each in network.get_submodule("features").children()]
    assert kinds.index("LocalResponseNorm") == 2
    kinds.remove("LocalResponseNorm")
    assert kinds == [type(each).__name__ for each in on_meta(vgg.vgg11).get_submodule("features").children()]
    assert count(network) == 132_863_336


def test_vgg16_c_sees_one_pixel_where_vgg16_sees_nine() -> None:
    """VGG-16 (Conv1) has VGG-16's channels; the last convolutions of its last three stages are 1x1."""
    one, three = (
        [(each.out_channels, each.kernel_size[0]) for each in on_meta(builder).modules() if isinstance(each, nn.Conv2d)]
        for builder in (vgg.vgg16_c, vgg.vgg16)
    )
    assert [channels for channels, _ in one] == [channels for channels, _ in three]
    assert [index for index, (_, kernel) in enumerate(one) if kernel == 1] == [6, 9, 12]
    assert {kernel for _, kernel in three} == {3}


def test_inception_v2_gives_the_papers_maps() -> None:
    """The modules of BN-Inception give figure 5's depths and sides."""
    network = on_meta(inception_v2)
    seen = {}
    for name, module in network.get_submodule("inception").named_children():
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: tuple(output.shape[1:3])}))
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert seen == {
        "3a": (256, 28),
        "3b": (320, 28),
        "3c": (576, 14),
        **dict.fromkeys(("4a", "4b", "4c", "4d"), (576, 14)),
        **dict.fromkeys(("4e", "5a", "5b"), (1024, 7)),
    }
    assert [row.inputs for row in TABLE[1:]] == [depth for depth, _ in seen.values()][:-1]


def test_inception_v2_names_its_side_heads() -> None:
    """While it trains BN-Inception gives logits and those of two side heads; in eval mode, or without heads, logits."""
    with torch.device("meta"):
        network, bare = inception_v2(10), inception_v2(10, aux_logits=False)
    images = torch.empty(2, 3, 64, 64, device="meta")
    outputs = network(images)
    assert isinstance(outputs, Logits)
    assert [each.shape for each in outputs] == [(2, 10)] * 3
    assert network.eval()(images).shape == (2, 10)
    assert bare(images).shape == (2, 10)


def test_mobilenet_v1_is_the_papers() -> None:
    """MobileNet has table 1's maps, 4.2 million parameters, and as many groups as channels in every other convolution."""
    network = on_meta(mobilenet_v1)
    assert round(count(network) / 1e6, 1) == 4.2
    blocks = on_meta(mobilenet_v1).get_submodule("blocks")
    stem = network.get_submodule("stem")(torch.empty(1, 3, 224, 224, device="meta"))
    given = [stem]
    for block in blocks.children():
        given.append(block(given[-1]))
    assert [tuple(each.shape[1:3]) for each in given] == [
        (32, 112),
        (64, 112),
        *[(128, 56)] * 2,
        *[(256, 28)] * 2,
        *[(512, 14)] * 6,
        *[(1024, 7)] * 2,
    ]
    groups = [(each.groups, each.in_channels) for each in blocks.modules() if isinstance(each, nn.Conv2d)]
    assert all(number == channels for number, channels in groups[::2])
    assert all(number == 1 for number, _ in groups[1::2])


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_small_resnets_weigh_what_the_paper_says(depth: int, millions: float) -> None:
    """A small ResNet has the paper's parameters and layers, and the plain network beside it exactly the same ones."""
    residual, plain = on_meta(cifar_resnet, depth=depth), on_meta(cifar_resnet, depth=depth, residual=False)
    assert round(count(residual) / 1e6, 1 if millions > 1 else 2) == millions
    assert shapes(residual) == shapes(plain)
    assert sum(isinstance(each, nn.Conv2d | nn.Linear) for each in residual.modules()) == depth


def test_residual_adds_its_input() -> None:
    """With zero weights a block passes its input on, every other pixel and new channels of zeros where it halves."""
    network = cifar_resnet(depth=8).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    same, halved = network.blocks[0], network.blocks[1]
    image: Tensor = torch.rand(2, 16, 8, 8)
    assert torch.equal(same(image), image)
    assert torch.equal(halved(image)[:, :16], image[:, :, ::2, ::2])
    assert not halved(image)[:, 16:].any()
    assert not cifar_resnet(depth=8, residual=False).eval().blocks[0].requires_grad_(False)(image).equal(image)


@pytest.mark.parametrize("depth", [2, 7, 55])
def test_small_resnets_have_whole_blocks(depth: int) -> None:
    """A depth that is not 6n + 2 is refused in one line."""
    with pytest.raises(NetweightError, match=rf"^a ResNet for small images has 6n \+ 2 layers, got {depth}: give"):
        cifar_resnet(depth=depth)

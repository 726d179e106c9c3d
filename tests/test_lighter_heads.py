"""models.heads: a classifier of several fully connected layers becomes a lighter one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import models.torchvision_on_cpu  # noqa: F401  (before torchvision)
from models import catalog, heads
from models.build import build
from models.spec import NetweightError


class Tiny(nn.Module):
    """VGG's and AlexNet's structure in small: features, pooling to 3x3, three fully connected layers."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(72, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, num_classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def lighten(network: nn.Module, energy: float | None, rank: int | None) -> heads.Head:
    if energy is None and rank is None:
        return heads.pool(network, "net")
    return heads.svd(network, "net", energy=energy, rank=rank)


def refusal(network: nn.Module, *, energy: float | None = None, rank: int | None = None) -> str:
    """Return the message that a head for this network ends with: one line."""
    with pytest.raises(NetweightError) as caught:
        lighten(network, energy, rank)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pooled_head_is_the_mean_of_each_map_and_one_layer() -> None:
    """What is left behind the features is a mean over the positions and one matrix of channels x classes."""
    network = tiny()
    head = heads.pool(network, "tiny")
    maps = network.features(IMAGES)
    linear = network.classifier[-1]
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(network(IMAGES), maps.mean((2, 3)) @ linear.weight.T + linear.bias)
    assert [(each.name, each.inputs, each.outputs, each.rank) for each in head.layers] == [
        ("classifier.0", 72, 48, None),
        ("classifier.3", 48, 48, None),
        ("classifier.5", 48, 5, None),
    ]
    assert sum(each.numel() for each in network.classifier.parameters()) == 8 * 5 + 5


def test_pooled_head_averages_maps_that_nothing_pools() -> None:
    """Where the network flattens its maps itself, as AlexNet of 2012 does, the head takes their means."""
    network = tiny()
    network.add_module("avgpool", nn.Identity())
    network.classifier[0] = nn.Linear(8 * 9, 48)
    heads.pool(network, "tiny")
    linear = network.classifier[-1]
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(network(IMAGES), network.features(IMAGES).mean((2, 3)) @ linear.weight.T + linear.bias)


@pytest.mark.parametrize("sides", [(9, 6), (6, 9)], ids=["wide", "tall"])
def test_factors_are_the_nearest_matrix_of_their_rank(sides: tuple[int, int]) -> None:
    """The product of both layers is the truncation of torch's own SVD, and the energy is its share."""
    torch.manual_seed(0)
    network = tiny()
    layer = nn.Linear(*sides)
    network.classifier[0] = layer
    before, bias = layer.weight.detach().double(), layer.bias.detach().clone()
    head = heads.svd(network, "net", rank=2)
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    nearest = (left[:, :2] * values[:2]) @ right[:2]
    inward, outward = network.get_submodule("classifier.0").children()
    assert isinstance(inward, nn.Linear)
    assert isinstance(outward, nn.Linear)
    torch.testing.assert_close((outward.weight @ inward.weight).double(), nearest, atol=1e-6, rtol=0)
    assert [key for key, _ in inward.named_parameters()] == ["weight"]
    assert torch.equal(outward.bias, bias)
    torch.testing.assert_close(outward.weight.norm(dim=0), inward.weight.norm(dim=1))
    assert head.layers[0].energy == pytest.approx(float((values[:2] ** 2).sum() / (values**2).sum()), abs=1e-6)


def test_energy_chooses_the_smallest_rank_that_keeps_it() -> None:
    """One singular value less would keep less than was asked for; the share that is kept is said."""
    network = tiny()
    squares = torch.linalg.svdvals(network.get_parameter("classifier.3.weight").detach().double()) ** 2
    shares = squares.cumsum(0) / squares.sum()
    (layer,) = [each for each in heads.svd(network, "tiny", energy=0.7).layers if each.name == "classifier.3"]
    assert layer.rank is not None
    assert shares[layer.rank - 1] >= 0.7 > shares[layer.rank - 2]
    assert layer.energy == pytest.approx(float(shares[layer.rank - 1]), abs=1e-6)


def test_a_layer_stays_where_two_would_not_be_smaller() -> None:
    """48 x 5 at rank 5 would grow, so it is kept whole, and its output with it."""
    network = tiny()
    kept = network.classifier[5]
    head = heads.svd(network, "tiny", rank=5)
    assert network.classifier[5] is kept
    assert [each.rank for each in head.layers] == [5, 5, None]
    assert head.layers[2].energy == 1.0


def test_full_energy_changes_nothing_and_says_so() -> None:
    """A head that makes nothing smaller is refused, not published as lighter."""
    assert "--energy 1 makes no layer of net's classifier smaller" in refusal(tiny(), energy=1)
    assert "--rank 48 makes no layer of net's classifier smaller" in refusal(tiny(), rank=48)


def test_matrices_of_low_rank_are_split_without_loss() -> None:
    """Singular values that vanish divide nothing: the logits are those of before."""
    network = tiny()
    with torch.no_grad():
        for key in (0, 3):
            weight = network.get_parameter(f"classifier.{key}.weight")
            weight.copy_(weight[:, :3] @ weight[:3])
    before = network(IMAGES)
    heads.svd(network, "tiny", rank=6)
    torch.testing.assert_close(network(IMAGES), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["pool", "svd"])
def test_record_rebuilds_the_shape(kind: str) -> None:
    """A fresh network takes the lighter one's weights once its record, read back from JSON, was applied to it."""
    network = tiny()
    head = heads.pool(network, "tiny") if kind == "pool" else heads.svd(network, "tiny", energy=0.6)
    read = heads.Head.from_dict(json.loads(json.dumps({**head.to_dict(), "fine_tuning": None})))
    assert read == head
    with torch.device("meta"):
        fresh = Tiny()
    heads.restructure(fresh, read, "tiny")
    fresh.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(fresh.eval()(IMAGES), network(IMAGES))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "squeezenet1_0"])
def test_networks_without_heavy_classifiers_are_refused(name: str) -> None:
    """Those that end in one layer, or in a convolution, have nothing to lighten."""
    from torchvision import models as zoo

    with torch.device("meta"):
        network = zoo.get_model(name, num_classes=10, weights=None)
    assert "--head is for networks" in refusal(network)


HEAVY = [name for name in catalog.names() if catalog.get(name).family in {"VGG", "AlexNet"}]


@pytest.mark.parametrize("name", HEAVY)
def test_every_vgg_and_alexnet_takes_both_heads(name: str) -> None:
    """What is left are the features' weights, and those that the new layers have by their shapes."""
    architecture = catalog.get(name)
    with torch.device("meta"):
        network, other = build(architecture, 10), build(architecture, 10)
        features = heads.parameters(network.get_submodule("features"))
        head = heads.pool(network, name)
        first, second, last = head.layers
        maps = [each for each in network.modules() if isinstance(each, nn.Conv2d)][-1].out_channels
        thin = heads.Head("svd", (replace(first, rank=64), replace(second, rank=32), last))
        heads.restructure(other, thin, name)
    assert heads.parameters(network) == features + maps * 10 + 10
    factors = 64 * (first.inputs + first.outputs) + 32 * (second.inputs + second.outputs)
    biases = first.outputs + second.outputs + last.outputs
    assert heads.parameters(other) == features + factors + last.inputs * last.outputs + biases


def test_vgg16_keeps_a_ninth() -> None:
    """14.7 of VGG-16's 134.3 million weights are left on ten classes, 2.5 of AlexNet's 57.0 million."""
    for name, before, after in (("vgg16_bn", 134_309_962, 14_728_266), ("alexnet", 57_044_810, 2_472_266)):
        with torch.device("meta"):
            network = build(catalog.get(name), 10)
            assert heads.parameters(network) == before
            heads.pool(network, name)
        assert heads.parameters(network) == after


def test_maps_that_do_not_divide_are_refused() -> None:
    """A classifier that takes something else than flattened maps cannot be averaged."""
    network = tiny()
    network.classifier[0] = nn.Linear(71, 48)
    assert "71 values, which are no maps of its last convolution's 8 channels" in refusal(network)


def test_rank_larger_than_any_layer_is_refused() -> None:
    """The message says how large it can be."""
    assert "--rank 49 is larger than any layer of net's classifier has, at most 48" in refusal(tiny(), rank=49)


@pytest.mark.parametrize(
    ("kind", "energy", "rank", "words"),
    [
        ("pool", 0.9, None, "takes no --energy"),
        ("pool", None, 3, "takes no --rank"),
        ("svd", None, None, "got neither"),
        ("svd", 0.9, 3, "got both"),
        ("svd", 0.0, None, "got 0"),
        ("svd", 1.5, None, "got 1.5"),
        ("svd", float("nan"), None, "got nan"),
        ("svd", None, 0, "got 0"),
    ],
)
def test_options_that_do_not_go_together(kind: str, energy: float | None, rank: int | None, words: str) -> None:
    """Each is refused in one line that names the option and what came."""
    with pytest.raises(NetweightError, match=words):
        heads.check(kind, energy=energy, rank=rank)

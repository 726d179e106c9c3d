"""models/catalog.py and models/build.py: what the records say is what the networks are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import models.torchvision_on_cpu  # noqa: F401
from models import build, catalog
from models.nets.lenet5 import LeNet5
from models.spec import Architecture, NetweightError, Preprocessing

# isort: split
import torchvision

ARCHITECTURES = pytest.mark.parametrize("architecture", tuple(catalog.architectures()), ids=catalog.names())
TORCHVISION = pytest.mark.parametrize(
    "architecture",
    [architecture for architecture in catalog.architectures() if architecture.builder.startswith("torchvision")],
    ids=lambda architecture: architecture.name,
)


def meta(architecture: Architecture, classes: int | None = None, *, small_images: bool = False) -> nn.Module:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return build.build(architecture, classes or architecture.classes, small_images)


def output(network: nn.Module, side: int, channels: int) -> torch.Size:
    """Return the shape of the logits of three images."""
    logits: torch.Tensor = network.eval()(torch.empty(3, channels, side, side, device="meta"))
    return logits.shape


def weight_record(architecture: Architecture) -> Any:
    """Return torchvision's own record of its first published weights."""
    return torchvision.models.get_model_weights(architecture.name)["IMAGENET1K_V1"]


@ARCHITECTURES
def test_parameters_are_counted_again(architecture: Architecture) -> None:
    """A network has as many parameters as its record declares."""
    assert sum(parameter.numel() for parameter in meta(architecture).parameters()) == architecture.parameters


@ARCHITECTURES
def test_takes_the_images_of_its_record(architecture: Architecture) -> None:
    """A network takes images of its record's channels and side, and gives a logit for each class."""
    taken = architecture.preprocessing
    assert output(meta(architecture), taken.height, taken.channels) == (3, architecture.classes)


@ARCHITECTURES
def test_takes_small_images(architecture: Architecture) -> None:
    """Adapted to small images, a network takes 32x32 ones and gives ten logits, with as many parameters as before."""
    small = meta(architecture, 10, small_images=True)
    assert output(small, 32, architecture.preprocessing.channels) == (3, 10)
    plain = meta(architecture, 10)
    assert [p.shape for p in small.parameters()] == [p.shape for p in plain.parameters()]


@ARCHITECTURES
def test_adaptation_is_said_in_words(architecture: Architecture) -> None:
    """What small images change in a network is said in its record; where the record says nothing, nothing changes."""
    changed = str(meta(architecture, 10, small_images=True)) != str(meta(architecture, 10))
    assert changed == (architecture.small_image_adaptation is not None)
    assert build.adaptation(architecture, small_images=True) == architecture.small_image_adaptation
    assert build.adaptation(architecture, small_images=False) is None


def test_mobilenet_v2_keeps_its_maps() -> None:
    """Adapted, MobileNetV2 turns 32x32 images into maps of more than one pixel; as it is, into a single one."""
    architecture = catalog.get("mobilenet_v2")
    images = torch.empty(1, 3, 32, 32, device="meta")
    maps = [
        meta(architecture, 10, small_images=small).get_submodule("features").eval()(images) for small in (False, True)
    ]
    assert maps[0].shape[2:] == (1, 1)
    assert min(maps[1].shape[2:]) > 1


def test_vgg_keeps_its_classifier_on_small_images() -> None:
    """On 32x32 images VGG-16's first full layer still is 25,088 x 4,096: its half a gigabyte is real."""
    network = meta(catalog.get("vgg16_bn"), 10, small_images=True)
    assert network.get_submodule("classifier.0").weight.shape == (4096, 25088)


@TORCHVISION
def test_published_figures_are_torchvisions(architecture: Architecture) -> None:
    """Parameters, accuracy and preprocessing of a record are those of torchvision's own weight record."""
    record = weight_record(architecture)
    assert record.meta["num_params"] == architecture.parameters
    figures = record.meta["_metrics"]["ImageNet-1K"]
    published = next(figure for figure in architecture.published if figure.source == "torchvision IMAGENET1K_V1")
    assert (published.top1_percent, published.top5_percent) == (figures["acc@1"], figures["acc@5"])
    transform = record.transforms()
    assert architecture.preprocessing == Preprocessing(
        height=transform.crop_size[0],
        width=transform.crop_size[0],
        channels=3,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
    )


@pytest.mark.parametrize(("name", "top5_error_percent"), [("vgg11", 10.4), ("vgg16", 8.8)])
def test_vgg_errors_as_published(name: str, top5_error_percent: float) -> None:
    """The VGG records hold the paper's top-5 errors beside torchvision's figures, each with its source."""
    papers = [figure for figure in catalog.get(name).published if "1409.1556" in figure.source]
    assert [figure.top5_percent for figure in papers] == [pytest.approx(100 - top5_error_percent)]


def test_lenet5_has_the_papers_layers() -> None:
    """LeNet-5's trained layers are the paper's, C3 fully connected: 156, 2,416, 48,120, 10,164 and 850 parameters."""
    layers = [module for module in LeNet5().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert counts == [156, 2_416, 48_120, 10_164, 850]


def test_seed_decides_the_weights() -> None:
    """The same seed builds the same weights, another seed others."""
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build.build(catalog.get("lenet5"), 10).get_parameter("features.c1.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_unknown_network_names_the_closest() -> None:
    """An unknown network is answered in one line, with the closest names and the command that lists all."""
    with pytest.raises(NetweightError, match=r"^unknown network 'ResNet-19' \(did you mean .*resnet18.*netweight mod"):
        catalog.get("ResNet-19")
    with pytest.raises(NetweightError, match=r"^unknown network 'zzz': `netweight models`"):
        catalog.get("zzz")


def test_too_few_classes() -> None:
    """A network with fewer than two classes is refused in one line."""
    with pytest.raises(NetweightError, match="at least 2 classes, got 1"):
        build.build(catalog.get("lenet5"), 1)


def test_listing_imports_no_torch() -> None:
    """The catalogue, the records and the files of a run are read without torch, so that a list is quick."""
    code = "import sys, models.catalog, models.spec, models.run, models.train; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchvision_imports_beside_this_torch() -> None:
    """`models.torchvision_on_cpu` makes torchvision importable in a fresh process, warnings as errors."""
    code = "import models.torchvision_on_cpu, torchvision.models, torchvision.transforms.v2"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)

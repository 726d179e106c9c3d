"""models/catalog.py and models/build.py: what the records say is what the networks are."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models.torchvision_on_cpu  # noqa: F401
from models import build, catalog, published
from models.nets.lenet5 import LeNet5
from models.spec import Architecture, NetweightError, Preprocessing, Published

# isort: split
import torchvision

ARCHITECTURES = pytest.mark.parametrize("architecture", tuple(catalog.architectures()), ids=catalog.names())
TORCHVISION = pytest.mark.parametrize(
    "architecture",
    [architecture for architecture in catalog.architectures() if architecture.builder.startswith("torchvision")],
    ids=lambda architecture: architecture.name,
)


def meta(architecture: Architecture, classes: int | None = None, *, small_images: bool = False) -> nn.Module:
    """Build a deployed network without memory for its weights."""
    return build.on_meta(architecture, classes or architecture.classes, small_images, deployed=True)


def output(network: nn.Module, side: int, channels: int) -> torch.Size:
    """Return the shape of the logits of three images."""
    logits: torch.Tensor = network.eval()(torch.empty(3, channels, side, side, device="meta"))
    return logits.shape


@ARCHITECTURES
def test_record_lacks_no_fact(architecture: Architecture) -> None:
    """Every record says when, what it computes, and what was published of it; its edits are said in words."""
    assert architecture.year
    assert architecture.multiply_accumulates
    assert architecture.published
    assert bool(architecture.small_image_edits) == (architecture.small_image_adaptation is not None)


@ARCHITECTURES
def test_facts_are_counted_again(architecture: Architecture) -> None:
    """Parameters and multiply-accumulates are the record's, on the image that it takes; each class has a logit."""
    taken = architecture.preprocessing
    network = meta(architecture)
    with FlopCounterMode(display=False) as counter:
        logits = network.eval()(torch.empty(1, taken.channels, taken.height, taken.width, device="meta"))
    assert logits.shape == (1, architecture.classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture.parameters
    assert counter.get_total_flops() == 2 * architecture.multiply_accumulates  # a product and a sum are one


@ARCHITECTURES
def test_learns_from_small_images(architecture: Architecture) -> None:
    """Adapted to small images, a network takes 32x32 ones forward and backward, its auxiliary heads included.

    An image costs at most 0.6 billion multiply-accumulates forward, so that the digits can be learned on two cores.
    """
    small = build.on_meta(architecture, 10, small_images=True)
    with FlopCounterMode(display=False) as counter:
        outputs = small(torch.empty(4, architecture.preprocessing.channels, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2 / 4 <= 0.6e9
    logits = outputs if isinstance(outputs, tuple) else (outputs,)
    assert [each.shape for each in logits] == [(4, 10)] * (1 + len(architecture.auxiliary_heads))
    assert architecture.auxiliary_heads == () or outputs.logits is logits[0]
    torch.autograd.backward([each.sum() for each in logits])
    assert all(parameter.grad is not None for parameter in small.parameters())


@ARCHITECTURES
def test_adaptation_keeps_the_weights_and_is_said(architecture: Architecture) -> None:
    """Small images change no parameter's shape, and what they change is said; where nothing is said nothing changes."""
    small, plain = meta(architecture, 10, small_images=True), meta(architecture, 10)
    assert [p.shape for p in small.parameters()] == [p.shape for p in plain.parameters()]
    assert (str(small) != str(plain)) == (architecture.small_image_adaptation is not None)
    assert build.adaptation(architecture, small_images=True) == architecture.small_image_adaptation
    assert build.adaptation(architecture, small_images=False) is None


@pytest.mark.parametrize("name", ["googlenet", "inception_v2", "inception_v3"])
def test_auxiliary_heads_train_and_are_not_deployed(name: str) -> None:
    """The deployed network is the trained one but for its heads, and as many parameters go as torchvision counts more."""
    architecture = catalog.get(name)
    network = build.on_meta(architecture, architecture.classes)
    before = set(network.state_dict())
    counted = sum(parameter.numel() for parameter in network.parameters())
    dropped = build.drop_auxiliary_heads(network, architecture)
    assert counted - dropped == architecture.parameters
    gone = before - set(network.state_dict())
    assert {key.partition(".")[0] for key in gone} == set(architecture.auxiliary_heads)
    assert network.state_dict().keys() == meta(architecture).state_dict().keys()
    assert build.drop_auxiliary_heads(network, architecture) == 0


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
def test_facts_are_torchvisions(architecture: Architecture) -> None:
    """Parameters, multiply-accumulates and preprocessing of a record are those of torchvision's own weight record."""
    record = torchvision.models.get_model_weights(architecture.name)["IMAGENET1K_V1"]
    heads = {"inception_v3": 3_326_696}  # torchvision's count has its auxiliary head in
    assert record.meta["num_params"] == architecture.parameters + heads.get(architecture.name, 0)
    assert record.meta["_ops"] == round(architecture.multiply_accumulates / 1e9, 3)
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


@TORCHVISION
def test_published_figures_are_torchvisions(architecture: Architecture) -> None:
    """The accuracy that a record shows as torchvision's is that of torchvision's weight records, every one of them."""
    shown = [each for each in architecture.published if each.source.startswith("torchvision ")]
    records = torchvision.models.get_model_weights(architecture.name)
    assert shown == [
        Published(figures["acc@1"], figures["acc@5"], data, f"torchvision {weights.name}")
        for weights in records
        for data, figures in weights.meta["_metrics"].items()
        if not math.isnan(figures["acc@1"])
    ]
    assert shown[0].source == "torchvision IMAGENET1K_V1"


def test_published_json_is_what_torchvision_generates() -> None:
    """The generated file is that of the torchvision in use: after a new one, `make published`."""
    assert published.FILE.read_text(encoding="utf-8") == published.as_json()


def test_published_json_is_shipped() -> None:
    """The package carries the file that the catalogue reads."""
    project = tomllib.loads((published.FILE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert published.FILE.name in project["tool"]["setuptools"]["package-data"]["models"]


VGG_AS_PUBLISHED = {  # millions of parameters and top-5 error in percent
    "vgg11": (133, 10.4),
    "vgg11_lrn": (133, 10.5),
    "vgg13": (133, 9.9),
    "vgg16_c": (134, 9.4),
    "vgg16": (138, 8.8),
    "vgg19": (144, 9.0),
}


@pytest.mark.parametrize("name", VGG_AS_PUBLISHED)
def test_vgg_rows_as_published(name: str) -> None:
    """Rounded, the parameters of a VGG are the paper's; its top-5 error stands beside torchvision's with its source."""
    architecture = catalog.get(name)
    millions, top5_error_percent = VGG_AS_PUBLISHED[name]
    assert round(architecture.parameters / 1e6) == millions
    papers = [figure for figure in architecture.published if "1409.1556" in figure.source]
    assert [figure.top5_percent for figure in papers] == [pytest.approx(100 - top5_error_percent)]


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet_is_below_five_megabytes(name: str) -> None:
    """In fp32, SqueezeNet's parameters take less than 5 MB."""
    assert catalog.get(name).parameters * 4 < 5e6


def test_every_family_has_a_recipe() -> None:
    """At least one network of each family can be trained on the digits without a word about how."""
    trainable = {each.family for each in catalog.architectures() if each.recipe}
    assert trainable == {each.family for each in catalog.architectures()}


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

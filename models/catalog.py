"""Every network that netweight knows, one record each. Imports no torch, so that listing them is quick."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from models.spec import Architecture, NetweightError, Preprocessing, Published, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS = Preprocessing(height=32, width=32, channels=1, mean=(0.0,), std=(1.0,))
"""LeNet-5 without training data of its own: grey, scaled to 0..1. A checkpoint brings its data's mean and deviation."""

_IMAGENET = Preprocessing(
    height=224, width=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256
)
"""As torchvision's IMAGENET1K_V1 weights were trained: mean and deviation of ImageNet's colours."""


def _torchvision(top1_percent: float, top5_percent: float, weights: str = "IMAGENET1K_V1") -> Published:
    """Return what torchvision's weight record says; tests/test_catalog.py compares the two."""
    return Published(top1_percent, top5_percent, "ImageNet-1K", f"torchvision {weights}")


def _vgg_paper(top1_error_percent: float, top5_error_percent: float) -> Published:
    """Return an error rate of the VGG paper as accuracy."""
    return Published(
        round(100 - top1_error_percent, 1),
        round(100 - top5_error_percent, 1),
        "ImageNet-1K",
        f"Simonyan and Zisserman 2014 (arXiv:1409.1556), table 3, one scale of 256 pixels: "
        f"top-1 error {top1_error_percent} %, top-5 error {top5_error_percent} %",
    )


_ARCHITECTURES = (
    Architecture(
        name="lenet5",
        title="LeNet-5",
        family="LeNet",
        year=1998,
        builder="models.nets.lenet5:lenet5",
        parameters=61_706,
        preprocessing=_DIGITS,
        classes=10,
        recipe=Recipe(epochs=15, learning_rate=0.005, shift_pixels=2),
        published=(Published(99.05, None, "MNIST", "LeCun et al. 1998, section III-B: test error 0.95 %"),),
    ),
    Architecture(
        name="vgg11",
        title="VGG-11",
        family="VGG",
        year=2014,
        builder="torchvision.models:vgg11",
        parameters=132_863_336,
        preprocessing=_IMAGENET,
        published=(_torchvision(69.020, 88.628), _vgg_paper(29.6, 10.4)),
    ),
    Architecture(
        name="vgg16",
        title="VGG-16",
        family="VGG",
        year=2014,
        builder="torchvision.models:vgg16",
        parameters=138_357_544,
        preprocessing=_IMAGENET,
        published=(_torchvision(71.592, 90.382), _vgg_paper(27.0, 8.8)),
    ),
    Architecture(
        name="vgg16_bn",
        title="VGG-16 with batch norm",
        family="VGG",
        year=2014,
        builder="torchvision.models:vgg16_bn",
        parameters=138_365_992,
        preprocessing=_IMAGENET,
        recipe=Recipe(epochs=3, learning_rate=0.0002, shift_pixels=1),
        published=(_torchvision(73.360, 91.516),),
    ),
    Architecture(
        name="resnet18",
        title="ResNet-18",
        family="ResNet",
        year=2015,
        builder="torchvision.models:resnet18",
        parameters=11_689_512,
        preprocessing=_IMAGENET,
        recipe=Recipe(epochs=5, learning_rate=0.001),
        published=(_torchvision(69.758, 89.078),),
    ),
    Architecture(
        name="resnet50",
        title="ResNet-50",
        family="ResNet",
        year=2015,
        builder="torchvision.models:resnet50",
        parameters=25_557_032,
        preprocessing=_IMAGENET,
        published=(_torchvision(76.130, 92.862),),
    ),
    Architecture(
        name="mobilenet_v2",
        title="MobileNetV2",
        family="MobileNet",
        year=2018,
        builder="torchvision.models:mobilenet_v2",
        parameters=3_504_872,
        preprocessing=_IMAGENET,
        small_image_adaptation="the stride of the first convolution is 1 instead of 2",
        recipe=Recipe(epochs=6, learning_rate=0.008, batch_size=64, shift_pixels=2),
        published=(_torchvision(71.878, 90.286),),
    ),
)

_BY_NAME = {architecture.name: architecture for architecture in _ARCHITECTURES}


def names() -> tuple[str, ...]:
    """Return every network's name, oldest family first."""
    return tuple(_BY_NAME)


def architectures() -> Iterator[Architecture]:
    """Iterate over the records in the order of `names`."""
    return iter(_ARCHITECTURES)


def get(name: str) -> Architecture:
    """Return the record of the network `name`.

    Raises:
        NetweightError: no such network; the message names the closest ones.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    close = get_close_matches(name.lower().replace("-", ""), names(), n=3, cutoff=0.5)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise NetweightError(f"unknown network {name!r}{meant}: `netweight models` lists those that there are")

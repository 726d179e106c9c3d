"""A record of the catalogue becomes a network: its builder is imported and called, and adapted to small images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from models.spec import Architecture, NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SMALL_IMAGE_PIXELS = 64
"""An image whose side is below this is small: 224x224 networks halve their maps five times, down to one pixel."""


def build(architecture: Architecture, num_classes: int, small_images: bool = False) -> nn.Module:
    """Build a network with fresh weights, on the device and with the random state that torch has at the time.

    Args:
        architecture: The record of the network.
        num_classes: How many logits the last layer gives.
        small_images: Whether images are below `SMALL_IMAGE_PIXELS`; then what `small_image_adaptation` says is done.

    Returns:
        The module, in training mode: FP32 [batch, channels, height, width] to logits FP32 [batch, num_classes].

    Raises:
        NetweightError: `num_classes` is below 2.
    """
    if num_classes < 2:
        raise NetweightError(f"a network needs at least 2 classes, got {num_classes}: give it more classes")
    network = _builder(architecture)(num_classes=num_classes)
    if small_images and architecture.small_image_adaptation:
        _ADAPTATIONS[architecture.name](network)
    return network


def adaptation(architecture: Architecture, small_images: bool) -> str | None:
    """Return in words what `build` changes in this network, None where it changes nothing."""
    return architecture.small_image_adaptation if small_images else None


def _builder(architecture: Architecture) -> Callable[..., nn.Module]:
    """Import the function that the record names."""
    module, function = architecture.builder.split(":")
    if module.startswith("torchvision"):
        import models.torchvision_on_cpu  # noqa: F401
    builder: Callable[..., nn.Module] = getattr(import_module(module), function)
    return builder


def _keep_mobilenet_v2_maps(network: nn.Module) -> None:
    """Take the first of five strides out of MobileNetV2: 32x32 images then end as 2x2 maps instead of 1x1.

    Taking out the second too, as some do, triples the time of training and of inference and gains little here.
    """
    stem = network.get_submodule("features.0.0")
    stem.stride = (1, 1)  # type: ignore[assignment]  # torch's stub knows tensors and modules only


_ADAPTATIONS: dict[str, Callable[[nn.Module], None]] = {"mobilenet_v2": _keep_mobilenet_v2_maps}
"""By the architecture's name; as many as there are records with a `small_image_adaptation`."""

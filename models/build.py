"""A record becomes a network: its builder is imported and called, and adapted to small images."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from models.spec import Architecture, NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SMALL_IMAGE_PIXELS = 64
"""An image whose side is below this is small: 224x224 networks halve their maps five times, down to one pixel."""


def build(
    architecture: Architecture, num_classes: int, small_images: bool = False, *, deployed: bool = False
) -> nn.Module:
    """Build a network with fresh weights, on the device and with the random state that torch has at the time.

    Args:
        architecture: The record of the network.
        num_classes: How many logits the last layer gives.
        small_images: Whether images are below `SMALL_IMAGE_PIXELS`; then what `small_image_adaptation` says is done.
        deployed: Whether auxiliary heads, which only help to train, are left out.

    Returns:
        The module, in training mode: FP32 [batch, channels, height, width] to logits FP32 [batch, num_classes]. In
        training mode a network with auxiliary heads gives a named tuple: its `logits`, then those of its heads.

    Raises:
        NetweightError: `num_classes` is below 2, or the builder cannot be had or fails.
    """
    if num_classes < 2:
        raise NetweightError(f"a network needs at least 2 classes, got {num_classes}: give it more classes")
    network = _call(architecture, num_classes)
    if small_images:
        _adapt(network, architecture)
    if deployed:
        drop_auxiliary_heads(network, architecture)
    return network


def on_meta(
    architecture: Architecture, num_classes: int, small_images: bool = False, *, deployed: bool = False
) -> nn.Module:
    """Build a network whose tensors have shapes and no values, which takes neither memory nor time; else as `build`."""
    import torch

    try:
        with torch.device("meta"):
            return build(architecture, num_classes, small_images, deployed=deployed)
    except RuntimeError:  # builders that compute with tensors, as RegNet's computes its widths
        return build(architecture, num_classes, small_images, deployed=deployed).to("meta")


def drop_auxiliary_heads(network: nn.Module, architecture: Architecture) -> int:
    """Take the auxiliary heads out of a network, in place; return how many parameters they had."""
    dropped = 0
    for name in architecture.auxiliary_heads:
        head = getattr(network, name)
        if head is not None:
            dropped += sum(parameter.numel() for parameter in head.parameters())
            setattr(network, name, None)
    if architecture.auxiliary_heads:
        network.aux_logits = False  # type: ignore[assignment]  # torchvision's word for whether there are any
    return dropped


def adaptation(architecture: Architecture, small_images: bool) -> str | None:
    """Return in words what `build` changes in this network, None where it changes nothing."""
    return architecture.small_image_adaptation if small_images else None


def import_builder(name: str) -> Callable[..., nn.Module]:
    """Import the function that `name` names, ``package.module:function``; the working directory is looked in last.

    Raises:
        NetweightError: it cannot be imported, or is nothing to call.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise NetweightError(f"a builder is package.module:function, got {name!r}")
    if module.partition(".")[0] == "torchvision":
        import models.torchvision_on_cpu  # noqa: F401
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # an installed command, unlike `python -m`, does not look there
    try:
        imported = import_module(module)
    except Exception as failure:  # a user's own module may fail in any way
        raise NetweightError(
            f"the builder's module {module} cannot be imported: {_first_line(failure)}; mend it, or name another "
            "package.module:function"
        ) from failure
    builder = getattr(imported, function, None)
    if not callable(builder):
        there = "no such function" if builder is None else f"{function} is a {type(builder).__name__}, not a function"
        raise NetweightError(f"the builder {name} cannot be called: {there} in {module}")
    called: Callable[..., nn.Module] = builder
    return called


def _call(architecture: Architecture, num_classes: int) -> nn.Module:
    """Call the builder that the record names, with the record's options."""
    from torch import nn

    options = dict(architecture.options)
    try:
        network = import_builder(architecture.builder)(num_classes=num_classes, **options)
    except (TypeError, ValueError) as failure:
        given = ", ".join(["num_classes", *options])
        raise NetweightError(
            f"the builder {architecture.builder} does not take {given} as they were given: {_first_line(failure)}"
        ) from failure
    if not isinstance(network, nn.Module):
        raise NetweightError(
            f"the builder {architecture.builder} must return a torch.nn.Module, it returned a {type(network).__name__}"
        )
    return network


def _adapt(network: nn.Module, architecture: Architecture) -> None:
    """Make the record's edits for small images."""
    from torch import nn

    for edit in architecture.small_image_edits:
        if edit.attribute is None:
            network.set_submodule(edit.module, nn.Identity())
        else:
            setattr(network.get_submodule(edit.module), edit.attribute, edit.value)


def _first_line(failure: Exception) -> str:
    """Return what an exception says, in one line."""
    return str(failure).strip().partition("\n")[0] or type(failure).__name__

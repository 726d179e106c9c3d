"""A network by its name: the catalogue's record, or one made on the fly for torchvision's others and the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from models import catalog, records
from models.spec import Architecture, NetweightError, Preprocessing

if TYPE_CHECKING:
    from torch import nn

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

_SIDES = (224, 64, 32, 28)
"""Pixels that are tried on the user's own network, which has no record of what it takes: the first that runs is it."""

_COLOUR = Preprocessing(224, 224, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)
_GREY = Preprocessing(224, 224, 1, mean=(0.0,), std=(1.0,), resize=256)


def find(name: str, builder: str | None = None, options: Mapping[str, Any] = _NO_OPTIONS) -> Architecture:
    """Return the record of a network.

    Args:
        name: Of the catalogue, or of any other of torchvision's classification networks; with `builder` any name.
        builder: The user's own, ``package.module:function``: it takes ``num_classes`` and returns a `torch.nn.Module`.
        options: Further keyword arguments of the builder. A network with any is counted anew and has no published
            figures.

    Raises:
        NetweightError: no such network, or its builder cannot be imported, does not take what it is given, returns no
            module, or returns one that takes no image.
    """
    if builder is not None:
        return _own(name, builder, options)
    if name in catalog.names():
        return _with(catalog.get(name), options)
    if name in records.torchvision_names():
        return _torchvision(name, options)
    return catalog.get(name)  # which says that there is none, and which ones are close


def _with(architecture: Architecture, options: Mapping[str, Any]) -> Architecture:
    """Return a record with further options, its facts counted anew."""
    if not options:
        return architecture
    merged = tuple({**dict(architecture.options), **options}.items())
    return _measured(replace(architecture, options=merged, published=()))


def _torchvision(name: str, options: Mapping[str, Any]) -> Architecture:
    """Make the record of a network of torchvision's that is not in the catalogue."""
    from models import published_weights

    builder = f"torchvision.models:{name}"
    bare = Architecture(name, name, "torchvision", None, builder, parameters=0, preprocessing=_COLOUR)
    best = published_weights.facts(published_weights.record("DEFAULT", bare), bare)
    described = replace(bare, preprocessing=best.preprocessing)
    if options:
        return _with(described, options)
    return _measured(replace(described, published=records.torchvision_figures(name)))


def _own(name: str, builder: str, options: Mapping[str, Any]) -> Architecture:
    """Make the record of a network that the user's own builder builds."""
    from torch import nn

    from models import build

    classes = _own_classes(build.import_builder(builder))
    bare = Architecture(
        name,
        name,
        "own",
        None,
        builder,
        parameters=0,
        preprocessing=_COLOUR,
        classes=classes,
        options=tuple(options.items()),
    )
    first = next((each for each in _on_meta(bare).modules() if isinstance(each, nn.Conv2d)), None)
    colours = _GREY if first is not None and first.in_channels == 1 else _COLOUR
    for side in _SIDES[:-1]:
        try:
            return _measured(replace(bare, preprocessing=_sized(colours, side)))
        except NetweightError:
            continue  # it takes another size
    return _measured(replace(bare, preprocessing=_sized(colours, _SIDES[-1])))


def _own_classes(builder: Callable[..., Any]) -> int:
    """Return the builder's default for ``num_classes``; ImageNet's where it has none."""
    try:
        default = inspect.signature(builder).parameters["num_classes"].default
    except (ValueError, KeyError):  # a built-in function, or one that takes any keyword
        return 1000
    return default if isinstance(default, int) else 1000


def _sized(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """Return the preprocessing for square images, scaled straight to their size unless it is ImageNet's usual one."""
    return replace(preprocessing, height=side, width=side, resize=preprocessing.resize if side == 224 else None)


def _measured(architecture: Architecture) -> Architecture:
    """Count parameters and multiply-accumulates on the meta device, which takes no memory and no time."""
    from models import layers

    network = _on_meta(architecture)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    shape = architecture.preprocessing
    try:
        listed = layers.measure(network, (shape.channels, shape.height, shape.width))
    except Exception as failure:  # the user's own module may fail in any way
        raise NetweightError(
            f"{architecture.name} takes no image of {shape.height}x{shape.width}x{shape.channels}: {_said(failure)}"
        ) from failure
    computed = sum(layer.multiply_accumulates for layer in listed)
    return replace(architecture, parameters=parameters, multiply_accumulates=computed)


def _on_meta(architecture: Architecture) -> nn.Module:
    """Build the deployed network whose tensors have shapes and no values."""
    from models import build

    try:
        return build.on_meta(architecture, architecture.classes, deployed=True)
    except NetweightError:
        raise
    except Exception as failure:  # the user's own builder may fail in any way
        raise NetweightError(f"the builder {architecture.builder} failed: {_said(failure)}") from failure


def _said(failure: Exception) -> str:
    """Return what an exception says, in one line."""
    return str(failure).strip().partition("\n")[0] or type(failure).__name__

"""A network's graph whose weights have shapes and no bytes: what an export would write, in seconds and little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from export.build import Deployed, Input, Pixels
from export.convert import graph
from models.build import build
from models.heads import Head, restructure

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import Architecture

_KEPT_BYTES = 4096
"""Constants up to here keep their values: shapes, axes and limits, which a graph's structure may depend on."""

_FILLING = 0.5
"""Neither 0 nor 1: no rule takes an addition or a product away."""


def of_network(
    architecture: Architecture,
    classes: int | None = None,
    *,
    small_images: bool = False,
    head: Head | None = None,
    input: Input = "uint8",  # noqa: A002 - the protocol's word
) -> ir.Model:
    """Return the graph that a network is exported as, hollow.

    Args:
        architecture: The network's record; its preprocessing says which images.
        classes: How many; None: the architecture's own.
        small_images: Whether the network is adapted to them; see `models.build.build`.
        head: A lighter one that takes the classifier's place.
        input: What the graph takes.
    """
    network = _shapes_only(architecture, classes or architecture.classes, small_images=small_images)
    if head is not None:
        restructure(network, head, architecture.name)
    _fill(network.eval().requires_grad_(requires_grad=False))
    pixels = architecture.preprocessing
    sides = (pixels.height, pixels.width)
    if input == "uint8":
        module, image = Deployed(Pixels(pixels), network), torch.zeros(2, *sides, pixels.channels, dtype=torch.uint8)
    else:
        module, image = Deployed(nn.Identity(), network), torch.zeros(2, pixels.channels, *sides)
    return _emptied(graph(module.eval(), image))


def of_file(path: Path) -> ir.Model:
    """Return the graph of an ONNX file, hollow; weights beside it are not read."""
    model = onnx.load(path, load_external_data=False)
    read = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    ir.external_data.set_base_dir(read.graph, path.parent)  # small constants beside the graph are looked at
    return _emptied(read)


def weightless(model: ir.Model) -> onnx.ModelProto:
    """Return a graph in ONNX's own form, in which weights are said to lie in a file that does not exist."""
    copy = model.clone()
    for name, value in copy.graph.initializers.items():
        held = value.const_value
        if held is not None and held.nbytes > _KEPT_BYTES:
            place = ir.ExternalTensor(
                "nowhere", 0, held.nbytes, held.dtype, shape=ir.Shape(held.shape.numpy()), name=name
            )
            value.const_value = place
    return ir.to_proto(copy)


def resize(value: ir.Value, shape: tuple[int, ...]) -> None:
    """Give an initializer another shape and values that take no memory."""
    assert value.dtype is not None
    dtype, name = value.dtype, value.name
    value.shape = ir.Shape(shape)
    value.const_value = ir.LazyTensor(
        lambda: ir.Tensor(np.broadcast_to(np.asarray(_FILLING, dtype.numpy()), shape), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=name,
    )


def _emptied(model: ir.Model) -> ir.Model:
    """Take the values of a graph's large constants away."""
    for value in model.graph.initializers.values():
        held = value.const_value
        if held is not None and held.nbytes > _KEPT_BYTES:
            resize(value, tuple(held.shape.numpy()))
    return model


def _shapes_only(architecture: Architecture, classes: int, *, small_images: bool) -> nn.Module:
    """Build the deployed network on the meta device; where a builder computes with tensors, on the CPU."""
    try:
        with torch.device("meta"):
            return build(architecture, classes, small_images, deployed=True)
    except NotImplementedError:
        return build(architecture, classes, small_images, deployed=True)


def _fill(network: nn.Module) -> None:
    """Put one number in the place of each tensor and let it be seen in all positions."""
    for module in network.modules():
        for held in (module._parameters, module._buffers):  # noqa: SLF001 - the only way to put a tensor as it is
            for name, tensor in held.items():
                if tensor is not None:
                    seen = torch.full((), _FILLING).to(tensor.dtype).expand(tensor.shape)
                    held[name] = nn.Parameter(seen, requires_grad=False) if isinstance(tensor, nn.Parameter) else seen  # type: ignore[assignment]

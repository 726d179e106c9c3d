"""What `netweight models show` prints: a network's page, or one layer worked out."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING, Any

from models import listing
from models.arithmetic import Cost, Window, convolution, linear, pooling, shape
from models.spec import Architecture, NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.layers import Layer

KINDS = ("conv", "pool", "linear")
"""What can be shown that is no network."""

_USAGE = {
    "conv": "an image and kernels: conv 64x64x3 3x3x16",
    "pool": "an image and windows: pool 62x62x16 2x2",
    "linear": "features: linear 25088 4096",
}


def network_page(architecture: Architecture, *, as_json: bool = False) -> str:
    """Return a network's record, its layers, and where its weight sits; without torch only the record."""
    layers = _layers(architecture)
    if as_json:
        return listing.page_as_json(architecture, layers)
    if layers is None:
        why = "layers         need torch, which is not installed: pip install 'netweight[train]'"
        return f"{listing.describe(architecture)}\n{why}"
    parts = (listing.describe(architecture), listing.as_layers(layers), listing.where_the_weight_sits(layers))
    return "\n\n".join(parts)


def _layers(architecture: Architecture) -> tuple[Layer, ...] | None:
    """Return the layers, None where torch is not installed."""
    try:
        from models.layers import layers
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in {"torch", "torchvision"}:
            raise
        return None
    return layers(architecture)


def layer_page(kind: str, shapes: Sequence[str], *, as_json: bool = False, **options: Any) -> str:
    """Return layers, one after the other, worked out with their formulas.

    Args:
        kind: One of `KINDS`.
        shapes: The image's, then a kernel or window for each layer.
        as_json: Plain values instead of text.
        options: ``stride``, ``padding``, ``dilation``, ``groups``, ``bias`` as typed; None: not given.

    Raises:
        NetweightError: too few shapes, one that is none, or layers that do not fit.
    """
    if len(shapes) < 2:
        raise NetweightError(f"{kind} needs two shapes or more, got {len(shapes)}: expected {_USAGE[kind]}")
    chain = {"conv": _convolutions, "pool": _poolings, "linear": _linears}[kind]
    costs = chain(shapes, {name: value for name, value in options.items() if value is not None})
    if as_json:
        return json.dumps(
            [{**asdict(cost), "parameters": cost.parameters, "bytes": cost.bytes} for cost in costs], indent=2
        )
    pages = [_page(cost, operand) for cost, operand in zip(costs, shapes[1:], strict=True)]
    return "\n\n".join([*pages, *([_sum(costs)] if len(costs) > 1 else [])])


def _convolutions(shapes: Sequence[str], options: dict[str, Any]) -> list[Cost]:
    """Work out one convolution after the other; the options hold for each."""
    image = shape(shapes[0], "image", "64x64x3")
    kernels = [shape(each, "kernel", "3x3x16") for each in shapes[1:]]
    groups, bias = options.pop("groups", 1), options.pop("bias", True)
    window = Window(**options)
    return _chain(image, kernels, lambda before, kernel: convolution(before, kernel, window, groups, bias=bias))


def _poolings(shapes: Sequence[str], options: dict[str, Any]) -> list[Cost]:
    """Work out one pooling after the other."""
    _refuse("pool", options, "groups", "bias")
    image = shape(shapes[0], "image", "64x64x3")
    windows = [shape(each, "window", "2x2") for each in shapes[1:]]
    return _chain(
        image, windows, lambda before, sides: pooling(before, sides, Window(**{"stride": sides[0], **options}))
    )


def _linears(shapes: Sequence[str], options: dict[str, Any]) -> list[Cost]:
    """Work out one fully connected layer after the other; an image is flattened."""
    bias = options.pop("bias", True)
    _refuse("linear", options, *options)
    first = shape(shapes[0], "number of features", "7x7x512" if "x" in shapes[0] else "25088")
    features = reduce(lambda a, b: a * b, first)
    widths = [shape(each, "number of features", "4096") for each in shapes[1:]]
    return _chain((features,), widths, lambda before, width: linear(before[0], width[0], bias=bias))


def _chain(
    image: tuple[int, ...],
    operands: Sequence[tuple[int, ...]],
    layer: Callable[[tuple[int, ...], tuple[int, ...]], Cost],
) -> list[Cost]:
    """Give each layer what the one before it has put out."""
    costs: list[Cost] = []
    for operand in operands:
        costs.append(layer(costs[-1].output_shape if costs else image, operand))
    return costs


def _refuse(kind: str, options: dict[str, Any], *names: str) -> None:
    """Refuse options that a kind of layer has not."""
    given = [name for name in names if name in options]
    if given:
        raise NetweightError(f"{kind} has no --{given[0]}: leave it out")


def _page(cost: Cost, operand: str) -> str:
    """Return one layer: its shapes, then a line for each sum; equal sides share theirs."""
    shapes = ["x".join(map(str, each)) for each in (cost.input_shape, cost.output_shape)]
    lines = [f"{shapes[0]} -> {cost.kind} {operand} -> {shapes[1]}"]
    sums = [(each.what, str(each)) for each in cost.sums]
    if len(sums) > 1 and sums[0][0] == "height" and sums[0][1] == sums[1][1]:
        sums[:2] = [("height, width", sums[0][1])]
    if not cost.parameters:
        sums.append(("weights", "none: the largest or the mean value of each window is taken"))
    return "\n".join([*lines, *(f"  {what:<22}{how}" for what, how in sums)])


def _sum(costs: Sequence[Cost]) -> str:
    """Return what layers cost together."""
    weights, biases = (sum(getattr(cost, what) for cost in costs) for what in ("weights", "biases"))
    terms = " + ".join(f"{cost.weights:,}" for cost in costs)
    return (
        f"together: {terms} = {weights:,} weights, {biases:,} biases, "
        f"{sum(cost.multiply_accumulates for cost in costs):,} multiply-accumulates, "
        f"{sum(cost.bytes for cost in costs):,} bytes in fp32"
    )

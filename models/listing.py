"""The catalogue as people and programs read it: a table, a page for each network, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from models.arithmetic import BYTES_PER_PARAMETER
from models.spec import Architecture, Published, Recipe

if TYPE_CHECKING:
    from models.layers import Layer

MB = 10**6
MIB = 2**20

WIDTH = 120
"""Columns of a table."""

_LINEAR, _CONVOLUTIONS = ("Linear", "NonDynamicallyQuantizableLinear"), ("Conv1d", "Conv2d", "Conv3d")

_LORE = {
    "vgg16": "often quoted: 528 MB, which are MiB; 553 MB, which are MB; and 533 MB, which are neither",
    "vgg19": "often quoted: 548 MB, which are MiB; and 574 MB, which are MB (574.7, cut off)",
}
"""Sizes that are quoted without their unit."""


def facts(architecture: Architecture) -> dict[str, Any]:
    """Return a record as plain values, with the bytes that its parameters take in fp32 and published errors."""
    return {
        **asdict(architecture),
        "fp32_bytes": architecture.parameters * BYTES_PER_PARAMETER,
        "published": [{**asdict(each), **_errors(each)} for each in architecture.published],
    }


def as_json(architectures: Iterable[Architecture]) -> str:
    """Return the records as a JSON list."""
    return json.dumps([facts(each) for each in architectures], indent=2)


def page_as_json(architecture: Architecture, layers: Sequence[Layer] | None) -> str:
    """Return one record with its layers as a JSON list of one; layers are null where torch is not installed."""
    listed: list[dict[str, Any]] | None = None
    if layers is not None:
        listed = [{**layer.to_dict(), "share": layer.parameters / architecture.parameters} for layer in layers]
    return json.dumps([{**facts(architecture), "layers": listed}], indent=2)


def as_table(architectures: Iterable[Architecture], width: int = WIDTH) -> str:
    """Return a table with a line for each network."""
    table = _table(["network", "family"], ["year", "parameters", "GMACs", "fp32 MB", "fp32 MiB"])
    for title in ("published error %, paper", "torchvision"):
        table.add_column(title, justify="right")
    for each in architectures:
        size = each.parameters * BYTES_PER_PARAMETER
        table.add_row(
            each.name,
            each.family,
            str(each.year),
            f"{each.parameters:,}",
            _giga(each.multiply_accumulates),
            _megabytes(size, MB),
            _megabytes(size, MIB),
            *(_first_errors(each, torchvision=where) for where in (False, True)),
        )
    return (
        f"{render(table, width)}\n\nErrors are top-1 / top-5 as published, for one crop where the source has it (`models "
        "show` names data and source);\nnone was measured here. GMACs: 10^9 multiply-accumulates for one image. MB = 10^6 "
        "bytes, MiB = 2^20.\nParameters are those of the deployed network with its own classes. netweight models show "
        "NETWORK tells more."
    )


def describe(architecture: Architecture) -> str:
    """Return all that the record says, a line for each fact."""
    size = architecture.parameters * BYTES_PER_PARAMETER
    shape = architecture.preprocessing
    scale = f"straight to {shape.height}x{shape.width}"
    if shape.resize:
        scale = f"shorter side to {shape.resize}, centre {shape.height}x{shape.width}"
    lines = [
        f"{architecture.title} ({', '.join(str(each) for each in (architecture.family, architecture.year) if each)})",
        f"name           {architecture.name}",
        f"parameters     {architecture.parameters:,} with {architecture.classes} classes",
        f"fp32           {size:,} bytes = {_megabytes(size, MB)} MB = {_megabytes(size, MIB)} MiB (10^6 and 2^20 bytes)",
        f"computation    {_giga(architecture.multiply_accumulates) or 'unknown'} GMACs for one image",
        f"input          {shape.height}x{shape.width}x{shape.channels} pixels, {scale} ({shape.interpolation})",
        f"normalisation  (x / 255 - mean) / std, mean {shape.mean}, std {shape.std}",
        f"builder        {architecture.builder}{_options(architecture)}",
    ]
    if architecture.name in _LORE:
        lines.append(f"units          {_LORE[architecture.name]}")
    if architecture.auxiliary_heads:
        lines.append(
            f"heads          {', '.join(architecture.auxiliary_heads)} only help to train: never exported, not counted here"
        )
    if architecture.small_image_adaptation:
        lines.append(f"small images   below 64 pixels: {architecture.small_image_adaptation}")
    if architecture.recipe:
        lines.append(f"recipe         {_recipe(architecture.recipe)}")
    return "\n".join([*lines, *(f"published      {_published(each)}" for each in architecture.published)])


def as_layers(layers: Sequence[Layer], width: int = WIDTH) -> str:
    """Return a table with a line for each layer that holds, multiplies or reshapes something."""
    table = _table(["layer", "kind"], ["output", "parameters", "share %", "MMACs", "fp32 bytes"])
    whole = sum(layer.parameters for layer in layers)
    for layer in layers:
        if not layer.passes:
            table.add_row(
                layer.name,
                layer.kind,
                "x".join(map(str, layer.output_shape)),
                f"{layer.parameters:,}",
                f"{100 * layer.parameters / max(whole, 1):.1f}",
                f"{layer.multiply_accumulates / 1e6:,.1f}",
                f"{layer.bytes:,}",
            )
    products = sum(layer.multiply_accumulates for layer in layers)
    table.add_section()
    table.add_row("sum", "", "", f"{whole:,}", "100.0", f"{products / 1e6:,.1f}", f"{whole * BYTES_PER_PARAMETER:,}")
    left = sum(layer.passes for layer in layers)
    return (
        f"{render(table, width)}\n\nOutput: channels x height x width. MMACs: 10^6 multiply-accumulates for one image. "
        f"{left} layers that only pass\nvalues on (activations, dropout) are left out; --json has them."
    )


def where_the_weight_sits(layers: Sequence[Layer]) -> str:
    """Say which layers hold the parameters, and which do the work."""
    by_kind = [
        ("fully connected layer", [layer for layer in layers if layer.kind in _LINEAR]),
        ("convolution", [layer for layer in layers if layer.kind in _CONVOLUTIONS]),
        ("other layer", [layer for layer in layers if layer.kind not in (*_LINEAR, *_CONVOLUTIONS)]),
    ]
    counted = [(name, [each for each in some if each.parameters]) for name, some in by_kind]
    held = [(name, some) for name, some in counted if some]
    heaviest = max(layers, key=lambda layer: layer.parameters)
    weights = _shares(held, [layer.parameters for layer in layers], "parameters")
    work = _shares(held, [layer.multiply_accumulates for layer in layers], "multiply_accumulates")
    share = 100 * heaviest.parameters / max(sum(layer.parameters for layer in layers), 1)
    return (
        f"where the weight sits  {weights}; {share:.1f} % in {heaviest.name or 'the network itself'} alone\n"
        f"where the work is done {work}"
    )


def _shares(kinds: Sequence[tuple[str, list[Layer]]], values: list[int], what: str) -> str:
    """Return the kinds' shares of all layers' values, largest first."""
    whole = max(sum(values), 1)
    sums = sorted(((sum(getattr(each, what) for each in some), name, len(some)) for name, some in kinds), reverse=True)
    return ", ".join(
        f"{100 * total / whole:.1f} % in {count} {name}{'s' if count > 1 else ''}"
        for total, name, count in sums
        if total
    )


def _megabytes(size: int, unit: int) -> str:
    """Return bytes in MB or MiB, with three digits or more."""
    return f"{size / unit:.1f}" if size >= 10 * unit else f"{size / unit:.3g}"


def _giga(products: int) -> str:
    """Return multiply-accumulates in 10^9 with three digits or more; nothing where a record lacks them."""
    if not products:
        return ""
    return f"{products / 1e9:.2f}" if products >= 10**7 else f"{products / 1e9:.2g}"


def _errors(each: Published) -> dict[str, float | None]:
    """Return errors, which papers print, from accuracies, in percent."""
    top5 = None if each.top5_percent is None else round(100 - each.top5_percent, 3)
    return {"top1_error_percent": round(100 - each.top1_percent, 3), "top5_error_percent": top5}


def _first_errors(architecture: Architecture, *, torchvision: bool) -> str:
    """Return the first errors that torchvision, or somebody else, has published."""
    for each in architecture.published:
        if each.source.startswith("torchvision") is torchvision:
            return " / ".join(
                f"{error:.1f}" if error >= 1 else f"{error:.2f}"
                for error in _errors(each).values()
                if error is not None
            )
    return ""


def _published(each: Published) -> str:
    """Return one published figure: accuracy, error, data and source."""
    errors = _errors(each)
    line = f"top-1 {each.top1_percent} % (error {errors['top1_error_percent']:g} %)"
    if each.top5_percent is not None:
        line += f", top-5 {each.top5_percent} % (error {errors['top5_error_percent']:g} %)"
    return f"{line} on {each.data} ({each.source})"


def _recipe(recipe: Recipe) -> str:
    """Return what a recipe says, but for what it leaves as it is by default."""
    said = {
        each.name: getattr(recipe, each.name) for each in fields(recipe) if getattr(recipe, each.name) != each.default
    }
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _options(architecture: Architecture) -> str:
    """Return the builder's further arguments, as they are called."""
    return f"({', '.join(f'{name}={value!r}' for name, value in architecture.options)})" if architecture.options else ""


def _table(names: Iterable[str], figures: Iterable[str]) -> Table:
    """Return a table with columns of words, then columns of figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in names:
        table.add_column(title)
    for title in figures:
        table.add_column(title, justify="right")
    return table


def render(table: Table, width: int = WIDTH) -> str:
    """Return a table as text without colours."""
    text = StringIO()
    Console(file=text, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

"""The catalogue as people and programs read it: a table, a page for each network, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from models.spec import Architecture

BYTES_PER_PARAMETER = 4
"""fp32."""
MB = 10**6
MIB = 2**20


def facts(architecture: Architecture) -> dict[str, Any]:
    """Return a record as plain values, with the bytes that its parameters take in fp32."""
    return {**asdict(architecture), "fp32_bytes": architecture.parameters * BYTES_PER_PARAMETER}


def as_json(architectures: Iterable[Architecture]) -> str:
    """Return the records as a JSON list."""
    return json.dumps([facts(each) for each in architectures], indent=2)


def as_table(architectures: Iterable[Architecture], width: int = 110) -> str:
    """Return a table with a line for each network."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("network")
    table.add_column("title")
    for title in ("year", "parameters", "fp32 MB", "fp32 MiB", "input", "top-1 %, published"):
        table.add_column(title, justify="right")
    for each in architectures:
        size = each.parameters * BYTES_PER_PARAMETER
        shape = each.preprocessing
        table.add_row(
            each.name,
            each.title,
            str(each.year),
            f"{each.parameters:,}",
            f"{size / MB:.1f}",
            f"{size / MIB:.1f}",
            f"{shape.height}x{shape.width}x{shape.channels}",
            f"{each.published[0].top1_percent:.2f} ({each.published[0].data})" if each.published else "",
        )
    return (
        f"{_render(table, width)}\n\nMB = 10^6 bytes, MiB = 2^20. Parameters are those of the deployed network with its own "
        "classes.\nnetweight models show NETWORK tells more."
    )


def describe(architecture: Architecture) -> str:
    """Return all that the record says, a line for each fact."""
    size = architecture.parameters * BYTES_PER_PARAMETER
    shape = architecture.preprocessing
    scale = f"straight to {shape.height}x{shape.width}"
    if shape.resize:
        scale = f"shorter side to {shape.resize}, centre {shape.height}x{shape.width}"
    lines = [
        f"{architecture.title} ({architecture.family}, {architecture.year})",
        f"name           {architecture.name}",
        f"parameters     {architecture.parameters:,} with {architecture.classes} classes",
        f"fp32           {size:,} bytes = {size / MB:.1f} MB = {size / MIB:.1f} MiB",
        f"input          {shape.height}x{shape.width}x{shape.channels} pixels, {scale} ({shape.interpolation})",
        f"normalisation  (x / 255 - mean) / std, mean {shape.mean}, std {shape.std}",
        f"builder        {architecture.builder}",
    ]
    if architecture.small_image_adaptation:
        lines.append(f"small images   below 64 pixels: {architecture.small_image_adaptation}")
    if architecture.recipe:
        recipe = ", ".join(f"{name} {value}" for name, value in asdict(architecture.recipe).items())
        lines.append(f"recipe         {recipe}")
    for each in architecture.published:
        top5 = "" if each.top5_percent is None else f", top-5 {each.top5_percent} %"
        lines.append(f"published      top-1 {each.top1_percent} %{top5} on {each.data} ({each.source})")
    return "\n".join(lines)


def _render(table: Table, width: int) -> str:
    text = StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue().rstrip()

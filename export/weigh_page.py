"""What `netweight weigh` prints: the sizes that a network would have, and its layers, as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from models.listing import MB, MIB, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from export.subject import Subject
    from export.weigh import Layer

_SMALLEST = 0.001
"""Share of the bytes below which a layer has no line of its own in the table; --json has them all."""


def page(subject: Subject) -> str:
    """Return a network's sizes and layers as text."""
    whole = subject.variants[0].bytes
    table = _table(("model", "head", "variant"), ("bytes", "MB", "MiB", "of fp32 %"))
    for size in subject.variants:
        table.add_row(
            f"{subject.name}{size.suffix}",
            size.head or "its own",
            size.variant,
            f"{size.bytes:,}",
            _megabytes(size.bytes, MB),
            _megabytes(size.bytes, MIB),
            f"{100 * size.bytes / whole:.1f}",
        )
    return (
        f"{subject.name}: {subject.source}\n\n{render(table)}\n\nBytes of all initializers: weights with their scales and "
        "zero points, and the few numbers of preprocessing and shapes.\nA file adds the graph itself. MB = 10^6 bytes, "
        f"MiB = 2^20.\n\n{_layers(subject.layers, whole)}\n\n{where(subject)}"
    )


def line(subject: Subject, names: Sequence[str]) -> list[str]:
    """Return a network's cells in the table of all: its sizes in MB by variant, empty where there is no such variant."""
    sizes = {size.variant: size.bytes for size in subject.variants if size.head is None}
    return [subject.name, *(_megabytes(sizes[name], MB) if name in sizes else "" for name in names)]


def all_pages(lines: Iterable[Sequence[str]], names: Sequence[str]) -> str:
    """Return the table of all networks from their `line`s."""
    table = _table(("network",), tuple(f"{name} MB" for name in names))
    for cells in lines:
        table.add_row(*cells)
    return f"{render(table)}\n\nMB = 10^6 bytes of initializers. Empty: no fully connected layer to store so."


def where(subject: Subject) -> str:
    """Say in which layer most of the weight sits, and in which kind."""
    whole = subject.variants[0].bytes
    heaviest = max(subject.layers, key=lambda layer: layer.bytes)
    full = [layer for layer in subject.layers if layer.op not in {"Conv", "BatchNormalization"}]
    share = 100 * sum(layer.bytes for layer in full) / whole
    return (
        f"{100 * heaviest.bytes / whole:.1f} % of the bytes are in {heaviest.name} alone, {share:.1f} % in "
        f"{len(full)} fully connected layer{'' if len(full) == 1 else 's'}"
    )


def _layers(layers: Sequence[Layer], whole: int) -> str:
    """Return a table of the layers that weigh something, and one line for the rest."""
    table = _table(("layer", "op", "stored as"), ("output", "parameters", "MMACs", "bytes", "share %"))
    rest = [layer for layer in layers if layer.bytes < _SMALLEST * whole]
    for layer in layers:
        if layer not in rest:
            table.add_row(
                layer.name,
                layer.op,
                layer.datatype,
                "x".join(map(str, layer.output_shape)),
                f"{layer.parameters:,}",
                f"{layer.multiply_accumulates / 1e6:,.1f}",
                f"{layer.bytes:,}",
                f"{100 * layer.bytes / whole:.1f}",
            )
    text = render(table)
    if rest:
        text += f"\n{len(rest)} layers below 0.1 %: {sum(layer.bytes for layer in rest):,} bytes together"
    return text


def _megabytes(size: int, unit: int) -> str:
    """Return bytes in MB or MiB, with three digits or more."""
    return f"{size / unit:,.1f}" if size >= 10 * unit else f"{size / unit:.3g}"


def _table(names: Iterable[str], figures: Iterable[str]) -> Table:
    """Return a table with columns of words, then columns of figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in names:
        table.add_column(title)
    for title in figures:
        table.add_column(title, justify="right")
    return table

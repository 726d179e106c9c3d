"""Where the weight sits, and what it could be, as a picture: a treemap of the layers above bars of the variants."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import squarify
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from export.weigh_page import where
from models.listing import MB
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from export.subject import Subject
    from export.weigh import Layer

FORMATS = (".svg", ".png", ".html")

_WIDTH, _HEIGHT = 11.0, 5.6
"""Inches of the picture without its bars."""
_BAR_HEIGHT = 0.27
_CONVOLUTION, _MATRIX, _OTHER = "#3d7ea6", "#e08e45", "#9a9a9a"
_NAMES = {_CONVOLUTION: "convolution", _MATRIX: "fully connected", _OTHER: "other"}
_INK = {_CONVOLUTION: "white", _MATRIX: "#1a1a1a", _OTHER: "#1a1a1a"}
_LIGHTER = "#f2c79b"
"""Of bars with a lighter head."""

_CHARACTER = 0.0072
"""A character's width at 8 points, and a line's height, as shares of the treemap's sides."""
_LINE = 0.034


def draw(subject: Subject, path: Path) -> Path:
    """Write a picture of a network's weight.

    Args:
        subject: Weighed.
        path: Its suffix says the format, one of `FORMATS`; HTML holds the SVG.

    Raises:
        NetweightError: another suffix, or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise NetweightError(f"--picture {path}: expected a file that ends in {', '.join(FORMATS)}")
    with mpl.rc_context({"svg.hashsalt": "netweight", "font.size": 8, "svg.fonttype": "none"}):
        figure = _figure(subject)
        content = io.BytesIO()
        if path.suffix == ".png":
            figure.savefig(content, format="png", dpi=130)
        else:
            figure.savefig(content, format="svg", metadata={"Date": None})
    data = content.getvalue()
    try:
        path.write_bytes(_page(subject, data) if path.suffix == ".html" else data)
    except OSError as error:
        raise NetweightError(f"cannot write {path}: {error.strerror}; choose another --picture") from error
    return path


def _figure(subject: Subject) -> Figure:
    """Lay the two parts out."""
    bars = _BAR_HEIGHT * len(subject.variants) + 0.7
    figure = Figure(figsize=(_WIDTH, _HEIGHT + bars), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 1, height_ratios=(_HEIGHT, bars))
    above, below = (figure.add_subfigure(grid[row]) for row in (0, 1))
    size = subject.variants[0]
    above.suptitle(f"{subject.name}: {_megabytes(size.bytes)} in {size.variant}; {where(subject)}", fontsize=11)
    _treemap(above.subplots(), subject.layers, size.bytes)
    below.suptitle("what each variant would weigh, MB (10^6 bytes) of initializers", fontsize=10)
    _bars(below.subplots(), subject)
    return figure


def _treemap(axes: Axes, layers: Sequence[Layer], whole: int) -> None:
    """Draw a rectangle for each layer, as large as its share; what is too small for its name has none."""
    unnamed = []
    held = sorted((layer for layer in layers if layer.bytes), key=lambda layer: layer.bytes, reverse=True)
    areas = squarify.normalize_sizes([layer.bytes for layer in held], 1, 1)
    for layer, place in zip(held, squarify.squarify(areas, 0, 0, 1, 1), strict=True):
        corner = place["x"], place["y"]
        axes.add_patch(Rectangle(corner, place["dx"], place["dy"], facecolor=_colour(layer), edgecolor="white", lw=1))
        text = _label(layer, whole, place)
        if text:
            middle = corner[0] + place["dx"] / 2, corner[1] + place["dy"] / 2
            large = 14 if place["dx"] > 0.35 and place["dy"] > 0.2 else 8
            axes.text(*middle, text, ha="center", va="center", fontsize=large, color=_INK[_colour(layer)])
        else:
            unnamed.append(layer)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    axes.set_frame_on(False)
    shown = {_colour(layer) for layer in held}
    handles = [Patch(facecolor=colour, label=name) for colour, name in _NAMES.items() if colour in shown]
    if unnamed:
        size = _megabytes(sum(layer.bytes for layer in unnamed))
        handles.append(Patch(alpha=0, label=f"without a name: {len(unnamed)} layers, {size} together"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9)


def _label(layer: Layer, whole: int, place: dict[str, float]) -> str:
    """Return as much about a layer as its rectangle has room for."""
    size, share = _megabytes(layer.bytes), f"{100 * layer.bytes / whole:.1f} %"
    for lines in (
        (layer.name, size, share),
        (layer.name, f"{size} · {share}"),
        (layer.name, size),
        (f"{layer.name} {size}",),
    ):
        wide, high = max(map(len, lines)) * _CHARACTER, len(lines) * _LINE
        if wide < place["dx"] and high < place["dy"]:
            return "\n".join(lines)
    return ""


def _bars(axes: Axes, subject: Subject) -> None:
    """Draw a bar for each variant and head, with its size beside it."""
    whole = max(size.bytes for size in subject.variants)
    ranks = [(size.head or "").partition(",")[2] for size in subject.variants]
    names = [f"{subject.name}{size.suffix}{rank}" for size, rank in zip(subject.variants, ranks, strict=True)]
    places = range(len(names))
    colours = [_LIGHTER if size.head else _MATRIX for size in subject.variants]
    axes.barh(places, [size.bytes / MB for size in subject.variants], color=colours, height=0.72)
    for place, size in zip(places, subject.variants, strict=True):
        axes.text(size.bytes / MB, place, f" {_megabytes(size.bytes)}", va="center", fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, whole / MB * 1.12)
    axes.spines[["top", "right"]].set_visible(False)


def _megabytes(size: int) -> str:
    """Return bytes in MB, with three digits or more."""
    return f"{size / MB:,.1f} MB" if size >= 10 * MB else f"{size / MB:.3g} MB"


def _colour(layer: Layer) -> str:
    """Return the colour of a layer's kind."""
    return {"Conv": _CONVOLUTION, "Gemm": _MATRIX, "MatMul": _MATRIX, "MatMulNBits": _MATRIX}.get(layer.op, _OTHER)


def _page(subject: Subject, svg: bytes) -> bytes:
    """Return an HTML page that holds the picture."""
    drawing: Any = svg.decode().partition("<svg")
    title = html.escape(f"{subject.name}: where the weight sits")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f'<body style="margin:2em;background:white">\n<svg{drawing[2]}</body></html>\n'
    ).encode()

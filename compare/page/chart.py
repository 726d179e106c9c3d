"""A chart: its title, what it says in words, and how it is drawn at a width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compare.page.paints import GRID, INK, LINE, MUTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from compare.page.axis import Axis

Spec = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
FONT_SIZE = 11.5
WIDE = 1040
HALF = 508
NARROW = 348


@dataclass(frozen=True)
class Chart:
    """One picture of the comparison.

    Attributes:
        name: a word for `figure_svg` and the address within the page.
        title: what it compares.
        finding: what it says, in a sentence; also its name for those who cannot see it.
        reading: how to read it.
        draw: the Vega-Lite specification, to be so many pixels wide.
        is_half: whether two of them stand side by side where there is room.
    """

    name: str
    title: str
    finding: str
    reading: str
    draw: Callable[[int], Spec]
    is_half: bool = False


@dataclass(frozen=True)
class Frame:
    """The pixels around a plot: where the axes' names and numbers go."""

    left: int = 68
    right: int = 14
    top: int = 14
    bottom: int = 44


def spec(width: int, height: float, frame: Frame, layers: list[Spec], **more: Any) -> Spec:
    """Return a specification of layers, `width` pixels wide with its frame, `height` high without."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": width - frame.left - frame.right,
        "height": height,
        "autosize": "none",
        "padding": {"left": frame.left, "right": frame.right, "top": frame.top, "bottom": frame.bottom},
        "background": None,
        "layer": layers,
        "resolve": {"axis": {"x": "independent", "y": "independent"}},  # drawn by the layer that asks for one
        "config": config(),
        **more,
    }


def config() -> Spec:
    """Return how everything looks that is not a mark."""
    return {
        "aria": False,
        "font": FONT,
        "view": {"stroke": None},
        "text": {"color": INK.light, "fontSize": FONT_SIZE},
        "axis": {
            "labelColor": MUTED.light,
            "titleColor": INK.light,
            "gridColor": GRID.light,
            "domainColor": LINE.light,
            "tickColor": LINE.light,
            "labelFontSize": FONT_SIZE,
            "titleFontSize": FONT_SIZE + 0.5,
            "titleFontWeight": 600,
            "labelOverlap": False,
            "tickSize": 4,
        },
    }


def quantity(field: str, axis: Axis, title: str, **more: Any) -> Spec:
    """Return the channel of a quantity along `axis`; its ticks carry the numbers that they are at."""
    ticks = axis.ticks(**more)
    return {
        "field": field,
        "type": "quantitative",
        "scale": axis.scale(),
        "axis": {"title": title, "values": ticks, "labelExpr": _tick_labels()},
    }


def bare(field: str, axis: Axis) -> Spec:
    """Return the channel of a quantity along `axis` without drawing the axis again."""
    return {"field": field, "type": "quantitative", "scale": axis.scale(), "axis": None, "title": None}


def values(rows: list[Spec]) -> Spec:
    """Return rows as a layer's data."""
    return {"values": rows}


def _tick_labels() -> str:
    return "format(datum.value, abs(datum.value) >= 1000 ? ',.0f' : '.6~g')"

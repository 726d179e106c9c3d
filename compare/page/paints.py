"""The colours of the page, light and dark.

Charts are drawn with the light ones. In the page a style rule turns each of them into a CSS variable, so that one SVG
serves both themes; a stand-alone dark SVG has them replaced. So every light colour is of one paint only. The hues of
the series are after Okabe and Ito's palette for all kinds of colour vision, with 3:1 or more against both surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paint:
    """One colour by its use: the name of its CSS variable, its value in the light theme and in the dark one."""

    name: str
    light: str
    dark: str


PAGE = Paint("page", "#f6f5f1", "#0e1216")
SURFACE = Paint("surface", "#fffffd", "#171c22")
INK = Paint("ink", "#1b1f24", "#e9ebee")
MUTED = Paint("muted", "#59626d", "#a5afba")
GRID = Paint("grid", "#e4e5e7", "#2c333b")
LINE = Paint("line", "#868e98", "#77818d")
ON_SERIES = Paint("on-series", "#fffffe", "#0f1317")
"""Text on top of a series' colour."""
VERMILION = Paint("vermilion", "#bd4a00", "#ff8f47")
BLUE = Paint("blue", "#0070ae", "#5ab6ea")
GREEN = Paint("green", "#007d5a", "#2fca9c")
PURPLE = Paint("purple", "#a1427f", "#e59bca")
OCHRE = Paint("ochre", "#846000", "#e6c54f")
GREY = Paint("grey", "#666e78", "#9ba5b0")
SERIES = (VERMILION, BLUE, GREEN, PURPLE, OCHRE, GREY)
PAINTS = (PAGE, SURFACE, INK, MUTED, GRID, LINE, ON_SERIES, *SERIES)


def variables(*, dark: bool) -> str:
    """Return the CSS declarations of one theme."""
    return " ".join(f"--{paint.name}: {paint.dark if dark else paint.light};" for paint in PAINTS)


def chart_rules() -> str:
    """Return the CSS rules that make the drawn colours follow the theme."""
    return "\n".join(
        f'.chart [{attribute}="{paint.light}"] {{ {attribute}: var(--{paint.name}); }}'
        for paint in PAINTS
        for attribute in ("fill", "stroke")
    )


def darkened(svg: str) -> str:
    """Return a drawing with the dark theme's colours."""
    for paint in PAINTS:
        svg = svg.replace(f'"{paint.light}"', f'"{paint.dark}"')
    return svg


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours ``#rrggbb``, 1..21, as WCAG 2 defines it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

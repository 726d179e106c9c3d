"""From a Vega-Lite specification to an SVG: drawn once, here; nothing runs in the reader's browser."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

import vl_convert

if TYPE_CHECKING:
    from compare.page.chart import Spec

VEGA_LITE = "v6.4"
_TOLD = re.compile(r'<(path|text|line) aria-label="([^"]*)"([^>]*?)(?:/>|>([^<]*)</\1>)')
_TAG = re.compile(r"<[^>]+>")
_NOISE = re.compile(
    r' (?:role|aria-[a-z]+|pointer-events|xmlns:xlink|version|stroke-miterlimit|class|font-family)="[^"]*"'
    r'| (?:opacity|fill-opacity|stroke-opacity)="1"'
)
_UNSEEN = re.compile(r'<path class="(?:background|foreground)"[^>]*/>|<text [^>]*opacity="0"[^>]*>[^<]*</text>')
_LONG = re.compile(r"\d+\.\d{3,}")


def drawn(spec: Spec, name: str) -> str:
    """Return the drawing as an ``<svg>`` element whose name, for those who cannot see it, is `name`.

    What describes a mark becomes its tooltip; whatever says nothing is left out, so that the page stays small.
    """
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    svg = _TAG.sub(_lean, _TOLD.sub(_with_tooltip, _UNSEEN.sub("", svg)))
    font = escape(spec["config"]["font"])
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" font-family="{font}" ', 1)


def _with_tooltip(match: re.Match[str]) -> str:
    tag, told, attributes, text = match.groups()
    return f"<{tag}{attributes}><title>{told}</title>{text or ''}</{tag}>"


def _lean(tag: re.Match[str]) -> str:
    """Return a tag without what says nothing, its coordinates to a hundredth of a pixel."""
    return _LONG.sub(lambda number: f"{float(number.group()):.2f}", _NOISE.sub("", tag.group()))

"""All charts of a comparison, in the order of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compare.page import batches, cold_start, cost_picture, latency, pareto, rates, weights
from compare.page.chart import WIDE, Chart
from compare.page.paints import darkened
from compare.page.svg import drawn
from models.spec import NetweightError

if TYPE_CHECKING:
    from compare.comparison import Comparison

KINDS = (cost_picture, pareto, weights, latency, cold_start, batches, rates)


def all_charts(comparison: Comparison) -> list[Chart]:
    """Return those charts of which something was measured."""
    return [chart for kind in KINDS for chart in kind.charts(comparison)]


def figure_svg(comparison: Comparison, name: str, *, dark: bool = False, width: int = 0) -> str:
    """Return one chart as an SVG with colours of its own and a transparent background.

    Args:
        comparison: of which.
        name: of the chart: ``cost``, ``pareto``, ``weights``, ... as in the page's addresses.
        dark: whether for a dark background.
        width: in pixels; 0: 1040, as for a wide screen.

    Raises:
        NetweightError: there is no such chart, or nothing of it was measured.
    """
    charts = {chart.name: chart for chart in all_charts(comparison)}
    if name not in charts:
        raise NetweightError(f"no chart {name!r} of this comparison; expected one of {', '.join(charts) or 'none'}")
    svg = drawn(charts[name].draw(width or WIDE), f"{charts[name].title}. {charts[name].finding}")
    return darkened(svg) if dark else svg

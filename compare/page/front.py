"""The Pareto front: which models are worth a thought."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other dominates, by cost, then by value.

    Args:
        points: (cost, value) each: less cost is better, more value is better. One point dominates another if it is no
            worse in both and better in one; equal points stand beside each other.
    """
    chosen: list[int] = []
    for index in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1], each)):
        best = points[chosen[-1]] if chosen else None
        if best is None or points[index][1] > best[1] or points[index] == best:
            chosen.append(index)
    return chosen


def steps(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the corners of the front's line: the most value that each cost buys, up to the cost `end`."""
    corners: list[tuple[float, float]] = []
    for index in front(points):
        cost, value = points[index]
        if corners:
            corners.append((cost, corners[-1][1]))
        corners.append((cost, value))
    if corners:
        corners.append((end, corners[-1][1]))
    return corners

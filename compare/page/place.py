"""Where the names of points go, so that they cover neither each other nor the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LETTER = 6.7
"""Pixels that a letter of a label takes on the mean, at the font size of the charts."""
LINE_HEIGHT = 13.0
NEAR = (0.0, 6.0)
FAR = (*NEAR, 14.0, 24.0, 36.0, 50.0, 66.0, 84.0, 104.0)
"""Pixels between a point and its name."""
MOST_COVERED = 0.04
"""Of a name's area, by other names, points and lines; their sizes are estimates with some room."""
LEADER = 14.0
"""A name farther than this from its point gets a line to it."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, downwards and to the right."""

    left: float
    top: float
    width: float
    height: float
    align: Literal["left", "center", "right"] = "left"

    @property
    def anchor(self) -> float:
        """Return where across a text of this alignment is held."""
        return self.left + {"left": 0.0, "center": self.width / 2, "right": self.width}[self.align]

    def overlap(self, other: Box) -> float:
        """Return the shared area."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        down = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(0.0, across) * max(0.0, down)


@dataclass(frozen=True)
class Point:
    """A point to be named: its place, its radius, its name; empty for one that is only in the way."""

    x: float
    y: float
    radius: float
    name: str
    wide: float = 1.0
    """How much wider than others its letters are."""
    may_be_far: bool = True
    """Whether the name may stand away from the point, at the end of a line."""

    @property
    def box(self) -> Box:
        """Return the space that it covers."""
        return Box(self.x - self.radius, self.y - self.radius, 2 * self.radius, 2 * self.radius)


def place(points: Sequence[Point], width: float, height: float, lines: Sequence[Box] = ()) -> list[Box | None]:
    """Return the box of each point's name, in the order of importance; None: no name, or no room for it.

    Names keep off the points, off each other and off the `lines`.
    """
    taken = [*(point.box for point in points), *lines]
    boxes: list[Box | None] = []
    for point in points:
        box = _best(point, taken, width, height) if point.name else None
        boxes.append(box)
        if box is not None:
            taken.append(box)
    return boxes


def spread(places: Sequence[float], height: float, gap: float = LINE_HEIGHT) -> list[float]:
    """Return places along one line, pushed apart to at least `gap` (less where there is no room) within 0..`height`."""
    gap = min(gap, height / max(1, len(places) - 1)) if len(places) > 1 else gap
    order = sorted(range(len(places)), key=lambda index: places[index])
    result = [0.0] * len(places)
    floor = 0.0
    for index in order:
        result[index] = max(places[index], floor)
        floor = result[index] + gap
    ceiling = height
    for index in reversed(order):
        result[index] = min(result[index], ceiling)
        ceiling = result[index] - gap
    return result


def _best(point: Point, taken: Sequence[Box], width: float, height: float) -> Box | None:
    room = Box(0, 0, width, height)
    best: tuple[float, Box] | None = None
    for distance, box in _candidates(point):
        area = box.width * box.height
        outside = area - box.overlap(room)
        covered = sum(box.overlap(other) for other in taken)
        if outside > 1 or covered > area * MOST_COVERED:
            continue
        cost = distance + covered
        if best is None or cost < best[0]:
            best = cost, box
    return None if best is None else best[1]


def _candidates(point: Point) -> Iterator[tuple[float, Box]]:
    wide = len(point.name) * LETTER * point.wide
    for extra in FAR if point.may_be_far else NEAR:
        near = point.radius + 4 + extra
        slant = near * 0.7
        for penalty, anchor, down, align in (
            (0.0, near, -LINE_HEIGHT / 2, "left"),
            (1.0, -near, -LINE_HEIGHT / 2, "right"),
            (2.0, 0.0, -near - LINE_HEIGHT, "center"),
            (2.5, 0.0, near, "center"),
            (3.0, slant, -slant - LINE_HEIGHT, "left"),
            (3.5, slant, slant, "left"),
            (4.0, -slant, -slant - LINE_HEIGHT, "right"),
            (4.5, -slant, slant, "right"),
        ):
            left = anchor - {"left": 0.0, "center": wide / 2, "right": wide}[align]
            yield penalty + extra, Box(point.x + left, point.y + down, wide, LINE_HEIGHT, align)  # type: ignore[arg-type]

"""An axis of a chart: from values to pixels and back, with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOM = 0.06
"""Of an axis that stays free at either end."""


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: its first and last value, its length in pixels, logarithmic or linear."""

    first: float
    last: float
    pixels: float
    is_log: bool

    def pixel(self, value: float) -> float:
        """Return how many pixels from the first value this one lies."""
        return (self._on(value) - self._on(self.first)) / (self._on(self.last) - self._on(self.first)) * self.pixels

    def value(self, pixel: float) -> float:
        """Return the value at so many pixels from the first one."""
        at = self._on(self.first) + pixel / self.pixels * (self._on(self.last) - self._on(self.first))
        return 10**at if self.is_log else at

    def ticks(self, spacing: float = 45) -> list[float]:
        """Return round values, none closer than `spacing` pixels to the next."""
        return self._log_ticks(spacing) if self.is_log else self._linear_ticks(spacing)

    def scale(self) -> dict[str, Any]:
        """Return Vega-Lite's scale."""
        kind = "log" if self.is_log else "linear"
        return {"type": kind, "domain": [self.first, self.last], "nice": False, "zero": False}

    def _on(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def _inside(self, values: Iterable[float]) -> list[float]:
        return [value for value in values if -0.01 <= self.pixel(value) <= self.pixels + 0.01]

    def _log_ticks(self, spacing: float) -> list[float]:
        decades = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.last)) + 1)
        chosen: list[float] = []
        for multiples in ((1, 2, 5), (1, 3), (1,)):
            chosen = self._inside(float(f"{multiple}e{decade}") for decade in decades for multiple in multiples)
            places = [self.pixel(value) for value in chosen]
            if all(right - left >= spacing for left, right in pairwise(places)):
                break
        return chosen if len(chosen) > 1 else self._linear_ticks(spacing)

    def _linear_ticks(self, spacing: float) -> list[float]:
        """Return multiples of one round step; closer ones than asked for where there would be less than two."""
        rough = (self.last - self.first) / max(1.0, self.pixels / spacing)
        decade = math.floor(math.log10(rough))
        step = next(
            float(f"{multiple}e{decade + extra}")
            for extra, multiple in ((0, 1), (0, 2), (0, 5), (1, 1), (1, 2))
            if multiple * 10.0 ** (decade + extra) >= rough * 0.999
        )
        count = range(math.ceil(self.first / step - 1e-9), math.floor(self.last / step + 1e-9) + 1)
        chosen = self._inside(round(number * step, 12) for number in count)
        return chosen if len(chosen) > 1 else self._linear_ticks(spacing / 2)


def log_axis(values: Sequence[float], pixels: float, *, room: float = ROOM) -> Axis:
    """Return a logarithmic axis that holds the values, all above 0, and some room at its ends."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max((high - low) * room, 0.05)
    return Axis(10 ** (low - margin), 10 ** (high + margin), pixels, is_log=True)


def linear_axis(
    values: Sequence[float], pixels: float, *, least: float | None = None, most: float | None = None
) -> Axis:
    """Return a linear axis that holds the values and some room, within `least` and `most`."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.1 or max(abs(high) * 0.02, 1e-6)
    first, last = low - margin, high + margin
    return Axis(
        first if least is None else max(first, least), last if most is None else min(last, most), pixels, is_log=False
    )

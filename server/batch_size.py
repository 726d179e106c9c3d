"""How large a batch is worth it, learned from the batches that ran.

On a GPU a batch of eight costs little more than one of one. On a CPU it depends on the network and the caches: where
reading the weights is what takes time (VGG-16 on small images) a batch gains much; MobileNetV2 at 224 pixels runs no
faster in batches than without. So the server measures: it halves the batch as long as a sample becomes no dearer, or
doubles it as long as a sample becomes cheaper, and puts its choice to the test again from time to time.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

START = 8
"""While nothing is known."""
RUNS = 3
"""Batches of one size that are compared with as many of another, by their medians."""
GAIN = 0.95
"""A larger batch is worth it if a sample takes at most this share of the time: its answers come later, after all."""
PATIENCE = 200
"""Full batches between two tests of a choice."""


class LearnedBatchSize:
    """The batch size to use now. Not safe for several threads: the batcher asks and tells it under its lock.

    Args:
        largest: the most samples in a batch.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._recent: deque[float] = deque(maxlen=RUNS)
        self._search = self._steps()
        self._begin(next(self._search))

    def ran(self, samples: int, seconds: float) -> None:
        """Tell how long a batch took. Only one of `limit` samples teaches something."""
        if samples != self.limit:
            return
        self._recent.append(seconds / samples)
        self._left -= 1
        if not self._left:
            self._begin(self._search.send(median(self._recent)))

    def _begin(self, step: tuple[int, int]) -> None:
        self.limit, self._left = step
        self._recent.clear()

    def _steps(self) -> Generator[tuple[int, int], float, None]:
        """Yield the batch size to run next and for how many batches; be sent the seconds that a sample took in them."""
        size = min(START, self._largest)
        cost = yield size, RUNS
        while True:
            before = size
            while size > 1:
                tried = yield size // 2, RUNS
                if cost <= GAIN * tried:
                    break
                size, cost = size // 2, tried
            while size < self._largest and size >= before:
                larger = min(2 * size, self._largest)
                tried = yield larger, RUNS
                if tried > GAIN * cost:
                    break
                size, cost = larger, tried
            cost = yield size, PATIENCE

"""The memory that a server holds for a model: once it is ready, at most, and what unloading gives back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare import process_tree
from compare.cost import MIB
from compare.metrics_page import ModelFigures, parse_process, read_page
from compare.place import unload

if TYPE_CHECKING:
    from compare.place import Place

SETTLED_BYTES = MIB
"""Between two readings, below which memory has settled."""
SETTLE_SECONDS = 0.1
MOST_SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Held:
    """One round's; the fields of `compare.cost.Memory`, bytes."""

    added_bytes: float
    process_bytes: float | None = None
    peak_bytes: float | None = None
    given_back_bytes: float | None = None


class Memories:
    """Watches the memory of a model's own server from its ready line to the unloading of the model."""

    def __init__(self, place: Place) -> None:
        """Read what is held now, before any request."""
        assert place.server is not None
        self._place = place
        self._pid = place.server.pid
        self._ready = process_tree.memory(self._pid).resident
        self._gpu_ready = self._gpu()
        self._gpu_peak = self._gpu_ready

    def end(self, model: str, figures: ModelFigures) -> tuple[Held | None, Held | None]:
        """Unload the model, and return what the process and the GPU held; None: the server does not tell."""
        before, gpu_before = process_tree.memory(self._pid), self._gpu()
        unload(self._place.address, model)
        after = self._settled()
        gpu_after = self._gpu()
        held = gpu = None
        if figures.resident_bytes is not None:
            given_back = before.resident - after
            held = Held(figures.resident_bytes, self._ready, before.peak_resident, given_back)
        if figures.gpu_memory_bytes is not None:
            given_back_gpu = None if gpu_before is None or gpu_after is None else gpu_before - gpu_after
            gpu = Held(figures.gpu_memory_bytes, self._gpu_ready, _most(self._gpu_peak, gpu_before), given_back_gpu)
        return held, gpu

    def look(self) -> None:
        """Read the GPU's memory once more, of which nothing keeps the peak."""
        self._gpu_peak = _most(self._gpu_peak, self._gpu())

    def _settled(self) -> int:
        """Return the resident bytes once they stay the same."""
        deadline = time.monotonic() + MOST_SETTLE_SECONDS
        now = process_tree.memory(self._pid).resident
        while time.monotonic() < deadline:
            time.sleep(SETTLE_SECONDS)
            last, now = now, process_tree.memory(self._pid).resident
            if abs(now - last) < SETTLED_BYTES:
                break
        return now

    def _gpu(self) -> int | None:
        assert self._place.metrics_url is not None
        return parse_process(read_page(self._place.metrics_url)).gpu_memory_bytes


def _most(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)

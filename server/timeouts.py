"""Callbacks after a delay, all of them in one thread: how a request that waits too long is answered in time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timeouts:
    """A thread that calls what is due. It starts with the first callback; `close` forgets the rest."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back after so many seconds, in this object's thread; the callback must be quick and not raise."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), callback))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timeouts", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while callback := self._next():
            callback()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait and min(wait, threading.TIMEOUT_MAX))
            return None

"""Batches form while an instance is busy: whatever has queued when it becomes free is its next batch.

There is no timer. The batcher wraps any function from a list of items to a list of results, and knows neither what an
item is nor who waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from server.errors import UnavailableError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Entry(Generic[Item, Result]):
    """One request in the queue, and afterwards its outcome. Times are `time.perf_counter` seconds."""

    item: Item
    size: int
    """Samples: the request's part of max_batch_size."""
    key: Hashable
    """Only entries of equal keys share a batch (shapes that can be stacked)."""
    waiter: Any
    """Whatever the caller needs to answer; the batcher does not look at it."""
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    finished: float = 0.0
    cancelled: bool = False
    """Nobody waits for it any more (`Batcher.withdraw`): it is dropped when its batch is made."""
    result: Result | None = None
    error: BaseException | None = None


class Batcher(Generic[Item, Result]):
    """A bounded queue before ``instances`` threads that run batches of it.

    Args:
        run: from a batch's items to its results, in the same order.
        deliver: called in the instance's thread with each finished batch; every entry has a result or an error.
        max_batch_size: the most samples in one batch. A larger request is the caller's to refuse.
        max_queue_size: the most requests that wait.
        instances: how many batches may run side by side.
        name: of the threads.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], list[Result]],
        deliver: Callable[[list[Entry[Item, Result]]], None],
        *,
        max_batch_size: int,
        max_queue_size: int,
        instances: int = 1,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._deliver = deliver
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._queue: deque[Entry[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{index}", daemon=True) for index in range(instances)
        ]

    def start(self) -> None:
        """Start the instances."""
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def submit(self, entry: Entry[Item, Result]) -> None:
        """Queue one entry.

        Raises:
            UnavailableError: the queue is full, or the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise UnavailableError("the model is being unloaded: try again")
            if len(self._queue) >= self._max_queue_size:
                raise UnavailableError(f"{len(self._queue)} requests wait already, the queue's bound: try again later")
            self._queue.append(entry)
            self._changed.notify()

    def withdraw(self, entry: Entry[Item, Result]) -> bool:
        """Take an entry out unless its batch has begun (or it was taken out before); return whether it will not run."""
        with self._changed:
            if entry.started or entry.cancelled:
                return False
            entry.cancelled = True
            return True

    def close(self) -> None:
        """Take nothing new, finish what has queued, and end the threads. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self) -> None:
        while batch := self._next_batch():
            try:
                results = self._run([entry.item for entry in batch])
            except BaseException as error:  # noqa: BLE001  whoever waits must hear of it, and the instance lives on
                for entry in batch:
                    entry.error = error
            else:
                for entry, result in zip(batch, results, strict=True):
                    entry.result = result
            finished = time.perf_counter()
            for entry in batch:
                entry.finished = finished
            self._deliver(batch)

    def _next_batch(self) -> list[Entry[Item, Result]]:
        """Wait for requests and return the next batch; empty once the batcher is closed and the queue is empty."""
        with self._changed:
            while True:
                if batch := self._take():
                    started = time.perf_counter()
                    for entry in batch:
                        entry.started = started
                    return batch
                if self._closed:
                    return []
                self._changed.wait()

    def _take(self) -> list[Entry[Item, Result]]:
        """Return what of the queue's head fits into one batch, in order; entries nobody waits for are dropped."""
        batch: list[Entry[Item, Result]] = []
        size = 0
        while self._queue:
            entry = self._queue[0]
            if not entry.cancelled:
                if batch and (size + entry.size > self._max_batch_size or entry.key != batch[0].key):
                    break
                batch.append(entry)
                size += entry.size
            self._queue.popleft()
        return batch

"""Batches form while an instance is busy: whatever has queued when it becomes free is its next batch.

The batcher wraps any function from a batch of items to its results, and knows neither what an item is nor who waits for
it. What it decides is in three methods: `_limit`, how large the next batch is and whether to wait for it; `_take`,
which requests it gets; `flush`, which thread runs it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from server.errors import ClosedError, UnavailableError

if TYPE_CHECKING:
    from server.batch_size import LearnedBatchSize

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class QueuePolicy:
    """What one priority level's queue bears; the words are those of Triton's ModelQueuePolicy."""

    max_queue_size: int = 0
    """Requests that may wait; 0: no bound."""
    timeout_seconds: float = 0.0
    """How long a request may wait; 0: no limit."""
    timeout_delays: bool = False
    """A request that waited too long is not refused, but goes behind all of its level that did not (DELAY)."""
    allow_timeout_override: bool = True
    """A request may ask for a timeout of its own; beside one that is set here, only for a shorter one."""

    def timeout(self, asked_seconds: float) -> float:
        """Return how long a request waits at most, of which this was asked (0: nothing); 0 for no limit."""
        if not asked_seconds or not self.allow_timeout_override:
            return self.timeout_seconds
        return min(asked_seconds, self.timeout_seconds or asked_seconds)


@dataclass(frozen=True)
class Scheduling:
    """How a model's batches are made; the words are those of Triton's ModelDynamicBatching."""

    max_batch_size: int = 1
    """The most samples in one batch. A larger request is the caller's to refuse."""
    instances: int = 1
    """How many batches may run side by side; 0: none has a thread of its own, `Batcher.flush` runs them."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Sorted. The largest that the queue fills is taken; none: as many samples as there are."""
    max_queue_delay_seconds: float = 0.0
    """How long a request may be held back for others to fill its batch; 0: not at all."""
    levels: int = 1
    """Priority levels, 1 is the highest: what is queued there goes first."""
    default_level: int = 1
    """Of a request that names none."""
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    policies: dict[int, QueuePolicy] = field(default_factory=dict)
    """Of single levels, in place of `policy`."""

    @property
    def waits_for_more(self) -> bool:
        """Whether the configuration says which batches to make."""
        return bool(self.preferred_batch_sizes or self.max_queue_delay_seconds)

    def level(self, asked: int) -> int:
        """Return the level of a request that asks for this priority; 0, and what there is no level for: the default."""
        return asked if 1 <= asked <= self.levels else self.default_level


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
    level: int = 1
    late_at: float = 0.0
    """When it has waited too long and goes behind the others of its level; 0: never."""
    before: Any = None
    """What must be done before it is queued, if anything; the batcher does not look at it."""
    queued: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    """When its batch, or the first of its batches, began."""
    assembled: float = 0.0
    """When the samples of its last batch stood beside each other."""
    ran: float = 0.0
    """When its last batch had run."""
    batch_size: int = 0
    """Samples in its last batch, with those of others; 0: none had it."""
    cancelled: bool = False
    """Nobody waits for it any more (`Batcher.withdraw`), and it is in no queue."""
    result: Result | None = None
    error: BaseException | None = None
    taken: int = 0
    """Samples that are in a batch already."""
    left: int = 0
    """Samples that have not run yet; set when the entry is queued."""
    pieces: list[tuple[int, Result]] | None = None
    """Where an entry was split: the results of its parts, each with its first sample."""


@dataclass(slots=True, eq=False)
class Part(Generic[Item, Result]):
    """The samples of an entry that are in one batch: ``start`` up to ``stop``."""

    entry: Entry[Item, Result]
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Whether the entry is in this batch from end to end."""
        return self.stop - self.start == self.entry.size


@dataclass(slots=True, eq=False)
class Batch(Generic[Item, Result]):
    """What runs together. Times are `time.perf_counter` seconds; whoever runs it sets the last two."""

    parts: list[Part[Item, Result]]
    size: int
    """Samples altogether."""
    alone: bool
    """Nothing else ran or waited when it was made."""
    started: float = 0.0
    assembled: float = 0.0
    ran: float = 0.0


class Batcher(Generic[Item, Result]):
    """A bounded queue, and the threads that run batches of it.

    Args:
        run: from a batch to the results of its parts, in the same order.
        join: puts the results of a split entry's parts together, in the order of its samples.
        deliver: called with the entries that are finished, each with a result or an error, and with the batch that
            finished them; in the thread that ran it.
        scheduling: how batches are made.
        learned: finds out which batch size is worth it; without it, a batch takes all that it can hold.
        name: of the threads.
    """

    def __init__(
        self,
        run: Callable[[Batch[Item, Result]], list[Result]],
        join: Callable[[list[Result]], Result],
        deliver: Callable[[list[Entry[Item, Result]], Batch[Item, Result]], None],
        scheduling: Scheduling,
        *,
        learned: LearnedBatchSize | None = None,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._join = join
        self._deliver = deliver
        self._scheduling = scheduling
        self._learned = learned
        self._queues: list[deque[Entry[Item, Result]]] = [deque() for _ in range(2 * scheduling.levels)]
        """Of each level two, the higher level first: those that wait, and those that waited too long (DELAY)."""
        self._waiting = [0] * (scheduling.levels + 1)
        """Requests that wait, by level; [0] is not used."""
        self._samples = 0
        self._running = 0
        self._unanswered = 0
        """Batches that run, or whose answers are on their way."""
        self._idle = 0
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{index}", daemon=True)
            for index in range(scheduling.instances)
        ]

    def start(self) -> None:
        """Start the instances."""
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return sum(self._waiting)

    def submit(self, entry: Entry[Item, Result]) -> None:
        """Queue one entry.

        Raises:
            UnavailableError: the queue is full.
            ClosedError: the batcher was closed.
        """
        level = entry.level
        bound = self._scheduling.policies.get(level, self._scheduling.policy).max_queue_size
        entry.left = entry.size
        with self._changed:
            if self._closed:
                raise ClosedError("the model is being unloaded: try again")
            if bound and self._waiting[level] >= bound:
                raise UnavailableError(
                    f"{self._waiting[level]} requests wait already, the queue's bound: try again later"
                )
            self._queues[2 * level - 2].append(entry)
            self._waiting[level] += 1
            self._samples += entry.size
            if self._idle:
                self._changed.notify()

    def withdraw(self, entry: Entry[Item, Result]) -> bool:
        """Take an entry out unless its batch has begun (or it was taken out before); return whether it will not run."""
        with self._changed:
            if entry.started or entry.cancelled:
                return False
            entry.cancelled = True
            self._waiting[entry.level] -= 1
            self._samples -= entry.size
            ahead = self._queues[2 * entry.level - 2]
            (ahead if entry in ahead else self._queues[2 * entry.level - 1]).remove(entry)
            return True

    def flush(self) -> None:
        """Run what has queued, in the caller's thread; nothing where instances do that."""
        while not self._threads and (batch := self._next_batch(wait=False)):
            self._execute(batch)

    def close(self) -> None:
        """Take nothing new, finish what has queued, and end the threads. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if not self._threads:
            self.flush()
            with self._changed:
                self._changed.wait_for(lambda: not self._unanswered)  # a batch that another thread runs

    def _serve(self) -> None:
        while batch := self._next_batch(wait=True):
            self._execute(batch)

    def _execute(self, batch: Batch[Item, Result]) -> None:
        results: list[Result] | list[None]
        error: BaseException | None = None
        try:
            results = self._run(batch)
        except BaseException as raised:  # noqa: BLE001  whoever waits must hear of it, and the instance lives on
            results, error = [None] * len(batch.parts), raised
        with self._changed:
            self._running -= 1
            if self._learned is not None and error is None and not batch.alone:
                self._learned.ran(batch.size, batch.ran - batch.started)
            finished = self._keep(batch, results, error)
        for entry in finished:
            if entry.pieces and entry.error is None:
                self._put_together(entry, entry.pieces)
        self._deliver(finished, batch)
        with self._changed:
            self._unanswered -= 1
            if self._closed:
                self._changed.notify_all()
        for entry in finished:  # whoever still holds it (a timeout) holds no tensors, and no circle keeps them alive
            del entry.item, entry.waiter

    def _keep(
        self, batch: Batch[Item, Result], results: list[Result] | list[None], error: BaseException | None
    ) -> list[Entry[Item, Result]]:
        """Give each part's result, or the failure, to its entry; return the entries that lack nothing more."""
        finished = []
        for part, result in zip(batch.parts, results, strict=True):
            entry = part.entry
            entry.assembled, entry.ran, entry.batch_size = batch.assembled, batch.ran, batch.size
            entry.left -= part.stop - part.start
            if error is not None:
                entry.error = error
            elif part.whole:
                entry.result = result
            else:
                entry.pieces = [*(entry.pieces or ()), (part.start, result)]  # type: ignore[list-item]
            if not entry.left:
                finished.append(entry)
        return finished

    def _put_together(self, entry: Entry[Item, Result], pieces: list[tuple[int, Result]]) -> None:
        try:
            entry.result = self._join([result for _, result in sorted(pieces, key=lambda piece: piece[0])])
        except Exception as error:  # noqa: BLE001  outputs of unlike extents: its caller must hear of it
            entry.error = error

    def _next_batch(self, *, wait: bool) -> Batch[Item, Result] | None:
        """Return the next batch; None once the batcher is closed and the queue is empty, or if ``wait`` is false."""
        with self._changed:
            while True:
                now = time.perf_counter()
                limit, hold_seconds = self._limit(now)
                if not (hold_seconds and wait) and (batch := self._take(limit, now)):
                    return batch
                if not wait or (self._closed and not self._samples):
                    return None
                self._idle += 1
                self._changed.wait(min(hold_seconds, threading.TIMEOUT_MAX) or None)
                self._idle -= 1

    def _limit(self, now: float) -> tuple[int, float]:
        """Return how many samples the next batch may have, and how many seconds it should wait for more of them."""
        scheduling, queued = self._scheduling, self._samples
        fitting = [size for size in scheduling.preferred_batch_sizes if size <= queued]
        full = fitting[-1] if fitting else scheduling.max_batch_size
        if 0 < queued < full and scheduling.max_queue_delay_seconds and not self._closed:
            first = self._first(now)
            assert first is not None
            hold = first[0].queued + scheduling.max_queue_delay_seconds - now
            if hold > 0:
                return full, hold
        if self._learned is not None:
            full = min(full, self._learned.limit)
        return full, 0.0

    def _take(self, limit: int, now: float) -> Batch[Item, Result] | None:
        """Make a batch of what goes first.

        A request that does not fit is split, and the rest of it goes first in the next batch: so a request larger than
        half a batch still shares. A request is never split for its own sake.
        """
        parts: list[Part[Item, Result]] = []
        room = limit
        while room > 0 and (queue := self._first(now)) is not None:
            entry = queue[0]
            if parts and entry.key != parts[0].entry.key:
                break
            size = entry.size - entry.taken
            if parts:
                size = min(size, room)
            parts.append(Part(entry, entry.taken, entry.taken + size))
            if not entry.taken:
                entry.started = now
                self._waiting[entry.level] -= 1
            entry.taken += size
            room -= size
            self._samples -= size
            if entry.taken == entry.size:
                queue.popleft()
        if not parts:
            return None
        alone = not self._running and not self._samples
        self._running += 1
        self._unanswered += 1
        if self._samples and self._idle:
            self._changed.notify()
        return Batch(parts, sum(part.stop - part.start for part in parts), alone, started=now)

    def _first(self, now: float) -> deque[Entry[Item, Result]] | None:
        """Return the queue whose head goes first; the late go behind."""
        for index, queue in enumerate(self._queues):
            while queue:
                entry = queue[0]
                if entry.late_at and now >= entry.late_at and not index % 2 and not entry.taken:
                    self._queues[index + 1].append(queue.popleft())
                else:
                    return queue
        return None

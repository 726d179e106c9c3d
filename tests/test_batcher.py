"""The batching rule, with plain functions in place of a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.batcher import Batcher, Entry
from server.errors import UnavailableError


class Bench:
    """A batcher around a function, whose first batch can be held back."""

    def __init__(self, run: Callable[[list[Any]], list[Any]], **options: Any) -> None:
        self.batches: list[list[Any]] = []
        self.delivered: list[Entry[Any, Any]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self._run = run
        self._done = threading.Condition()
        self.batcher: Batcher[Any, Any] = Batcher(
            self.run, self.deliver, **{"max_batch_size": 4, "max_queue_size": 8, **options}
        )
        self.batcher.start()

    def run(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.entered.release()
        assert self.gate.wait(10)
        return self._run(items)

    def deliver(self, batch: list[Entry[Any, Any]]) -> None:
        with self._done:
            self.delivered += batch
            self._done.notify_all()

    def submit(self, item: Any, size: int = 1, key: Any = None) -> Entry[Any, Any]:
        entry: Entry[Any, Any] = Entry(item, size, key, None)
        self.batcher.submit(entry)
        return entry

    def hold(self) -> None:
        """Have one batch run and not end until `gate` is set."""
        self.gate.clear()
        self.submit("held")
        assert self.entered.acquire(timeout=10)

    def wait(self, count: int) -> None:
        with self._done:
            assert self._done.wait_for(lambda: len(self.delivered) >= count, 10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A batcher that gives each item back in capitals."""
    made = Bench(lambda items: [str(item).upper() for item in items])
    yield made
    made.gate.set()
    made.batcher.close()


def test_a_free_instance_takes_a_request_at_once(bench: Bench) -> None:
    """There is no timer: a lone request is a batch of one."""
    entry = bench.submit("a")
    bench.wait(1)
    assert (entry.result, bench.batches) == ("A", [["a"]])
    assert entry.queued <= entry.started <= entry.finished


def test_what_queues_while_busy_is_the_next_batch(bench: Bench) -> None:
    """Requests that come during an execution run together afterwards, up to the max batch size, in order."""
    bench.hold()
    for item in "abcdef":
        bench.submit(item)
    assert bench.batcher.pending == 6
    bench.gate.set()
    bench.wait(7)
    assert bench.batches == [["held"], ["a", "b", "c", "d"], ["e", "f"]]


def test_sizes_count_not_requests(bench: Bench) -> None:
    """The samples of a batch's requests stay within the max batch size."""
    bench.hold()
    for item, size in (("a", 3), ("b", 2), ("c", 2)):
        bench.submit(item, size)
    bench.gate.set()
    bench.wait(4)
    assert bench.batches[1:] == [["a"], ["b", "c"]]


def test_only_equal_keys_share_a_batch(bench: Bench) -> None:
    """What cannot be stacked is not put together, and order is kept."""
    bench.hold()
    for item, key in (("a", 1), ("b", 1), ("c", 2), ("d", 1)):
        bench.submit(item, key=key)
    bench.gate.set()
    bench.wait(5)
    assert bench.batches[1:] == [["a", "b"], ["c"], ["d"]]


def test_cancelled_entries_never_run(bench: Bench) -> None:
    """An entry that nobody waits for is dropped when its batch is made."""
    bench.hold()
    first, second = bench.submit("a"), bench.submit("b")
    first.cancelled = True
    bench.gate.set()
    bench.wait(2)
    assert bench.batches[1:] == [["b"]]
    assert (first.result, second.result) == (None, "B")


def test_a_full_queue_refuses(bench: Bench) -> None:
    """The queue has a bound; beyond it a request is refused at once, and what waits is still answered."""
    bench.hold()
    waiting = [bench.submit(each) for each in range(8)]
    with pytest.raises(UnavailableError, match="8 requests wait already"):
        bench.submit("late")
    bench.gate.set()
    bench.wait(9)
    assert [entry.result for entry in waiting] == [str(each) for each in range(8)]


def test_a_failing_batch_fails_its_entries_only() -> None:
    """An exception reaches every entry of its batch; the instance lives on."""
    bench = Bench(lambda items: [1 // item for item in items])
    bad = bench.submit(0)
    bench.wait(1)
    good = bench.submit(1)
    bench.wait(2)
    assert isinstance(bad.error, ZeroDivisionError)
    assert (good.result, good.error) == (1, None)
    bench.batcher.close()


def test_instances_run_side_by_side() -> None:
    """Two instances run two batches at the same time."""
    bench = Bench(lambda items: items, instances=2)
    bench.gate.clear()
    for item in "ab":
        bench.submit(item)
        assert bench.entered.acquire(timeout=10)
    assert sorted(bench.batches) == [["a"], ["b"]]
    assert bench.delivered == []
    bench.gate.set()
    bench.wait(2)
    bench.batcher.close()


def test_close_answers_what_waits(bench: Bench) -> None:
    """Closing takes nothing new and finishes what has queued."""
    bench.hold()
    entry = bench.submit("a")
    closing = threading.Thread(target=bench.batcher.close)
    closing.start()
    bench.gate.set()
    closing.join(10)
    assert entry.result == "A"
    with pytest.raises(UnavailableError, match="being unloaded"):
        bench.submit("b")

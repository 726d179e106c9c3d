"""The batching rule, with plain functions in place of a model: an item is a text, its letters are the samples."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server.batch_size import LearnedBatchSize
from server.batcher import Batch, Batcher, Entry, QueuePolicy, Scheduling
from server.errors import UnavailableError

LONG = 600.0
"""Seconds that no test waits."""


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Bench:
    """A batcher that gives each text back in capitals, and whose batches can be held back."""

    def __init__(
        self,
        work: Callable[[str], str] = str.upper,
        join: Callable[[list[str]], str] = "".join,
        learned: LearnedBatchSize | None = None,
        **scheduling: Any,
    ) -> None:
        self.batches: list[list[str]] = []
        """What each ran, in the order in which they began."""
        self.alone: list[bool] = []
        self.delivered: list[Entry[str, str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self._work = work
        self._done = threading.Condition()
        made = Scheduling(**{"max_batch_size": 4, **scheduling})
        self.batcher: Batcher[str, str] = Batcher(self.run, join, self.deliver, made, learned=learned)
        self.batcher.start()

    def run(self, batch: Batch[str, str]) -> list[str]:
        texts = [part.entry.item[part.start : part.stop] for part in batch.parts]
        self.batches.append(texts)
        self.alone.append(batch.alone)
        self.entered.release()
        assert self.gate.wait(20)
        batch.assembled = batch.ran = time.perf_counter()
        return [self._work(text) for text in texts]

    def deliver(self, finished: list[Entry[str, str]], _: Batch[str, str]) -> None:
        with self._done:
            self.delivered += finished
            self._done.notify_all()

    def submit(self, item: str, key: Any = None, level: int = 1, late_at: float = 0.0) -> Entry[str, str]:
        entry: Entry[str, str] = Entry(item, len(item), key, None, level, late_at)
        self.batcher.submit(entry)
        return entry

    def hold(self, instances: int = 1) -> None:
        """Have each instance run a batch that does not end until `gate` is set."""
        self.gate.clear()
        for _ in range(instances):
            self.submit("_")
            assert self.entered.acquire(timeout=20)

    def release(self, count: int) -> list[list[str]]:
        """Let the held batch end; return the batches after it once so many requests are answered."""
        self.gate.set()
        self.wait(count + 1)
        return self.batches[1:]

    def wait(self, count: int) -> None:
        with self._done:
            assert self._done.wait_for(lambda: len(self.delivered) >= count, 20)

    def close(self) -> None:
        self.gate.set()
        self.batcher.close()


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make benches that are closed afterwards."""
    made: list[Bench] = []

    def build(*arguments: Any, **options: Any) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def bench(make: Make) -> Bench:
    """One instance, batches of up to four."""
    return make()


def test_a_free_instance_takes_a_request_at_once(bench: Bench) -> None:
    """There is no timer: a lone request is a batch of one, and its times are in order."""
    entry = bench.submit("a")
    bench.wait(1)
    assert (entry.result, bench.batches) == ("A", [["a"]])
    assert 0 < entry.queued <= entry.started <= entry.assembled <= entry.ran


def test_what_queues_while_busy_is_the_next_batch(bench: Bench) -> None:
    """Requests that come during an execution run together afterwards, up to the max batch size, in order."""
    bench.hold()
    for item in "abcdef":
        bench.submit(item)
    assert bench.batcher.pending == 6
    assert bench.release(6) == [["a", "b", "c", "d"], ["e", "f"]]
    assert bench.batcher.pending == 0


def test_a_request_that_does_not_fit_is_split(bench: Bench) -> None:
    """What has no room in a batch goes first in the next one; the result is whole, and is delivered once."""
    bench.hold()
    entries = [bench.submit(item) for item in ("abc", "def", "gh")]
    assert bench.release(3) == [["abc", "d"], ["ef", "gh"]]
    assert [entry.result for entry in entries] == ["ABC", "DEF", "GH"]
    assert len(bench.delivered) == 4


def test_a_request_larger_than_half_a_batch_still_shares(bench: Bench) -> None:
    """Requests of three samples fill batches of four: none runs partly empty but the last."""
    bench.hold()
    entries = [bench.submit(item) for item in ("abc", "def", "ghi", "jkl")]
    assert bench.release(4) == [["abc", "d"], ["ef", "gh"], ["i", "jkl"]]
    assert [entry.result for entry in entries] == ["ABC", "DEF", "GHI", "JKL"]


def test_a_first_request_is_never_split(make: Make) -> None:
    """A request that heads a batch runs whole, although the batch that is worth it is smaller."""
    bench = make(learned=LearnedBatchSize(2), max_batch_size=4)
    bench.hold()
    entries = [bench.submit(item) for item in ("abcd", "ef", "ghi")]
    assert bench.release(3) == [["abcd"], ["ef"], ["ghi"]]
    assert [entry.result for entry in entries] == ["ABCD", "EF", "GHI"]


def test_parts_are_joined_in_order_whichever_ends_first(make: Make) -> None:
    """The parts of a split request run in two instances at once; the later samples are done first."""
    entries: list[Entry[str, str]] = []

    def work(text: str) -> str:
        if text == "d":  # the rest of this request has run before it goes on
            assert eventually(lambda: entries[1].left == 1)
        return text.upper()

    bench = make(work, instances=2)
    bench.hold(2)
    entries += [bench.submit("abc"), bench.submit("defg")]
    bench.gate.set()
    bench.wait(4)
    assert sorted(bench.batches[2:]) == [["abc", "d"], ["efg"]]
    assert [entry.result for entry in entries] == ["ABC", "DEFG"]


@pytest.mark.parametrize("failing", ["d", "efg"])
@pytest.mark.parametrize("instances", [1, 2])
def test_a_part_that_fails_fails_its_request_once(make: Make, failing: str, instances: int) -> None:
    """A split request with a part in a failed batch is answered once, with the error, after its last part has run."""

    def work(text: str) -> str:
        if text == failing:
            raise ArithmeticError(text)
        return text.upper()

    bench = make(work, instances=instances)
    bench.hold(instances)
    whole, split = bench.submit("abc"), bench.submit("defg")
    bench.gate.set()
    bench.wait(instances + 2)
    assert (str(split.error), split.result, split.left) == (failing, None, 0)
    assert (whole.error is None) == (failing == "efg")  # it shared the first part's batch
    bench.submit("z")
    bench.wait(instances + 3)
    assert len(bench.delivered) == instances + 3


def test_parts_that_cannot_be_joined_fail_their_request_only(make: Make) -> None:
    """Where the results of the parts do not fit together, the caller hears of it, and the instance lives on."""

    def join(results: list[str]) -> str:
        raise ValueError("-".join(results))

    bench = make(join=join)
    bench.hold()
    whole, split = bench.submit("abc"), bench.submit("de")
    bench.release(2)
    assert (whole.result, str(split.error), split.result) == ("ABC", "D-E", None)
    bench.submit("z")
    bench.wait(4)


def test_only_equal_keys_share_a_batch(bench: Bench) -> None:
    """What cannot be stacked is not put together, and order is kept."""
    bench.hold()
    for item, key in (("a", 1), ("b", 1), ("c", 2), ("d", 1)):
        bench.submit(item, key=key)
    assert bench.release(4) == [["a", "b"], ["c"], ["d"]]


def test_higher_priorities_go_first(make: Make) -> None:
    """Level 1 goes before level 2, that before 3; within a level, who came first."""
    bench = make(levels=3, max_batch_size=2)
    bench.hold()
    for item, level in (("a", 3), ("b", 2), ("c", 1), ("d", 2), ("e", 1)):
        bench.submit(item, level=level)
    assert bench.release(5) == [["c", "e"], ["b", "d"], ["a"]]


@pytest.mark.parametrize(("asked", "expected"), [(0, 2), (1, 1), (2, 2), (3, 3), (4, 2), (99, 2)])
def test_a_level_that_is_not_there_is_the_default(asked: int, expected: int) -> None:
    """A request that names no level, or one beyond the last, is of the default level."""
    assert Scheduling(levels=3, default_level=2).level(asked) == expected


@pytest.mark.parametrize(
    ("preferred", "queued", "expected"),
    [
        ((2, 4), 7, [4, 2, 1]),
        ((2, 4), 3, [2, 1]),
        ((4,), 3, [3]),
        ((4,), 8, [4, 4]),
        ((3, 8), 8, [8]),
        ((), 7, [7]),
        ((), 9, [8, 1]),
    ],
)
def test_preferred_sizes(make: Make, preferred: tuple[int, ...], queued: int, expected: list[int]) -> None:
    """The largest preferred size that the queue fills is taken; fewer than the smallest go as they are."""
    bench = make(max_batch_size=8, preferred_batch_sizes=preferred)
    bench.hold()
    for each in range(queued):
        bench.submit(str(each))
    assert [len(batch) for batch in bench.release(queued)] == expected


def test_a_delay_waits_for_a_full_batch(make: Make) -> None:
    """With a delay, requests are held back until a batch is full, and then go at once."""
    bench = make(max_queue_delay_seconds=LONG)
    for item in "abcd":
        bench.submit(item)
    bench.wait(4)
    assert bench.batches == [["a", "b", "c", "d"]]


def test_a_delay_waits_for_a_preferred_size(make: Make) -> None:
    """With a delay and preferred sizes, a batch goes as soon as the queue fills one of them."""
    bench = make(max_queue_delay_seconds=LONG, preferred_batch_sizes=(2,))
    bench.submit("a")
    bench.submit("b")
    bench.wait(2)
    assert bench.batches == [["a", "b"]]


def test_a_delay_ends(make: Make) -> None:
    """A request that no other joins goes alone when the delay is over, not before."""
    bench = make(max_queue_delay_seconds=0.05, preferred_batch_sizes=(2,))
    entry = bench.submit("a")
    bench.wait(1)
    assert bench.batches == [["a"]]
    assert entry.started - entry.queued >= 0.05


def test_the_late_go_behind(make: Make) -> None:
    """What waited longer than its level bears (DELAY) goes after the others of its level, before the next level."""
    bench = make(levels=2, max_batch_size=1)
    bench.hold()
    for item, level, late_at in (("a", 1, 1e-9), ("b", 2, 0), ("c", 1, 0), ("d", 1, time.perf_counter() + LONG)):
        bench.submit(item, level=level, late_at=late_at)
    assert bench.release(4) == [["c"], ["d"], ["a"], ["b"]]


def test_a_full_queue_refuses(make: Make) -> None:
    """The queue has a bound; beyond it a request is refused at once, and what waits is still answered."""
    bench = make(policy=QueuePolicy(max_queue_size=3))
    bench.hold()
    waiting = [bench.submit(each) for each in "abc"]
    with pytest.raises(UnavailableError, match="3 requests wait already"):
        bench.submit("late")
    bench.release(3)
    assert [entry.result for entry in waiting] == ["A", "B", "C"]
    assert len(bench.delivered) == 4


def test_each_level_has_its_own_bound(make: Make) -> None:
    """A full level refuses; the others still take requests. No bound: 0."""
    bench = make(levels=3, policy=QueuePolicy(max_queue_size=2), policies={1: QueuePolicy(1), 3: QueuePolicy(0)})
    bench.hold()
    for level, bound in ((1, 1), (2, 2)):
        for _ in range(bound):
            bench.submit("a", level=level)
        with pytest.raises(UnavailableError, match=f"{bound} requests wait already"):
            bench.submit("b", level=level)
    for _ in range(20):
        bench.submit("c", level=3)
    bench.release(23)


@pytest.mark.parametrize(
    ("policy", "asked", "expected"),
    [
        (QueuePolicy(), 0, 0),
        (QueuePolicy(), 3, 3),
        (QueuePolicy(timeout_seconds=2), 0, 2),
        (QueuePolicy(timeout_seconds=2), 3, 2),
        (QueuePolicy(timeout_seconds=2), 1, 1),
        (QueuePolicy(timeout_seconds=2, allow_timeout_override=False), 1, 2),
        (QueuePolicy(allow_timeout_override=False), 1, 0),
    ],
)
def test_timeouts(policy: QueuePolicy, asked: float, expected: float) -> None:
    """A request may ask for a timeout where that is allowed, but for none that is longer than the level's."""
    assert policy.timeout(asked) == expected


def test_withdrawn_requests_never_run(make: Make) -> None:
    """Who is withdrawn before the batch begins is neither run nor delivered, and its place in the queue is free."""
    bench = make(policy=QueuePolicy(max_queue_size=2))
    bench.hold()
    first, second = bench.submit("a"), bench.submit("b")
    assert bench.batcher.withdraw(first)
    assert not bench.batcher.withdraw(first)
    third = bench.submit("c")
    assert bench.batcher.pending == 2
    assert bench.release(2) == [["b", "c"]]
    assert (first.result, second.result, third.result) == (None, "B", "C")
    assert first not in bench.delivered
    assert not bench.batcher.withdraw(second)


def test_what_has_begun_cannot_be_withdrawn(make: Make) -> None:
    """A request of which a part is in a batch runs to its end."""
    bench = make(max_batch_size=2)
    bench.hold()
    bench.submit("a")
    split = bench.submit("bc")
    bench.gate.set()
    assert eventually(lambda: split.started > 0)
    assert not bench.batcher.withdraw(split)
    bench.wait(3)
    assert split.result == "BC"


def test_withdrawn_requests_are_let_go(make: Make) -> None:
    """A withdrawn request does not stay in the queue until its turn comes, which a busy level above may never let be."""
    bench = make(levels=2)
    bench.hold()
    bench.submit("a", level=1)
    for late_at in (0.0, 1e-9):
        withdrawn = bench.submit("bc", level=2, late_at=late_at)
        assert bench.batcher.withdraw(withdrawn)
    assert sum(map(len, bench.batcher._queues)) == 1
    assert bench.release(1) == [["a"]]


def test_answered_requests_are_let_go(bench: Bench) -> None:
    """Who still holds an answered entry holds neither its tensors nor its caller; nothing waits for the collector."""

    class Caller:
        entry: Entry[str, str]

    gc.collect()
    gc.disable()
    try:
        caller = Caller()
        caller.entry = Entry("ab", 2, None, caller)
        gone = weakref.ref(caller)
        bench.batcher.submit(caller.entry)
        del caller
        bench.wait(1)
        bench.delivered.clear()
        assert eventually(lambda: gone() is None)
    finally:
        gc.enable()


def test_alone_is_told(make: Make) -> None:
    """A batch is alone if nothing else runs or waits when it begins."""
    bench = make(instances=2, max_batch_size=1)
    bench.hold(2)
    assert bench.alone == [True, False]
    bench.submit("a")
    bench.submit("b")
    bench.gate.set()
    bench.wait(4)
    assert bench.alone[2] is False  # the other one waits
    assert eventually(lambda: bench.batcher._running == 0)
    bench.submit("c")
    bench.wait(5)
    assert bench.alone[4] is True


def test_a_failing_batch_fails_its_entries_only(make: Make) -> None:
    """An exception reaches every entry of its batch; the instance lives on."""
    bench = make(lambda text: str(1 // int(text)))
    bad = bench.submit("0")
    bench.wait(1)
    good = bench.submit("1")
    bench.wait(2)
    assert isinstance(bad.error, ZeroDivisionError)
    assert (good.result, good.error) == ("1", None)


def test_instances_run_side_by_side(make: Make) -> None:
    """Two instances run two batches at the same time."""
    bench = make(instances=2)
    bench.gate.clear()
    for item in "ab":
        bench.submit(item)
        assert bench.entered.acquire(timeout=20)
    assert sorted(bench.batches) == [["a"], ["b"]]
    assert bench.delivered == []
    bench.gate.set()
    bench.wait(2)


def test_only_batches_that_competed_teach(make: Make) -> None:
    """How long a batch took is told to what learns from it, but for one that had the machine to itself, or failed."""
    told: list[int] = []

    class Learner(LearnedBatchSize):
        def ran(self, samples: int, seconds: float) -> None:
            assert seconds > 0
            told.append(samples)

    def work(text: str) -> str:
        return text.upper() if text != "!" else str(1 // 0)

    bench = make(work, learned=Learner(4))
    bench.hold()  # alone
    for item in "abcd!ef":
        bench.submit(item)
    bench.release(7)
    assert bench.batches[1:] == [["a", "b", "c", "d"], ["!", "e", "f"]]
    bench.submit("g")
    bench.wait(9)
    assert told == [4]


def test_without_instances_flush_runs_in_the_callers_thread(make: Make) -> None:
    """Nothing runs before flush; then everything that has queued, in that thread, also where a delay is set."""
    threads: list[int] = []

    def work(text: str) -> str:
        threads.append(threading.get_ident())
        return text.upper()

    bench = make(work, instances=0, max_queue_delay_seconds=LONG)
    entries = [bench.submit(each) for each in ("ab", "cd", "e")]
    assert bench.batches == []
    bench.batcher.flush()
    assert bench.batches == [["ab", "cd"], ["e"]]
    assert [entry.result for entry in entries] == ["AB", "CD", "E"]
    assert set(threads) == {threading.get_ident()}
    bench.batcher.flush()
    assert len(bench.batches) == 2


def test_flush_from_several_threads_runs_each_once(make: Make) -> None:
    """Threads that submit and flush at once run each request exactly once."""
    bench = make(instances=0)
    barrier = threading.Barrier(8)

    def call(caller: int) -> list[Entry[str, str]]:
        barrier.wait(20)
        entries = []
        for turn in range(100):
            entries.append(bench.submit("abcdefgh"[caller] * (1 + turn % 4)))
            bench.batcher.flush()
        return entries

    with ThreadPoolExecutor(8) as pool:
        called = list(pool.map(call, range(8)))
    bench.batcher.flush()
    assert len(bench.delivered) == len(set(map(id, bench.delivered))) == 800
    assert sum(len(text) for batch in bench.batches for text in batch) == 8 * 250
    for caller, entries in enumerate(called):
        assert all(entry.result == "ABCDEFGH"[caller] * entry.size for entry in entries)


@pytest.mark.parametrize("options", [{}, {"instances": 0}, {"max_queue_delay_seconds": LONG}])
def test_close_answers_what_waits(make: Make, options: dict[str, Any]) -> None:
    """Closing takes nothing new and finishes what has queued, without waiting for more; it can be done again."""
    bench = make(**options)
    entries = [bench.submit(each) for each in ("a", "bc")]
    closing = threading.Thread(target=bench.batcher.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert [entry.result for entry in entries] == ["A", "BC"]
    with pytest.raises(UnavailableError, match="being unloaded"):
        bench.submit("b")
    bench.batcher.close()


def test_close_waits_for_a_batch_that_another_thread_flushes(make: Make) -> None:
    """Without instances too, nothing runs any more once `close` has returned, and all that ran is answered."""
    bench = make(instances=0)
    bench.gate.clear()
    entry = bench.submit("a")
    threading.Thread(target=bench.batcher.flush, daemon=True).start()
    assert bench.entered.acquire(timeout=20)
    closing = threading.Thread(target=bench.batcher.close, daemon=True)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    bench.gate.set()
    closing.join(20)
    assert not closing.is_alive()
    assert bench.delivered == [entry]


class Stress:
    """A batcher that numbers are sent through; what it did is held against what was asked."""

    def __init__(self, **scheduling: Any) -> None:
        self.ran: Counter[int] = Counter()
        """How often each sample ran."""
        self.delivered: list[Entry[range, list[int]]] = []
        self.strange: list[str] = []
        self._lock = threading.Lock()
        self._limit = scheduling["max_batch_size"]
        made = Scheduling(**scheduling)
        self.batcher: Batcher[range, list[int]] = Batcher(self._run, self._join, self._deliver, made)
        self.batcher.start()

    def _run(self, batch: Batch[range, list[int]]) -> list[list[int]]:
        samples = [list(part.entry.item[part.start : part.stop]) for part in batch.parts]
        sizes = sum(map(len, samples))
        with self._lock:
            self.ran.update(each for part in samples for each in part)
            if not 0 < sizes == batch.size <= self._limit or len({part.entry.key for part in batch.parts}) != 1:
                self.strange.append(f"a batch of {samples}")
        batch.ran = time.perf_counter()
        return [[each * each for each in part] for part in samples]

    @staticmethod
    def _join(results: list[list[int]]) -> list[int]:
        return [each for result in results for each in result]

    def _deliver(self, finished: list[Entry[range, list[int]]], _: Batch[range, list[int]]) -> None:
        with self._lock:
            self.delivered += finished


@pytest.mark.parametrize("instances", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_any_mix_is_answered_right_and_once(instances: int, seed: int) -> None:
    """Random sizes, keys, levels, timeouts and withdrawals from many threads: each answer is its own, each runs once."""
    callers, turns, largest = 8, 150, 8
    stress = Stress(
        max_batch_size=largest,
        instances=instances,
        levels=3,
        preferred_batch_sizes=((), (2, 5), (8,))[seed],
        max_queue_delay_seconds=(0, 0.001, 0)[seed],
    )

    def call(caller: int) -> list[tuple[range, Entry[range, list[int]], bool]]:
        chosen = random.Random(100 * seed + caller)
        made = []
        for turn in range(turns):
            first = (caller * turns + turn) * largest
            item = range(first, first + chosen.randint(1, largest))
            late_at = time.perf_counter() + chosen.uniform(0, 0.002) if chosen.random() < 0.2 else 0.0
            entry: Entry[range, list[int]] = Entry(
                item, len(item), chosen.choice("xxxy"), None, chosen.randint(1, 3), late_at
            )
            stress.batcher.submit(entry)
            if instances == 0 and chosen.random() < 0.5:
                stress.batcher.flush()
            withdrawn = chosen.random() < 0.2 and stress.batcher.withdraw(entry)
            made.append((item, entry, withdrawn))
        return made

    with ThreadPoolExecutor(callers) as pool:
        made = [each for caller in pool.map(call, range(callers)) for each in caller]
    stress.batcher.close()
    assert stress.strange == []
    kept = [(item, entry) for item, entry, withdrawn in made if not withdrawn]
    assert 0 < len(kept) < len(made) == callers * turns
    assert stress.ran == Counter(each for item, _ in kept for each in item)
    assert Counter(map(id, stress.delivered)) == Counter(id(entry) for _, entry in kept)
    assert all(entry.result == [each * each for each in item] for item, entry in kept)
    assert stress.batcher.pending == stress.batcher._samples == 0

"""The learned batch size, driven by cost models: how many seconds a batch of n samples takes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from server.batch_size import PATIENCE, START, LearnedBatchSize


def drive(learned: LearnedBatchSize, cost: Callable[[int], float], batches: int) -> Counter[int]:
    """Run full batches only; return how many there were of each size."""
    sizes: Counter[int] = Counter()
    for _ in range(batches):
        sizes[learned.limit] += 1
        learned.ran(learned.limit, cost(learned.limit))
    return sizes


def gaining(size: int) -> float:
    """Return the cost where a batch itself costs something."""
    return 10.0 + size


def plain(size: int) -> float:
    """Return the cost where a batch is as dear as its samples."""
    return float(size)


@pytest.mark.parametrize("largest", [1, 2, 5, 8, 12, 64])
def test_it_grows_where_batches_gain(largest: int) -> None:
    """With a fixed cost for each batch the largest is found, also one that is no power of two, and kept."""
    learned = LearnedBatchSize(largest)
    assert learned.limit == min(START, largest)
    drive(learned, gaining, PATIENCE)
    sizes = drive(learned, gaining, 10 * PATIENCE)
    assert sizes.most_common(1)[0][0] == largest
    assert max(sizes) == largest
    assert sizes[largest] > 0.9 * sizes.total()


@pytest.mark.parametrize("largest", [1, 2, 12, 64])
def test_it_shrinks_where_batches_gain_nothing(largest: int) -> None:
    """Where a sample costs the same in any batch, none waits for another."""
    learned = LearnedBatchSize(largest)
    drive(learned, plain, PATIENCE)
    sizes = drive(learned, plain, 10 * PATIENCE)
    assert sizes[1] > 0.9 * sizes.total()


def test_it_stops_where_the_gain_ends() -> None:
    """Where batches gain up to a size and lose beyond it (a cache overflows), it stays at that size."""
    learned = LearnedBatchSize(64)
    cost = {1: 2.0, 2: 1.5, 4: 1.0, 8: 1.3, 16: 1.5, 32: 1.6, 64: 1.7}
    drive(learned, lambda size: size * cost[size], PATIENCE)
    sizes = drive(learned, lambda size: size * cost[size], 10 * PATIENCE)
    assert sizes[4] > 0.9 * sizes.total()


@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_make_it_climb(seed: int) -> None:
    """Where batches gain nothing, 2 % of noise does not drive the size up, however long it goes on."""
    chosen = random.Random(seed)
    learned = LearnedBatchSize(64)
    drive(learned, plain, PATIENCE)
    sizes = drive(learned, lambda size: size * chosen.gauss(1, 0.02), 100 * PATIENCE)
    assert sum(count for size, count in sizes.items() if size > 2) < 0.05 * sizes.total()


@pytest.mark.parametrize("cost", [gaining, plain])
def test_batches_of_other_sizes_teach_nothing(cost: Callable[[int], float]) -> None:
    """Between full batches, others that claim wild costs change nothing at all."""
    alone, disturbed = LearnedBatchSize(64), LearnedBatchSize(64)
    chosen = random.Random(0)
    for _ in range(3 * PATIENCE):
        assert alone.limit == disturbed.limit
        other = chosen.choice([size for size in range(1, 65) if size != disturbed.limit])
        disturbed.ran(other, chosen.choice([1e-9, 1e9]))
        alone.ran(alone.limit, cost(alone.limit))
        disturbed.ran(disturbed.limit, cost(disturbed.limit))


@pytest.mark.parametrize(("before", "after", "expected"), [(gaining, plain, 1), (plain, gaining, 64)])
def test_it_notices_a_changed_cost(
    before: Callable[[int], float], after: Callable[[int], float], expected: int
) -> None:
    """What was chosen is put to the test again after PATIENCE batches."""
    learned = LearnedBatchSize(64)
    drive(learned, before, 3 * PATIENCE)
    assert learned.limit != expected
    drive(learned, after, 2 * PATIENCE)
    assert drive(learned, after, PATIENCE)[expected] > 0.9 * PATIENCE

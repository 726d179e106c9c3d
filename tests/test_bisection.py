"""The search of the highest rate: against bounds that are known, and against tries that fail for no reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compare.bisection import TIGHT, highest_rate
from compare.cost import Probe

thresholds = st.floats(0.01, 1e5)


def probe(rate: float, *, met: bool) -> Probe:
    return Probe(0, rate, 0, 1.0, 1, 1, 0.1, 0.0, met)


def attempt(met: Callable[[float], bool]) -> Callable[[float], Probe]:
    return lambda rate: probe(rate, met=met(rate))


def test_doubles_then_bisects() -> None:
    """From 10, with a threshold of 70: doubled until 80 fails, then geometric means of the highest met and that one."""
    highest, probes = highest_rate(attempt(lambda rate: rate <= 70), first=10, tries=7)
    rates = [each.rate for each in probes]
    assert rates[:5] == pytest.approx([10, 20, 40, 80, 40 * 2**0.5])
    assert rates[5:] == pytest.approx([40 * 2**0.75, 40 * 2**0.875])
    assert highest == pytest.approx(40 * 2**0.75)


def test_halves_until_it_is_met() -> None:
    """From 10, with a threshold of 1.5: halved until 1.25 is met, and the search goes on between it and 2.5."""
    highest, probes = highest_rate(attempt(lambda rate: rate <= 1.5), first=10, tries=6)
    assert [each.rate for each in probes] == pytest.approx([10, 5, 2.5, 1.25, 1.25 * 2**0.5, 1.25 * 2**0.25])
    assert highest == pytest.approx(1.25 * 2**0.25)


def test_not_even_the_lowest() -> None:
    """Where no try meets the bound, the rate is 0.0, and every try was lower than the one before."""
    highest, probes = highest_rate(attempt(lambda _: False), first=8, tries=4)
    assert highest == 0.0
    assert [each.rate for each in probes] == [8, 4, 2, 1]


def test_ends_when_it_is_tight() -> None:
    """It doesn't use up its tries: when both ends are within 5 % and the upper one has failed twice, it is over."""
    highest, probes = highest_rate(attempt(lambda rate: rate <= 70), first=10, tries=100)
    assert len(probes) == 9
    assert highest <= 70 < highest * TIGHT
    failed = Counter(each.rate for each in probes if not each.met)
    assert failed[min(failed)] == 2


@pytest.mark.parametrize("wrong", range(10))
def test_one_wrong_failure(wrong: int) -> None:
    """Whichever try fails for no reason, the end is within 5 % of the threshold, for four tries more at most."""
    count = 0

    def met(rate: float) -> bool:
        nonlocal count
        count += 1
        return rate <= 70 and count - 1 != wrong

    highest, probes = highest_rate(attempt(met), first=10, tries=100)
    assert highest <= 70 < highest * TIGHT
    assert len(probes) <= 10 + 6


@given(threshold=thresholds, first=thresholds)
def test_finds_any_threshold(threshold: float, first: float) -> None:
    """With tries enough, the result is at most the threshold and no more than 5 % below it."""
    highest, _ = highest_rate(attempt(lambda rate: rate <= threshold), first=first, tries=60)
    assert highest <= threshold < highest * TIGHT


@given(threshold=thresholds, first=thresholds, tries=st.integers(0, 30))
def test_tries_and_bracket(threshold: float, first: float, tries: int) -> None:
    """It never tries more often than it may, and the threshold lies between the result and the lowest failure."""
    highest, probes = highest_rate(attempt(lambda rate: rate <= threshold), first=first, tries=tries)
    assert len(probes) <= tries
    assert highest == max((each.rate for each in probes if each.met), default=0.0)
    assert highest <= threshold < min((each.rate for each in probes if not each.met), default=np.inf)
    reach = abs(log2(threshold / first)) + 2  # doublings or halvings until there are two ends
    halvings = tries - reach - 1
    if highest and halvings > 0:
        assert threshold / highest <= max(TIGHT, 2**2**-halvings) * (1 + 1e-9)


def test_no_rate_above_what_lasts() -> None:
    """Nothing above `at_most` is tried, however well the tries go; where that is met, the search is over."""
    highest, probes = highest_rate(attempt(lambda _: True), first=10, tries=9, at_most=35)
    assert [each.rate for each in probes] == [10, 20, 35]
    assert highest == 35
    highest, probes = highest_rate(attempt(lambda _: True), first=50, tries=9, at_most=35)
    assert [each.rate for each in probes] == [35]


def test_a_finer_step() -> None:
    """Near a rate that is known a smaller step finds the bracket in fewer tries."""
    highest, probes = highest_rate(attempt(lambda rate: rate <= 70), first=64, tries=4, step=1.25)
    assert [round(each.rate, 1) for each in probes] == [64, 80, 71.6, 67.7]
    assert highest == pytest.approx(67.7, abs=0.1)


@settings(max_examples=60)
@given(
    threshold=st.floats(1, 1000),
    first=st.floats(1, 1000),
    tries=st.integers(0, 40),
    noise=st.floats(0, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise(threshold: float, first: float, tries: int, noise: float, seed: int) -> None:
    """Whatever tries say: the result was met itself, and no rate at or below it failed twice."""
    generator = np.random.default_rng(seed)
    highest, probes = highest_rate(
        attempt(lambda rate: rate <= threshold * generator.lognormal(0, noise)), first=first, tries=tries
    )
    met = [each.rate for each in probes if each.met]
    failed = Counter(each.rate for each in probes if not each.met)
    assert len(probes) <= tries
    assert highest == (max(met) if met else 0.0)
    assert all(rate > highest for rate, times in failed.items() if times > 1)


def test_median_error_under_noise() -> None:
    """Thresholds that jitter by 10 % from try to try: the median of many searches with 10 tries is within 8 %."""
    generator = np.random.default_rng(7)
    found = [
        highest_rate(attempt(lambda rate: rate <= 70 * generator.lognormal(0, 0.1)), first=20, tries=10)[0]
        for _ in range(500)
    ]
    assert np.median(found) == pytest.approx(70, rel=0.08)
    assert np.quantile(found, [0.05, 0.95]) == pytest.approx([70, 70], rel=0.25)

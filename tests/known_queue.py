"""What a server of known service times must answer when: the theory that measured figures are held against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from math import exp, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray


def latencies(due: Iterable[float], service_seconds: Iterable[float]) -> NDArray[np.float64]:
    """Return the latency of each request at a server that serves one after the other (Lindley's recursion, 1952)."""
    free, found = 0.0, []
    for moment, seconds in zip(due, service_seconds, strict=True):
        free = max(moment, free) + seconds
        found.append(free - moment)
    return np.array(found)


def wait_probability(wait_seconds: float, rate: float, service_seconds: float) -> float:
    """Return P(W <= wait) at one server of constant service time under Poisson arrivals, M/D/1.

    Erlang 1909, Crommelin 1932: (1 - r) * sum over k = 0..floor(t/D) of (l(kD - t))^k / k! * e^(-l(kD - t)), for the
    rate l, the service time D, the load r = lD and the wait t, before service.
    """
    terms = []
    for k in range(int(wait_seconds / service_seconds) + 1):
        x = rate * (k * service_seconds - wait_seconds)
        terms.append(x**k / factorial(k) * exp(-x))
    return (1 - rate * service_seconds) * sum(terms)


def once_more(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test again if it fails: what else a shared machine does can spoil one run, and is gone in the next."""

    @functools.wraps(test)
    def twice(*given: Any, **asked: Any) -> None:
        try:
            test(*given, **asked)
        except AssertionError:
            test(*given, **asked)

    return twice

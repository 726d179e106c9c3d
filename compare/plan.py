"""How long a comparison measures what: quick, standard, full, and the demo's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Windows and repetitions, the same for each model.

    Attributes:
        name: as the result tells it.
        rounds: each through all models in turn.
        seconds: of the windows at one caller and at saturation.
        replies: at one caller in all rounds together, for which its windows last up to twice as long.
        callers: at saturation; fewer where a model would keep each of them waiting for longer than `wait_seconds`,
        fewest_callers: but no fewer than these.
        batch_sizes: of the curve, beside 1; those that a model does not take, or that one request would take longer
            than `wait_seconds` for, are left out.
        curve_seconds: of the window of each batch size.
        offline_seconds: of the window with large batches.
        tries: of the search for the highest Poisson rate in the first round; later ones begin where it ended.
        later_tries: in each later round.
        try_seconds: over which one try's requests are due.
        warm_up_seconds: before each window, kept apart.
        wait_seconds: the longest that one request should take.
        caller_seconds: of each window against a server that answers at once; 0: the caller itself is not measured.
    """

    name: str
    rounds: int
    seconds: float
    replies: int
    callers: int
    fewest_callers: int
    batch_sizes: tuple[int, ...]
    curve_seconds: float
    offline_seconds: float
    tries: int
    later_tries: int
    try_seconds: float
    warm_up_seconds: float
    wait_seconds: float
    caller_seconds: float


QUICK = Plan(
    name="quick",
    rounds=2,
    seconds=1.0,
    replies=100,
    callers=32,
    fewest_callers=4,
    batch_sizes=(4, 16),
    curve_seconds=0.4,
    offline_seconds=0.8,
    tries=6,
    later_tries=4,
    try_seconds=1.5,
    warm_up_seconds=0.3,
    wait_seconds=1.0,
    caller_seconds=0.4,
)
STANDARD = Plan(
    name="standard",
    rounds=3,
    seconds=1.5,
    replies=200,
    callers=32,
    fewest_callers=4,
    batch_sizes=(2, 4, 8, 16, 32),
    curve_seconds=0.4,
    offline_seconds=1.5,
    tries=6,
    later_tries=4,
    try_seconds=2.0,
    warm_up_seconds=0.5,
    wait_seconds=0.75,
    caller_seconds=1.0,
)
FULL = Plan(
    name="full",
    rounds=5,
    seconds=5.0,
    replies=1000,
    callers=32,
    fewest_callers=4,
    batch_sizes=(2, 4, 8, 16, 32, 64, 128),
    curve_seconds=1.5,
    offline_seconds=5.0,
    tries=9,
    later_tries=7,
    try_seconds=10.0,
    warm_up_seconds=1.0,
    wait_seconds=4.0,
    caller_seconds=2.0,
)
DEMO = Plan(
    name="demo",
    rounds=2,
    seconds=0.6,
    replies=100,
    callers=32,
    fewest_callers=4,
    batch_sizes=(4, 16),
    curve_seconds=0.25,
    offline_seconds=0.5,
    tries=4,
    later_tries=3,
    try_seconds=0.8,
    warm_up_seconds=0.15,
    wait_seconds=1.0,
    caller_seconds=0.3,
)
PLANS = {plan.name: plan for plan in (QUICK, STANDARD, FULL)}
"""Those of the command line, by name."""

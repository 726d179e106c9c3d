"""Plans that measure next to nothing, for tests of what measuring leads to."""

from __future__ import annotations

from dataclasses import replace

from compare.plan import DEMO

SHORT = replace(
    DEMO,
    name="short",
    rounds=2,
    seconds=0.05,
    replies=4,
    callers=4,
    fewest_callers=2,
    batch_sizes=(2, 4, 64),
    curve_seconds=0.03,
    offline_seconds=0.05,
    tries=2,
    later_tries=1,
    try_seconds=0.1,
    warm_up_seconds=0.02,
    caller_seconds=0.02,
)
ONCE = replace(SHORT, rounds=1, caller_seconds=0.0)

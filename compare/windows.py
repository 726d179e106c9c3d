"""The timed windows of one model in one round: one caller, batches, saturation, Offline; what each inference takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare import energy, process_tree
from compare.load import Load, Window, closed_loop, one_at_a_time
from compare.measure import nearest_rank
from compare.metrics_page import read_counts
from models.environment import usable_cores
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from compare.energy import EnergyMeter
    from compare.place import Place
    from compare.plan import Plan
    from compare.subject import Subject

LONGEST_WINDOW = 2
"""The window of one caller lasts up to this many times as long where it still lacks replies."""
BATCH_WARM_UP_SECONDS = 0.05
"""At least one request of each batch size, for whom the memory is got."""
FEWEST_BATCHES = 2
WARM_UP_WAVES = 3
"""Replies to each caller before saturation is measured."""


@dataclass(frozen=True)
class Taken:
    """What a window took of the machine for each inference (of one caller, its warm-up's too); None: not known."""

    cpu_seconds: float | None
    joules: float | None


class Windows:
    """Runs windows against one server."""

    def __init__(self, place: Place, subject: Subject, plan: Plan, meter: EnergyMeter) -> None:
        """Store what to ask."""
        self.place = place
        self.subject = subject
        self.plan = plan
        self.meter = meter
        self.errors = 0

    def one_caller(self) -> tuple[Load, Taken]:
        """Send a request when the last is answered."""
        plan = self.plan
        window = Window(plan.seconds, -(-plan.replies // plan.rounds), LONGEST_WINDOW * plan.seconds)
        return self._metered(
            lambda: one_at_a_time(self.place.address, self.subject.single, window, warm_up_seconds=plan.warm_up_seconds)
        )

    def batches(self, batch: int) -> Load:
        """Send batches of one size, one when the last is answered."""
        window = Window(self.plan.curve_seconds, FEWEST_BATCHES, 2 * self.plan.wait_seconds)
        requests = self.subject.requests[batch]
        warm_up = min(BATCH_WARM_UP_SECONDS, self.plan.curve_seconds)
        return self._checked(one_at_a_time(self.place.address, requests, window, warm_up_seconds=warm_up))

    def saturation(self) -> tuple[Load, Taken]:
        """Keep the server busy with single samples of many callers.

        The warm-up lasts until each caller has had a few replies: the server forms batches of sizes that nobody has
        asked for before, and gets the memory for them.
        """
        plan, callers = self.plan, self.subject.callers
        self._at_once(Window(plan.warm_up_seconds, WARM_UP_WAVES * callers, 2 * WARM_UP_WAVES * plan.wait_seconds))
        return self._metered(lambda: self._at_once(Window(plan.seconds)))

    def offline(self) -> Load:
        """Keep the server busy with the largest batches."""
        requests, window = self.subject.requests[self.subject.largest_batch], Window(self.plan.offline_seconds)
        return self._checked(
            closed_loop(self.place.address, requests, offline_callers(), window, warm_up_seconds=BATCH_WARM_UP_SECONDS)
        )

    def _at_once(self, window: Window) -> Load:
        return closed_loop(self.place.address, self.subject.single, self.subject.callers, window, warm_up_seconds=0.0)

    def _metered(self, run: Callable[[], Load]) -> tuple[Load, Taken]:
        """Run a window; of a server of our own tell what each inference took."""
        server, page = self.place.server, self.place.metrics_url
        if server is None or page is None:
            return self._checked(run()), Taken(None, None)
        name = self.subject.name
        counted = read_counts(page, name)
        joules, cpu = self.meter.read(), process_tree.cpu_seconds(server.pid)
        load = self._checked(run())
        cpu, used = process_tree.cpu_seconds(server.pid) - cpu, energy.used(joules, self.meter.read())
        inferences = read_counts(page, name).since(counted).inferences
        if not inferences:
            return load, Taken(None, None)
        return load, Taken(cpu / inferences, None if used is None else used / inferences)

    def _checked(self, load: Load) -> Load:
        """Count a window's errors.

        Raises:
            NetweightError: nothing was answered.
        """
        self.errors += load.error_count
        if not load.count:
            raise NetweightError(
                f"{self.subject.name}: expected replies, got none, first {load.first_error}; see the server's log"
            )
        return load


def offline_callers() -> int:
    """Return how many callers keep a server on this machine busy: one for each core, and one on its way."""
    return usable_cores() + 1


def rate(load: Load, batch: int = 1) -> float:
    """Return inferences for each second, batches of so many samples."""
    return load.count * batch / load.seconds


def percentile(load: Load, percent: float) -> float:
    """Return the latency at `percent` of a window that has replies."""
    return nearest_rank(load.latencies, percent)

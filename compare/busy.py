"""What else the machine did while something was measured: other processes' CPU time, and what the hypervisor took."""

from __future__ import annotations

import os
import time

import psutil

from compare.cost import Busy
from models.environment import usable_cores

BUSY_SHARE = 0.1
"""Of the usable cores: above it the figures may have changed."""


class Watch:
    """Watches the machine from `start` to `stop`.

    Ours is what this process used, and all that it started, whether it still runs or has ended and was waited for.
    """

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._own = _own_cpu_seconds()
        self._machine = _machine_cpu_seconds()

    def stop(self, own_cpu_seconds: float = 0.0) -> Busy | None:
        """Return what others did since the start; None where the system does not tell.

        Args:
            own_cpu_seconds: of what this process did not start and is nevertheless part of the measurement, such as a
                server that was running before.
        """
        seconds = time.monotonic() - self._began
        machine = _machine_cpu_seconds()
        if self._machine is None or machine is None or seconds <= 0:
            return None
        own = _own_cpu_seconds() - self._own + own_cpu_seconds
        other = max(0.0, machine[0] - self._machine[0] - own) / seconds
        stolen = max(0.0, machine[1] - self._machine[1]) / seconds
        return Busy(other, stolen, is_busy=other + stolen > BUSY_SHARE * usable_cores())


def _machine_cpu_seconds() -> tuple[float, float] | None:
    """Return CPU seconds of all processes (user, nice and system), and stolen ones, since the machine started."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    return times.user + getattr(times, "nice", 0.0) + times.system, getattr(times, "steal", 0.0)


def _own_cpu_seconds() -> float:
    """Return CPU seconds of this process and all its descendants; those that ended count when they were waited for."""
    ours = os.times()
    seconds = ours.user + ours.system + ours.children_user + ours.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended: it counts among those that did
            continue
        seconds += times.user + times.system + getattr(times, "children_user", 0.0)
        seconds += getattr(times, "children_system", 0.0)
    return seconds

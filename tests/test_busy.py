"""What else the machine did: others' CPU time is seen, ours is not taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from compare.busy import Watch

BURN = "import time\nwhile time.process_time() < {seconds}: pass"


def burn(seconds: float) -> None:
    """Use CPU time in this process."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def stranger(seconds: float) -> int:
    """Start a process that burns CPU time and is not ours any more: the one between has ended. Return its id."""
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {BURN.format(seconds=seconds)!r}]).pid)"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def test_stranger_is_seen() -> None:
    """A process of nobody's that burns a core for 0.8 seconds is seen as that much, and the machine as busy.

    Told that all of it is ours, such as a server that ran before, the rest is none, and never less than none.
    """
    watch = Watch()
    watch.start()
    began = time.monotonic()
    pid = stranger(0.8)
    while psutil.pid_exists(pid) and time.monotonic() - began < 60:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    busy, ours = watch.stop(), watch.stop(own_cpu_seconds=1000.0)
    assert busy is not None
    assert ours is not None
    assert ours.other_cores == 0.0
    assert busy.is_busy
    assert busy.other_cores * seconds > 0.5
    assert busy.other_cores + busy.stolen_cores <= (os.cpu_count() or 1) * 1.1


def test_our_own_is_not_others() -> None:
    """What we burn, in this process and in children that have ended or still run, changes nothing of what others did.

    The machine's other load is told by the same clock without us: all that was used less the 1.4 seconds that we know of.
    """
    watch = Watch()
    machine = psutil.cpu_times()
    watch.start()
    began = time.monotonic()
    running = subprocess.Popen([sys.executable, "-c", BURN.format(seconds=0.3) + "\ntime.sleep(60)"])
    subprocess.run([sys.executable, "-c", BURN.format(seconds=0.6)], check=True)
    burn(0.5)
    while sum(psutil.Process(running.pid).cpu_times()[:2]) < 0.25:  # whole hundredths, rounded down
        time.sleep(0.02)
    seconds = time.monotonic() - began
    busy = watch.stop()
    after = psutil.cpu_times()
    running.kill()
    running.wait()
    assert busy is not None
    everything = after.user + after.nice + after.system - machine.user - machine.nice - machine.system
    assert busy.other_cores * seconds < everything - 1.35 + 0.3
    assert busy.other_cores * seconds > everything - 1.35 - 1.0  # and no more is taken for ours than is


def test_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernel's counters nothing is said."""

    def unreadable() -> None:
        raise PermissionError

    monkeypatch.setattr("compare.busy.psutil.cpu_times", unreadable)
    watch = Watch()
    watch.start()
    assert watch.stop() is None

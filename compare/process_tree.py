"""What a process and all that it started have used: CPU seconds and memory, as the kernel counts them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

KIB = 1024
IDLE_SHARE = 0.1
IDLE_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class TreeMemory:
    """Bytes of all processes of a tree together; None where the kernel does not tell.

    Attributes:
        resident: in physical memory; a page that several of them share counts for each.
        anonymous: the part of it that no file backs, so that nothing else can share it or drop it.
        peak_resident: the most that was resident since each began.
        proportional: resident, each page divided by the number of processes on the machine that map it.
    """

    resident: int
    anonymous: int | None
    peak_resident: int | None
    proportional: int | None


def cpu_seconds(pid: int) -> float:
    """Return user and system CPU seconds that a process and its descendants have used so far."""
    seconds = 0.0
    for process in _tree(pid):
        times = process.cpu_times()
        seconds += times.user + times.system
    return seconds


def memory(pid: int) -> TreeMemory:
    """Return the memory of a process and its descendants now."""
    tree = _tree(pid)
    statuses = [_kibibytes(process.pid, "status") for process in tree]
    rollups = [_kibibytes(process.pid, "smaps_rollup") for process in tree]
    return TreeMemory(
        resident=sum(process.memory_info().rss for process in tree),
        anonymous=_total(statuses, "RssAnon"),
        peak_resident=_total(statuses, "VmHWM"),
        proportional=_total(rollups, "Pss"),
    )


def wait_until_idle(pid: int, timeout_seconds: float) -> None:
    """Return when the tree takes less than a tenth of a core, or after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    used = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(IDLE_INTERVAL_SECONDS)
        before, used = used, cpu_seconds(pid)
        if used - before < IDLE_SHARE * IDLE_INTERVAL_SECONDS:
            return


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _kibibytes(pid: int, name: str) -> dict[str, int]:
    """Return the entries of /proc/PID/`name` that are in kB, in KiB as the kernel means it; empty where unreadable."""
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {each[0]: int(each[1]) for each in words if len(each) == 3 and each[2] == "kB"}


def _total(entries: list[dict[str, int]], name: str) -> int | None:
    values = [each[name] * KIB for each in entries if name in each]
    return sum(values) if len(values) == len(entries) else None

"""What the operating system says of this process: CPUs, memory, age."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, cut by the cgroup's quota (rounded up), at least 1.

    ONNX Runtime counts the host's cores; in a container with a quota that starts too many threads.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(affinity, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return affinity


def resident_bytes() -> int:
    """Return this process's resident memory in bytes, mapped files included; 0 where the system does not tell.

    ``smaps_rollup`` counts pages exactly; ``statm``, beside it, lags behind by some for each CPU.
    """
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:")), 0)


def process_age_seconds() -> float:
    """Return the seconds since this process was started (to 0.01); 0 where the system does not tell."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0.0
    return uptime - started / os.sysconf("SC_CLK_TCK")


M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Parameters of glibc's mallopt (malloc.h)."""
MAPPED_BYTES = 256 * 2**10
"""From here on blocks are mapped while a model is loaded: nearly all of its weights are in such."""


def keep_message_memory() -> None:
    """Have glibc serve messages from its heap: by default each block of 128 KiB or more is mapped, and faults, afresh.

    Blocks up to 32 MiB (the most that glibc takes) come from the heap, and up to 512 MiB of free heap stay with the
    process. Elsewhere than on glibc nothing happens.
    """
    if (mallopt := getattr(_libc(), "mallopt", None)) is not None:
        BLOCKS.keep(32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 512 * 2**20)


def give_back_memory() -> None:
    """Return what is free on the heap to the system; opening a session leaves copies of its weights there."""
    if (malloc_trim := getattr(_libc(), "malloc_trim", None)) is not None:
        malloc_trim(0)


class Blocks:
    """Where glibc takes large blocks from: the heap, as messages should, or the system, as weights should.

    A block from the system goes back when it is freed, but faults in afresh: with VGG-16 that makes opening a session a
    quarter slower. `give_back_memory` gives back what is free on the main thread's heap; of another thread's heap it
    leaves the free end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threshold = 0
        self._mapping = 0

    def keep(self, threshold: int) -> None:
        """Take blocks up to so many bytes from the heap."""
        with self._lock:
            self._threshold = threshold
            self._set(threshold)

    @contextlib.contextmanager
    def mapped(self) -> Iterator[None]:
        """Take blocks of 256 KiB or more from the system meanwhile, unless this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            yield
            return
        with self._lock:
            self._mapping += 1
            self._set(MAPPED_BYTES)
        try:
            yield
        finally:
            with self._lock:
                self._mapping -= 1
                if not self._mapping:
                    self._set(self._threshold)

    def _set(self, threshold: int) -> None:
        if self._threshold and (mallopt := getattr(_libc(), "mallopt", None)) is not None:
            mallopt(M_MMAP_THRESHOLD, threshold)


BLOCKS = Blocks()


def spare_collector() -> None:
    """Have the garbage collector leave alone what was made so far, and look less often at the rest.

    By default every 700 objects are looked at, and now and then all of the imported modules; a profile under load shows
    the collector in a few per cent of a front end's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@functools.cache
def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None

"""A clock that wakes an event loop at a moment: within a tenth of a millisecond, and without keeping a core busy."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from typing import Self

CLOCK_MONOTONIC = 1  # what time.perf_counter reads on Linux
ABSOLUTE = 1
NANOSECONDS = 10**9


class Alarm:
    """Sleeps to a moment of `time.perf_counter`, never less; a context manager inside a running loop.

    An event loop's own timers count whole milliseconds: uvloop wakes up to half of one too early, asyncio's own up to
    one too late. Linux's timerfd is a timer that a loop waits for as it waits for a socket. Elsewhere the loop's timers
    must do, and what they are late is seen in `Arrivals.lateness`.
    """

    def __enter__(self) -> Self:
        """Make the timer."""
        self._loop = asyncio.get_running_loop()
        self._moved: asyncio.Future[None] | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        if self._libc:
            self._file = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if self._file < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            self._loop.add_reader(self._file, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the timer back."""
        if self._libc:
            self._loop.remove_reader(self._file)
            os.close(self._file)

    async def sleep_until(self, moment: float) -> None:
        """Return when `time.perf_counter` has reached `moment`; at once where it has passed. For one sleeper at a time."""
        while (remaining := moment - time.perf_counter()) > 0:
            if not self._libc:
                await asyncio.sleep(max(remaining, 0.001))
                continue
            self._moved = self._loop.create_future()
            self._set(self._libc, moment)
            await self._moved

    def _set(self, libc: ctypes.CDLL, moment: float) -> None:
        nanoseconds = round(moment * NANOSECONDS) + 1
        when = struct.pack("4q", 0, 0, *divmod(nanoseconds, NANOSECONDS))
        if libc.timerfd_settime(self._file, ABSOLUTE, when, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _ring(self) -> None:
        os.read(self._file, 8)  # how often it rang: once
        if self._moved and not self._moved.done():
            self._moved.set_result(None)

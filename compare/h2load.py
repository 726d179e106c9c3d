"""Debian's `h2load` as the callers: HTTP/2 in C, which takes a fraction of the CPU that a caller in Python takes.

h2load knows no gRPC: it posts one body again and again and counts a gRPC error as a success (HTTP status 200). So what it
says is held against the server's own counters (`check_counts`). Of its two clocks only the log is used: a line for each
reply, with its start. `-D` is the whole run, warm-up included; we drop the replies of the warm-up ourselves, because
`--warm-up-time` would also hide how many they were, and then the counters could not be compared exactly.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compare.load import METHOD
from models.spec import NetweightError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compare.metrics_page import Counts

PROGRAM = "h2load"
SUMMARY = re.compile(
    r"^requests: \d+ total, (?P<started>\d+) started, (?P<done>\d+) done, (?P<succeeded>\d+) succeeded,"
    r" \d+ failed, \d+ errored, \d+ timeout",
    re.MULTILINE,
)
HTTP_OK = 200
MICROSECONDS = 1e-6
EXTRA_SECONDS = 30.0
"""How much longer than asked it may take before it is stopped."""
BURST_SECONDS = 0.02
"""Replies of one batch are there within this time."""
ONE_PROCESS_CONNECTIONS = 4
SEVERAL_PROCESSES_CONNECTIONS = 16
"""The kernel spreads connections, not requests, over processes that share a port: a few would fall unevenly."""


@dataclass(frozen=True)
class Summary:
    """Requests of a whole run, warm-up included: `started` and not `done` were under way when it stopped."""

    started: int
    done: int
    succeeded: int


@dataclass(frozen=True, eq=False)
class Replies:
    """What h2load's log says: float64 [count] each, seconds, in the order of arrival; `begins` since the epoch."""

    begins: NDArray[np.float64]
    latencies: NDArray[np.float64]
    refused: int
    """Replies with an HTTP status that is not 200."""

    @property
    def ends(self) -> NDArray[np.float64]:
        """When each reply was there, seconds since the epoch."""
        return self.begins + self.latencies

    def after(self, seconds: float) -> Replies:
        """Return the replies that came later than `seconds` after the first request."""
        if not self.begins.size:
            return self
        kept = self.ends >= self.begins.min() + seconds
        return Replies(self.begins[kept], self.latencies[kept], self.refused)


def available() -> bool:
    """Return whether h2load is on PATH."""
    return shutil.which(PROGRAM) is not None


def connections(callers: int, processes: int = 1) -> int:
    """Return over how many connections `callers` are spread evenly: 4 at most, 16 where several processes accept."""
    most = ONE_PROCESS_CONNECTIONS if processes == 1 else SEVERAL_PROCESSES_CONNECTIONS
    return max(count for count in range(1, min(most, callers) + 1) if callers % count == 0)


def body(message: bytes) -> bytes:
    """Return a gRPC message as HTTP/2 carries it: a zero byte (not compressed), its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def command(address: str, callers: int, seconds: float, body_file: Path, log: Path, *, processes: int = 1) -> list[str]:
    """Return the command that keeps `callers` requests under way for some seconds (to the millisecond)."""
    clients = connections(callers, processes)
    streams = callers // clients
    return [
        *(PROGRAM, "-t", "1", "-c", str(clients), "-m", str(streams), "-D", f"{round(seconds * 1000)}ms"),
        *("-d", str(body_file), f"--log-file={log}", "-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{address}{METHOD}",
    ]


def drive(address: str, message: bytes, callers: int, seconds: float, *, processes: int = 1) -> tuple[Summary, Replies]:
    """Send a serialised request with `callers` callers for some seconds; return the whole run's summary and replies."""
    with tempfile.TemporaryDirectory() as directory:
        body_file, log = Path(directory, "body"), Path(directory, "log")
        body_file.write_bytes(body(message))
        words = command(address, callers, seconds, body_file, log, processes=processes)
        try:
            ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + EXTRA_SECONDS)
        except subprocess.TimeoutExpired:
            raise NetweightError(
                f"h2load did not end {EXTRA_SECONDS:g} seconds after the {seconds:g} that it was given"
            ) from None
        if ended.returncode:
            raise NetweightError(f"h2load failed with exit code {ended.returncode}: {ended.stderr.strip()}")
        return parse_summary(ended.stdout), parse_log(log.read_text(encoding="ascii"))


def parse_summary(text: str) -> Summary:
    """Return the counts of h2load's report."""
    found = SUMMARY.search(text)
    if not found:
        raise NetweightError(f"h2load: expected a line 'requests: ... started, ... done', got {text[-200:]!r}")
    return Summary(*(int(found[name]) for name in ("started", "done", "succeeded")))


def parse_log(text: str) -> Replies:
    """Return the replies of h2load's log: start (microseconds since the epoch), HTTP status, duration (microseconds)."""
    try:
        lines = [[int(word) for word in line.split("\t")[:3]] for line in text.splitlines()]
        values = np.array(lines, np.int64).reshape(-1, 3)
    except ValueError as error:
        raise NetweightError(f"h2load's log: expected start, status and duration on each line ({error})") from error
    good = values[values[:, 1] == HTTP_OK]
    return Replies(good[:, 0] * MICROSECONDS, good[:, 2] * MICROSECONDS, len(values) - len(good))


def steady_rate(ends: NDArray[np.float64]) -> float:
    """Return replies for each second, from the first reply to the last; 0 where all came at once.

    The replies of a batch come together. So the time runs from the end of the first burst, whose replies do not count:
    from one instant to another, a whole batch more or less would count (with VGG-16 and 32 callers a third of them).
    """
    if not ends.size:
        return 0.0
    times = np.sort(ends)
    burst = times <= times[0] + BURST_SECONDS
    seconds = times[-1] - times[burst][-1]
    return float(np.count_nonzero(~burst) / seconds) if seconds > 0 else 0.0


def check_counts(summary: Summary, refused: int, counts: Counts, callers: int) -> str | None:
    """Return what the server's counters say against h2load's; None where every reply was OK and as many were sent.

    Args:
        summary: h2load's, of the whole run.
        refused: replies of any HTTP status but 200.
        counts: by how much the server's counters grew over the whole run.
        callers: requests that may have been under way when h2load stopped; they were cancelled, or answered unseen.
    """
    failed = {code: count for code, count in counts.requests.items() if code not in ("OK", "CANCELLED") and count}
    accepted, cancelled = counts.requests.get("OK", 0), counts.requests.get("CANCELLED", 0)
    if failed:
        return f"the server answered {', '.join(f'{count} x {code}' for code, count in sorted(failed.items()))}"
    if refused or summary.succeeded != summary.done:
        return f"h2load saw {max(refused, summary.done - summary.succeeded)} replies that were not HTTP 200"
    if cancelled > callers:
        return f"{cancelled} calls were cancelled, {callers} callers explain no more than as many"
    if not summary.done or not summary.done <= accepted <= summary.done + callers:
        return f"h2load counted {summary.done} replies, the server {accepted} answers of status OK"
    return None

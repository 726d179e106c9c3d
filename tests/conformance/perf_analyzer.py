"""NVIDIA's perf_analyzer against our server: every way of it completes, with the server's own figures shown.

``python -m tests.conformance.perf_analyzer PROGRAM`` prints its tables; ``make perf-analyzer`` fetches the program.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.against import our_server

WAYS = {
    "sync": ("--sync",),
    "async": ("--async",),
    "streaming": ("--async", "--streaming"),
    "system shared memory": ("--sync", "--shared-memory", "system", "--output-shared-memory-size", "4096"),
    "streaming and system shared memory": (
        *("--async", "--streaming"),
        *("--shared-memory", "system", "--output-shared-memory-size", "4096"),
    ),
}
CONCURRENCY = (1, 8)
MODEL = "classifier"
WINDOW_MILLISECONDS = 1000
UNSTABLE = "500"
"""Per cent that windows may differ by: that it completes is what counts here, also on a machine that does other work."""
SERVER_ROWS = ("Server:", "Inference count:", "Execution count:", "Successful request count:", "Avg request latency:")
"""perf_analyzer prints them where the server names the extension `statistics` and its counts grow."""


def run(program: Path, address: str, *options: str) -> str:
    """Run it and return what it printed.

    Raises:
        SystemExit: it failed, skipped a concurrency, counted a failure, or showed no figures of the server.
    """
    first, last = CONCURRENCY
    command: list[str] = [
        str(program),
        "-m",
        MODEL,
        "-i",
        "grpc",
        "-u",
        address,
        "--concurrency-range",
        f"{first}:{last}",
        *options,
    ]
    windows = ["--measurement-interval", str(WINDOW_MILLISECONDS), "--stability-percentage", UNSTABLE]
    done = subprocess.run([*command, *windows], capture_output=True, text=True, check=False, timeout=300)
    levels = [int(each) for each in re.findall(r"^Concurrency: (\d+), throughput", done.stdout, re.MULTILINE)]
    missing = [row for row in SERVER_ROWS if row not in done.stdout]
    failed = re.findall(r"Failed request count: [1-9].*", done.stdout)
    if done.returncode or levels != list(range(first, last + 1)) or missing or failed:
        raise SystemExit(
            f"{' '.join(command)}: exit code {done.returncode}, concurrency {levels}, "
            f"missing {missing}, {failed}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def main(program: Path) -> None:
    """Run every way, and show for each its last table and its summary."""
    with tempfile.TemporaryDirectory() as directory, our_server(Path(directory)) as started:
        for way, options in WAYS.items():
            printed = run(program, started.address, *options)
            last = printed[printed.index(f"Request concurrency: {CONCURRENCY[1]}") :]
            print(f"== {way}: perf_analyzer -m {MODEL} -i grpc {' '.join(options)}\n{last.strip()}\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

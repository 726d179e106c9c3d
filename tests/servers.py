"""A real netweight server for tests: its own process, on free ports."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

READY = re.compile(r"netweight ready grpc=(\S+) metrics=(\S+) models=(\d+)/(\d+) seconds=(\S+)")


@dataclass(frozen=True)
class RunningServer:
    """A started server."""

    process: subprocess.Popen[str]
    address: str
    metrics_url: str
    models_ready: int
    models: int
    ready_seconds: float
    stderr: Path

    def log(self) -> str:
        """Return what it has written to standard error."""
        return self.stderr.read_text(encoding="utf-8")

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample's value now; 0 where there is none."""
        with urllib.request.urlopen(self.metrics_url) as answer:  # noqa: S310  our own server, by http
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        return next((each.value for each in samples if each.name == name and labels.items() <= each.labels.items()), 0)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_seconds: float = 30) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(timeout_seconds)


@contextmanager
def running_server(repository: Path, directory: Path, *options: str) -> Iterator[RunningServer]:
    """Start ``netweight serve`` and wait for its ready line; afterwards stop it and see that it ends in order."""
    stderr = directory / "server.log"
    command = [sys.executable, "-m", "netweight", "serve", "--repository", str(repository)]
    with stderr.open("w") as log:
        process = subprocess.Popen(
            [*command, "--grpc-port", "0", "--metrics-port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        found = READY.match(process.stdout.readline())
        assert found, f"the server did not start:\n{stderr.read_text()}"
        address, metrics_url, ready, models, seconds = found.groups()
        yield RunningServer(process, address, metrics_url, int(ready), int(models), float(seconds), stderr)
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0, stderr.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()

"""A real Prometheus for tests: its own process on a free port, with our rules and our console pages."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.dashboards.promql import filled

ROOT = Path(__file__).parent.parent
SCRAPE_SECONDS = 1


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    started: float

    def get(self, path: str, **query: str) -> str:
        """Return what it answers on a GET, whatever the status."""
        asked = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310  our own, by http
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of a range query since Prometheus started, a point for each scrape.

        Raises:
            ValueError: it does not accept the expression; the message says why.
        """
        asked = filled(expression, f"{4 * SCRAPE_SECONDS}s", "5m")
        query = {"query": asked, "start": str(self.started), "end": str(time.time()), "step": str(SCRAPE_SECONDS)}
        answer = json.loads(self.get("/api/v1/query_range", **query))
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        found = answer["data"]["result"]
        assert isinstance(found, list)
        return found

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression has a series: Prometheus takes some seconds to begin with a target."""
        until = time.monotonic() + seconds
        while not json.loads(self.get("/api/v1/query", query=expression))["data"]["result"]:
            assert time.monotonic() < until, f"nothing came for {expression}"
            time.sleep(0.1)


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running_prometheus(directory: Path, jobs: dict[str, dict[str, Any]]) -> Iterator[Prometheus]:
    """Start Prometheus with a scrape configuration for each job, wait until it is ready, and end it afterwards."""
    if not shutil.which("prometheus"):
        pytest.skip("no prometheus here (Debian: apt-get install prometheus)")
    often = f"{SCRAPE_SECONDS}s"
    settings = {
        "global": {"scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often},
        "rule_files": [str(ROOT / "deploy/alerts.yml")],
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
    (directory / "prometheus.yml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={directory / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", f"--web.console.templates={ROOT / 'deploy/consoles'}"]
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory)
    try:
        made = Prometheus(f"http://{address}", time.time())
        for _ in range(200):
            try:
                if "Ready" in made.get("/-/ready"):
                    break
            except urllib.error.URLError:
                assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        else:
            pytest.fail(log.read_text(encoding="utf-8"))
        yield made
    finally:
        process.terminate()
        process.wait(20)

"""The real server as a process: started, waited for, stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Self

from compare.process import NETWEIGHT, start
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

READY = re.compile(r"netweight ready grpc=(?P<grpc>\S+) metrics=(?P<metrics>\S+) models=(?P<models>\S+)")
STDERR_LINES = 20


class ServerProcess:
    """``netweight serve`` on free ports, as a context manager; in it `address` and `metrics_url` are known.

    Leaving it sends SIGTERM and expects exit code 0. When the server dies, the end of its stderr is printed on ours and
    `NetweightError` tells how it ended.
    """

    def __init__(
        self,
        repository: Path,
        *,
        models: Sequence[str] = (),
        provider: str = "auto",
        command: Sequence[str] = NETWEIGHT,
        options: Sequence[str] = (),
        start_timeout_seconds: float = 120.0,
        stop_timeout_seconds: float = 30.0,
    ) -> None:
        """Store what to start.

        `models` are all that it serves (none: every model), `command` is how to call netweight, `options` are further
        ones of ``netweight serve``.
        """
        ports = ("--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0")
        chosen = [word for model in models for word in ("--model", model)]
        self.command = [*command, "serve", "--repository", str(repository), *ports, "--provider", provider, *chosen]
        self.command += options
        self.start_timeout_seconds = start_timeout_seconds
        self.stop_timeout_seconds = stop_timeout_seconds
        self.address = ""
        self.metrics_url = ""
        self.models = ""
        """Models that are ready, of all: ``3/3``."""
        self.started = 0.0
        """When the process was started, by `time.monotonic`."""
        self.ready_seconds = 0.0
        """From starting the process to its ready line."""

    def __enter__(self) -> Self:
        """Start the server and wait until it is ready."""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # closed when the server has ended
        self.started = time.monotonic()
        self._process = start(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,  # Ctrl-C reaches us alone; we then stop the server in order
        )
        try:
            ready = self._wait_until_ready()
        except BaseException:
            self._stop()
            self._stderr.close()
            raise
        self.address, self.metrics_url, self.models = ready["grpc"], ready["metrics"], ready["models"]
        self.ready_seconds = time.monotonic() - self.started
        return self

    @property
    def pid(self) -> int:
        """The server's process; with front ends its children are theirs."""
        return self._process.pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server; raise if it did not end well, unless that would hide an interrupt."""
        died = self._process.poll() is not None
        code = self._stop()
        with self._stderr:
            if code == 0 and not died:
                return
            how = "died" if died else "did not stop in order"
            failure = NetweightError(f"the server {how}, exit code {code}: {self._show_stderr()}")
        if error is None or (died and isinstance(error, Exception)):
            raise failure from error

    def _wait_until_ready(self) -> re.Match[str]:
        lines: SimpleQueue[re.Match[str] | None] = SimpleQueue()
        threading.Thread(target=self._read_stdout, args=(lines,), daemon=True).start()
        try:
            ready = lines.get(timeout=self.start_timeout_seconds)
        except Empty:
            raise NetweightError(
                f"the server was not ready within {self.start_timeout_seconds:g} seconds; it said: {self._show_stderr()}"
            ) from None
        if ready is None:
            code = self._process.wait(self.stop_timeout_seconds)
            said = self._show_stderr()
            raise NetweightError(f"the server ended with exit code {code} before it was ready: {said}")
        return ready

    def _read_stdout(self, lines: SimpleQueue[re.Match[str] | None]) -> None:
        """Hand over the ready line, then read on so that the server never waits for a full pipe."""
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                if ready := READY.search(line.decode(errors="replace")):
                    lines.put(ready)
        lines.put(None)

    def _stop(self) -> int:
        """Send SIGTERM if the server still runs, and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(self.stop_timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _show_stderr(self) -> str:
        """Print the last lines that the server wrote to stderr, and return the very last."""
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        for line in said[:-1]:
            print(f"  server: {line}", file=sys.stderr)
        return said[-1] if said else "it said nothing on stderr"

"""The server as a process: started, stopped, and what is said when it ends otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import Client
from tests.published import publish

READY = (
    "print('netweight ready grpc=127.0.0.1:1 metrics=http://127.0.0.1:2/metrics models=1/1 seconds=0.1', flush=True)"
)


def fake(tmp_path: Path, code: str, **options: float) -> ServerProcess:
    """Return a server process that runs some Python instead of netweight."""
    return ServerProcess(tmp_path, command=(sys.executable, "-c", code), **options)  # type: ignore[arg-type]


def test_real_server(tmp_path: Path) -> None:
    """The real server is up inside the block, serves the models that were named, and has ended after it."""
    publish(tmp_path, "tiny")
    publish(tmp_path, "other")
    with ServerProcess(tmp_path, models=["tiny"]) as server:
        assert server.models == "1/1"
        assert server.metrics_url.startswith("http://127.0.0.1:")
        assert server.ready_seconds > 0
        with Client(server.address) as client:
            assert client.ready("tiny")
        process = psutil.Process(server._process.pid)
    assert not process.is_running()
    assert server._process.returncode == 0


def test_server_that_cannot_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that ends before it is ready: the error has its exit code and last line, our stderr the lines before."""
    code = "import sys; sys.exit('first line\\nno repository there')"
    with (
        pytest.raises(NetweightError, match=r"ended with exit code 1 before it was ready: no repository there$"),
        fake(tmp_path, code),
    ):
        pass
    assert capfd.readouterr().err == "  server: first line\n"


def test_server_that_never_is_ready(tmp_path: Path) -> None:
    """A server that is not ready in time is stopped."""
    server = fake(tmp_path, "import time; time.sleep(60)", start_timeout_seconds=0.5)
    with pytest.raises(NetweightError, match=r"not ready within 0.5 seconds"), server:
        pass
    assert server._process.returncode == -signal.SIGTERM


def test_server_that_dies(tmp_path: Path) -> None:
    """A server that dies while it is used: that is the error, with what failed because of it as its cause."""
    server = fake(tmp_path, f"import sys; {READY}; sys.exit('out of memory')")

    def use() -> None:
        with server:
            server._process.wait(10)
            raise ConnectionError

    with pytest.raises(NetweightError, match="the server died, exit code 1: out of memory") as failure:
        use()
    assert isinstance(failure.value.__cause__, ConnectionError)


def test_server_that_does_not_drain(tmp_path: Path) -> None:
    """A server that ends by the signal instead of draining, or ignores it, is an error."""
    with (
        pytest.raises(NetweightError, match="did not stop in order, exit code -15"),
        fake(tmp_path, f"import time; {READY}; time.sleep(60)"),
    ):
        pass
    stubborn = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; time.sleep(60)"
    with (
        pytest.raises(NetweightError, match="did not stop in order, exit code -9"),
        fake(tmp_path, stubborn, stop_timeout_seconds=0.3),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_killed_caller_leaves_no_server(tmp_path: Path) -> None:
    """When the caller is killed by SIGKILL, its server ends too."""
    code = (
        "import sys, time; from compare.process import start;"
        "print(start([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        child = psutil.Process(int(caller.stdout.readline()))
        time.sleep(0.3)  # the child has asked the kernel by then
        os.kill(caller.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert (gone, alive) == ([child], []) or child.status() == psutil.STATUS_ZOMBIE

"""What surrounds a measurement, with and without a server that was running before."""

from __future__ import annotations

from pathlib import Path

import pytest

from compare.place import Places
from compare.server_process import ServerProcess
from compare.surroundings import Surroundings, is_here, threads
from tests.published import publish


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:8001", True),
        ("[::1]:8001", True),
        ("localhost:8001", True),
        ("10.0.0.7:8001", False),
        ("gpu:1", False),
    ],
)
def test_where_a_server_is(address: str, here: bool) -> None:
    """Loopback addresses are this machine's; of a name nothing is guessed."""
    assert is_here(address) == here


def test_threads_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is told with its name; without it the server chooses; of a running server nothing is known."""
    monkeypatch.setenv("NETWEIGHT_THREADS", "3")
    assert threads(None) == "3, by NETWEIGHT_THREADS"
    assert threads("127.0.0.1:8001").startswith("not known")
    monkeypatch.setenv("NETWEIGHT_THREADS", "0")
    assert threads(None).startswith("chosen by the server")


def test_a_running_server_is_not_somebody_else(tmp_path: Path) -> None:
    """Its CPU time, told by its metrics page, is taken off what others did; without the page nothing is claimed."""
    publish(tmp_path, "tiny")
    with ServerProcess(tmp_path) as server:
        surroundings = Surroundings(Places(tmp_path, server.address, server.metrics_url))
        assert surroundings.environment["server_threads"].startswith("not known")
        assert surroundings.environment["cores"]
        busy = surroundings.busy()
        assert busy is not None
        assert busy.other_cores >= 0
        assert Surroundings(Places(tmp_path, server.address)).busy() is None
    assert Surroundings(Places(tmp_path)).busy() is not None

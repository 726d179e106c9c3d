"""The caller's own ceiling, against a server that answers at once."""

from __future__ import annotations

import time

import psutil
import pytest

from compare import caller
from compare.caller import ceilings, instant_server, request_of
from compare.load import Window, one_at_a_time
from models.spec import NetweightError


def test_ceilings() -> None:
    """One for each request size, in their order; the server is a process of its own and ends with the measurement."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    small, large = ceilings([100, 1_000_000], callers=8, seconds=0.2)
    assert (small.request_bytes, large.request_bytes) == (100, 1_000_000)
    for each in (small, large):
        assert 0 < each.latency_p50_seconds < 0.5
        assert each.requests_per_second > 10
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


def test_it_outlives_nobody() -> None:
    """The server answers while it is used, and is gone when an error ends its use."""
    addresses = []

    def use() -> None:
        with instant_server() as address:
            addresses.append(address)
            assert one_at_a_time(address, [request_of(100)], Window(0.0, 1, 5.0), warm_up_seconds=0).count == 1
            raise KeyError

    with pytest.raises(KeyError):
        use()
    time.sleep(0.05)
    assert one_at_a_time(addresses[0], [request_of(100)], Window(0.05), warm_up_seconds=0).count == 0


def test_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends at once is an error that says how it ended, not an endless wait."""
    monkeypatch.setattr(caller, "COMMAND", ("sh", "-c", "exit 3"))
    with pytest.raises(NetweightError, match="ended with exit code 3"), instant_server():
        pass

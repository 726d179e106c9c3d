"""How hard the fuzz tests try, and the servers that they try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz import requests
from tests.fuzz.target import Target, restore
from tests.servers import running_server

_BOTH = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.register_profile("fixed", _BOTH, derandomize=True, database=None, max_examples=100)
settings.register_profile("random", _BOTH, max_examples=3000)
settings.load_profile("fixed")

WAYS = {"direct": (), "ordinary": ("--way", "ordinary"), "frontends": ("--frontends", "2")}
"""The ways that ModelInfer takes through the server."""


@pytest.fixture(scope="package", params=WAYS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A real server for each way, with a model of each kind."""
    directory = tmp_path_factory.mktemp("fuzz")
    repository = directory / "models"
    requests.publish(repository)
    with region(), running_server(repository, directory, "--shared-memory", *WAYS[request.param]) as server:
        assert server.models_ready == server.models == len(list(repository.iterdir()))
        with Target(server) as found:
            restore(found)
            yield found


@contextmanager
def region() -> Iterator[None]:
    """Make the shared memory that requests name."""
    path = Path("/dev/shm", requests.REGION)  # noqa: S108  where Linux keeps what shm_open opens
    path.write_bytes(bytes(requests.REGION_BYTES))
    try:
        yield
    finally:
        path.unlink()

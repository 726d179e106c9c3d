"""The server that the suite is held against: one of ours, or any that runs already (``--server HOST:PORT``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from tests import graphs
from tests.conformance.against import MODELS, our_server
from tests.conformance.case import Case
from tests.conformance.table.regions import Regions
from tests.servers import running_server

OURS = "ours: only netweight promises this, so that it is not asked of another server"
EXTENSION = "extension(name): needs this extension of the protocol; another server may lack it"


@dataclass(frozen=True)
class Target:
    """A server with the suite's models."""

    address: str
    ours: bool
    extensions: frozenset[str]
    repository: Path | None
    """Where its models lie, if that is known."""

    def require(self, extension: str, *, ours: bool) -> None:
        """Skip the test where another server does not promise what it asks; ours promises all."""
        if self.ours:
            return
        if ours:
            pytest.skip("only netweight promises this")
        if extension and extension not in self.extensions:
            pytest.skip(f"{self.address} does not name the extension {extension}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take another server."""
    group = parser.getgroup("conformance")
    group.addoption("--server", default="", metavar="HOST:PORT", help="hold this running server against the suite")
    group.addoption("--repository", default="", metavar="DIR", help="where that server's models lie")
    group.addoption("--serve-options", default="", metavar="WORDS", help="more for our server: '--frontends 2'")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks."""
    config.addinivalue_line("markers", OURS)
    config.addinivalue_line("markers", EXTENSION)


def marked(case: Case, *more: Any) -> Any:
    """Return a case, and what else a test takes with it, as a parameter that carries its marks."""
    marks = [pytest.mark.ours] if case.ours else []
    marks += [pytest.mark.extension(case.extension)] if case.extension else []
    return pytest.param(case, *more, marks=marks, id="-".join([case.name, *(str(each) for each in more)]))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server: every extension on, all models loaded but the broken one."""
    given = request.config.getoption("--server", default="")
    if given:
        directory = request.config.getoption("--repository", default="")
        yield Target(
            given, ours=False, extensions=_extensions(given), repository=Path(directory) if directory else None
        )
        return
    options = request.config.getoption("--serve-options", default="").split()
    with our_server(directory := tmp_path_factory.mktemp("conformance"), *options) as started:
        extensions = _extensions(started.address)
        yield Target(started.address, ours=True, extensions=extensions, repository=directory / MODELS)


@pytest.fixture(scope="session")
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One of our servers as it starts with no option, with one good model and one broken."""
    if request.config.getoption("--server", default=""):
        pytest.skip("what a server does by default is ours to say")
    models = tmp_path_factory.mktemp("plain")
    graphs.scale(models)
    broken = graphs.scale(models, "broken")
    broken.write_bytes(broken.read_bytes()[:40])
    options = request.config.getoption("--serve-options", default="").split()
    with running_server(models, tmp_path_factory.mktemp("plain_server"), *options) as started:
        yield Target(started.address, ours=True, extensions=_extensions(started.address), repository=models)


@pytest.fixture(scope="session", autouse=True)
def regions() -> Iterator[None]:
    """The shared memory that the cases register; a server elsewhere cannot see it, and fails those."""
    made = Regions()
    yield
    made.close()


@pytest.fixture
def client(target: Target) -> Iterator[Any]:
    """NVIDIA's client, unchanged."""
    with triton.InferenceServerClient(target.address) as connected:
        yield connected


def _extensions(address: str) -> frozenset[str]:
    with triton.InferenceServerClient(address) as connected:
        return frozenset(connected.get_server_metadata().extensions)

"""Which versions are served: loads, swaps, failures, unloads, and what comes between them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from server import loading, served
from server.config import Settings
from server.control import Control
from server.cuda import GATE
from server.decoders import Decoders, Decoding
from server.errors import ClosedError, InvalidArgumentError, ModelLoadError, NotFoundError, UnavailableError
from server.infer_call import InferCall
from server.log_settings import LogSettings
from server.metrics import Metrics
from server.model import Model
from server.overrides import Overrides
from server.providers import CUDA
from server.repository import Repository, VersionStatus
from server.service import InferenceService
from server.session import Session
from server.source import Source
from server.wire import InferRequest
from tests import graphs
from tests.test_loading import Caller

AS_IT_LIES = Overrides("", {})


@dataclass
class Parts:
    """A repository on disk, and what serves it."""

    directory: Path
    metrics: Metrics
    repository: Repository
    control: Control
    changes: list[VersionStatus] = field(default_factory=list)

    def load(self, name: str = "scale") -> Model:
        """Load as a call does; return the version that serves."""
        self.control.load(name, AS_IT_LIES)
        return self.repository.get(name)

    def states(self, name: str = "scale") -> dict[str, str]:
        return {version: status.state for version, status in self.repository.versions(name).items()}

    def settled(self, name: str = "scale") -> dict[str, str]:
        """Return the states once everything that drains has drained."""
        for drain in list(self.control._served._drains):
            drain.join()
        return self.states(name)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"netweight_{name}", labels)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    """Build what serves the repository in tmp_path; started, and afterwards closed."""
    built: list[Parts] = []

    def make(control: str = "explicit", **settings: Any) -> Parts:
        metrics = Metrics(CollectorRegistry())
        changes: list[VersionStatus] = []
        repository = Repository(metrics, changes.append)
        given = Settings(repository=tmp_path, provider="cpu", model_control=control, **settings)  # type: ignore[arg-type]
        parts = Parts(tmp_path, metrics, repository, Control(given, metrics, repository), changes)
        built.append(parts)
        parts.control.scan()
        parts.control.load_all()
        return parts

    yield make
    for each in built:
        each.control.close()


@pytest.fixture
def parts(tmp_path: Path, build: Callable[..., Parts]) -> Parts:
    """Version 1 of a model, which nobody has asked for yet."""
    graphs.scale(tmp_path)
    return build()


class SlowLoads:
    """Has every load wait, until it is let go on."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.together = 0
        self.most_together = 0
        self.models: list[Model] = []

    def __call__(self, *arguments: Any, **named: Any) -> Model:
        self.together += 1
        self.most_together = max(self.together, self.most_together)
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        self.together -= 1
        self.models.append(loading.load(*arguments, **named))
        return self.models[-1]


@pytest.fixture
def slow_loads(monkeypatch: pytest.MonkeyPatch) -> SlowLoads:
    """Loads that wait."""
    made = SlowLoads()
    monkeypatch.setattr(served, "load", made)
    return made


def closed(model: Model) -> bool:
    """Whether a model takes no more requests, and has given its graph back."""
    with pytest.raises(ClosedError):
        model.submit(InferRequest("scale", "", "", {"x": np.ones((1, 4), np.float32)}, (), 0.0), Caller())
    return not hasattr(model, "session")


def begin(pool: ThreadPoolExecutor, parts: Parts, slow_loads: SlowLoads) -> Future[Model]:
    """Begin to load, up to where it waits."""
    call = pool.submit(parts.load)
    assert slow_loads.begun.acquire(timeout=20)
    return call


def test_what_has_not_changed_is_not_loaded_again(parts: Parts) -> None:
    """A Load of what is served as it lies there does nothing; one of a changed file has another model serve."""
    first = parts.load()
    assert parts.load() is first
    graphs.scale(parts.directory, factor=3)
    second = parts.load()
    assert second is not first
    assert parts.settled() == {"1": "READY"}
    assert closed(first)
    assert [each.state for each in parts.changes] == ["LOADING", "READY", "READY"]
    assert parts.sample("model_loads_total", outcome="ready") == 2


def test_a_version_takes_anothers_place(parts: Parts) -> None:
    """The newest is READY before the one whose place it takes is drained; then that one is told as unloaded."""
    first = parts.load()
    graphs.scale(parts.directory, version=2)
    second = parts.load()
    assert second.version == "2"
    assert parts.settled() == {"1": "UNAVAILABLE", "2": "READY"}
    assert closed(first)
    states = [(each.version, each.state) for each in parts.changes[2:]]
    assert states == [("2", "LOADING"), ("2", "READY"), ("1", "UNLOADING"), ("1", "UNAVAILABLE")]
    with pytest.raises(UnavailableError, match="version 1 is UNAVAILABLE: unloaded"):
        parts.repository.get("scale", "1")
    assert parts.repository.ready()


def test_back_to_an_older_version(parts: Parts) -> None:
    """When the newest version has gone, or the policy names another, that one serves first, and then it alone."""
    graphs.scale(parts.directory, version=2)
    assert parts.load().version == "2"
    shutil.rmtree(parts.directory / "scale" / "2")
    assert parts.load().version == "1"
    graphs.scale(parts.directory, version=2)
    config = parts.directory / "scale" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: 1 } }")
    held = parts.load()
    assert held.version == "1"
    config.write_text("version_policy { all { } }")
    assert parts.load().version == "2"
    assert parts.repository.get("scale", "1") is held
    assert parts.settled() == {"1": "READY", "2": "READY"}


def test_a_failed_reload_keeps_what_is_served(parts: Parts) -> None:
    """A version that cannot be loaded, a broken configuration: the old one serves, the reason is told, then goes."""
    model = parts.load()
    path = parts.directory / "scale" / "1" / "model.onnx"
    whole = path.read_bytes()
    config = parts.directory / "scale" / "config.pbtxt"
    for broken, text, reason in (
        (path, "half", "model.onnx"),
        (config, "max_batch_size: x", "config.pbtxt cannot be read"),
        (config, "version_policy { specific { versions: 7 } }", "names version 7"),
    ):
        broken.write_text(text)
        with pytest.raises(InvalidArgumentError, match=f"model scale cannot be loaded: .*{reason}"):
            parts.load()
        status = parts.repository.status("scale")
        assert status.state == "READY"
        assert status.reason.startswith("not replaced: ")
        assert reason in status.reason
        assert parts.repository.get("scale") is model
    path.write_bytes(whole)
    config.unlink()
    assert parts.load() is not model
    assert parts.repository.status("scale").reason == ""

    graphs.scale(parts.directory, version=2).write_bytes(b"half")
    with pytest.raises(InvalidArgumentError, match=r"model\.onnx"):
        parts.load()
    assert parts.states() == {"1": "READY", "2": "UNAVAILABLE"}
    assert parts.repository.ready()
    assert parts.sample("model_loads_total", outcome="failed") == 2
    shutil.rmtree(parts.directory / "scale" / "2")
    parts.load()
    assert parts.states() == {"1": "READY"}
    assert parts.sample("model_state", model="scale", version="2", state="UNAVAILABLE") is None


def test_files_that_change_while_they_are_loaded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded of files that somebody writes is not served."""
    loaded: list[Model] = []

    def load(*arguments: Any, **named: Any) -> Model:
        loaded.append(loading.load(*arguments, **named))
        (parts.directory / "scale" / "1" / "model.onnx.data").write_bytes(b"more")
        return loaded[-1]

    monkeypatch.setattr(served, "load", load)
    with pytest.raises(InvalidArgumentError, match="its files changed while they were loaded"):
        parts.load()
    assert parts.states() == {"1": "UNAVAILABLE"}
    assert closed(loaded[0])


def test_a_directory_that_cannot_be_read(tmp_path: Path, build: Callable[..., Parts]) -> None:
    """What is served of it stays."""
    graphs.scale(tmp_path)
    parts = build("poll")

    def refused(_: Source) -> list[int]:
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Source, "versions", refused)
        with pytest.raises(PermissionError):
            parts.control.follow("scale")
        source = Source(tmp_path / "scale")
        with pytest.raises(ModelLoadError, match="its directory cannot be read: Permission denied"):
            source.chosen()
        with pytest.raises(ModelLoadError, match="its files cannot be read: Permission denied"):
            source.mark("1", source.configuration())
        assert source.newest() == "0"
    assert parts.settled() == {"1": "READY"}


def test_a_graph_that_is_captured_is_not_disturbed(parts: Parts) -> None:
    """What lies on a GPU is not freed while a CUDA graph is captured."""
    model = parts.load()
    parts.control.unload("scale")
    parts.settled()
    model.session = Session(object(), (), (), CUDA, fell_back=False)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        with GATE.alone():
            freed = pool.submit(model.release)
            with pytest.raises(TimeoutError):
                freed.result(0.1)
            assert hasattr(model, "session")
        freed.result(20)
    assert not hasattr(model, "session")


def test_an_unexpected_failure_is_told_without_details(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a load raises is a reason; the trace is in the log."""

    def load(*_: Any, **__: Any) -> Model:
        raise RuntimeError("secret")

    monkeypatch.setattr(served, "load", load)
    with pytest.raises(InvalidArgumentError, match="loading failed: RuntimeError"):
        parts.load()


def test_unload(parts: Parts) -> None:
    """An unloaded model is UNAVAILABLE and not needed; its gauges go, its counters stay, and go on when it is back."""
    model = parts.load()
    model.statistics.failed("UNAVAILABLE", 1.0)
    labels = {"model": "scale", "version": "1"}
    gauges = ("model_file_bytes", "model_load_seconds", "model_resident_bytes", "pending_requests")
    assert all(parts.sample(name, **labels) is not None for name in gauges)
    parts.control.unload("scale")
    assert parts.settled() == {"1": "UNAVAILABLE"}
    assert closed(model)
    assert parts.repository.ready()
    assert [parts.sample(name, **labels) for name in gauges] == [None] * 4
    assert parts.sample("model_provider_info", **labels, provider="CPUExecutionProvider") is None
    assert parts.sample("model_state", **labels, state="UNAVAILABLE") == 1
    assert parts.sample("requests_total", **labels, code="UNAVAILABLE") == 1
    parts.control.unload("scale")
    parts.control.unload("nosuch")
    parts.load().statistics.failed("UNAVAILABLE", 1.0)
    assert parts.sample("model_state", **labels, state="READY") == 1
    assert parts.sample("requests_total", **labels, code="UNAVAILABLE") == 2


def test_unloaded_versions_are_forgotten_some_day(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many unloaded versions are told, the last ones; figures of the others go."""
    monkeypatch.setattr(served, "MOST_UNLOADED", 2)
    for version in range(1, 7):
        graphs.scale(parts.directory, version=version)
        parts.load()
        parts.settled()
    assert parts.states() == {"4": "UNAVAILABLE", "5": "UNAVAILABLE", "6": "READY"}
    assert {version for _, version in parts.metrics.statistics} == {"4", "5", "6"}
    assert parts.sample("model_state", model="scale", version="3", state="UNAVAILABLE") is None
    with pytest.raises(NotFoundError, match="has no version 3"):
        parts.repository.get("scale", "3")


def test_loads_of_one_model_go_one_after_the_other(parts: Parts, slow_loads: SlowLoads) -> None:
    """Of many Load calls at once one loads; the others find it done."""
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(parts.load) for _ in range(8)]
        assert slow_loads.begun.acquire(timeout=20)
        slow_loads.go_on.release()
        assert len({call.result(20) for call in calls}) == 1
    assert slow_loads.most_together == 1
    assert len(slow_loads.models) == 1


def test_loads_of_two_models_go_side_by_side(parts: Parts, slow_loads: SlowLoads) -> None:
    """A model's load does not wait for another's."""
    graphs.scale(parts.directory, "other")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(parts.load, name) for name in ("scale", "other")]
        for _ in calls:
            assert slow_loads.begun.acquire(timeout=20)
        slow_loads.go_on.release(2)
        assert {call.result(20).name for call in calls} == {"scale", "other"}
    assert slow_loads.most_together == 2


def test_an_unload_makes_a_load_vain(parts: Parts, slow_loads: SlowLoads) -> None:
    """What is loaded when an Unload comes is not served, nor what waits behind it; a Load after it is."""
    with ThreadPoolExecutor(3) as pool:
        call = begin(pool, parts, slow_loads)
        behind = pool.submit(parts.load)
        while parts.control._served._turns._turns["scale"].unloads == 0:
            parts.control.unload("scale")
        assert parts.states() == {}
        after = pool.submit(parts.load)
        slow_loads.go_on.release(3)
        with pytest.raises(UnavailableError, match="was unloaded before it was loaded"):
            call.result(20)
        served_after = after.result(20)
        assert behind.exception(20) is None or isinstance(behind.exception(), UnavailableError)
    assert closed(slow_loads.models[0])
    assert parts.repository.get("scale") is served_after
    assert parts.settled() == {"1": "READY"}


def test_an_unload_while_a_reload_is_under_way(parts: Parts, slow_loads: SlowLoads) -> None:
    """The served version is drained at once, and the one that is being loaded is not served."""
    slow_loads.go_on.release()
    first = parts.load()
    assert slow_loads.begun.acquire(timeout=20)
    graphs.scale(parts.directory, factor=3)
    with ThreadPoolExecutor(1) as pool:
        call = begin(pool, parts, slow_loads)
        assert parts.repository.get("scale") is first
        assert parts.repository.ready()
        parts.control.unload("scale")
        assert parts.settled() == {"1": "UNAVAILABLE"}
        assert closed(first)
        slow_loads.go_on.release()
        with pytest.raises(UnavailableError):
            call.result(20)
    assert parts.states() == {"1": "UNAVAILABLE"}
    assert closed(slow_loads.models[-1])


def test_the_end_of_the_server_while_something_is_loaded(parts: Parts, slow_loads: SlowLoads) -> None:
    """The server does not wait for loads, serves nothing of them, and begins no other."""
    with ThreadPoolExecutor(1) as pool:
        call = begin(pool, parts, slow_loads)
        parts.control.close()
        slow_loads.go_on.release()
        with pytest.raises(UnavailableError, match="the server stops"):
            call.result(20)
    assert closed(slow_loads.models[0])
    with pytest.raises(UnavailableError, match="the server stops"):
        parts.load()
    assert parts.repository.ready_versions("scale") == []


def test_what_the_start_loads(tmp_path: Path, build: Callable[..., Parts]) -> None:
    """In explicit mode only the named models are loaded at the start; the index tells the others too."""
    for name in ("a", "b"):
        graphs.scale(tmp_path, name)
    nothing = build()
    assert [(each.name, each.version, each.state, each.reason) for each in nothing.control.index()] == [
        ("a", "", "UNAVAILABLE", "not loaded"),
        ("b", "", "UNAVAILABLE", "not loaded"),
    ]
    assert nothing.repository.ready()
    named = build(models=("b",))
    assert [(each.name, each.state) for each in named.control.index()] == [("b", "READY"), ("a", "UNAVAILABLE")]
    assert named.load("a").name == "a"
    for mode in ("none", "poll"):
        assert [each.name for each in build(mode).control.index()] == ["a", "b"]
        assert [each.name for each in build(mode, models=("b",)).control.index()] == ["b"]


def test_what_the_server_needs_to_be_ready(tmp_path: Path, build: Callable[..., Parts]) -> None:
    """A model that the start or the files want and that cannot be served counts; a failed Load of another does not."""
    graphs.scale(tmp_path, "wanted").write_bytes(b"half")
    graphs.scale(tmp_path, "other").write_bytes(b"half")
    parts = build(models=("wanted",))
    for _ in range(2):
        assert not parts.repository.ready()
        with pytest.raises(InvalidArgumentError):
            parts.load("wanted")
    graphs.scale(tmp_path, "wanted")
    parts.load("wanted")
    assert parts.repository.ready()
    with pytest.raises(InvalidArgumentError):
        parts.load("other")
    assert parts.states("other") == {"1": "UNAVAILABLE"}
    assert parts.repository.ready()

    polled = build("poll")
    assert not polled.repository.ready()
    graphs.scale(tmp_path, "other")
    polled.control.follow("other")
    assert polled.repository.ready()
    graphs.scale(tmp_path, "other", version=2).write_bytes(b"half")
    polled.control.follow("other")
    assert polled.states("other") == {"1": "READY", "2": "UNAVAILABLE"}
    assert polled.repository.ready()


def test_following_the_files(tmp_path: Path, build: Callable[..., Parts]) -> None:
    """A model whose versions vanish is unloaded; one whose directory vanishes, too; both may come back."""
    graphs.scale(tmp_path)
    parts = build("poll")
    (tmp_path / "scale" / "1").rename(tmp_path / ".1")
    parts.control.follow("scale")
    assert parts.settled() == {"0": "UNAVAILABLE", "1": "UNAVAILABLE"}
    assert not parts.repository.ready()
    (tmp_path / ".1").rename(tmp_path / "scale" / "1")
    parts.control.follow("scale")
    assert parts.settled() == {"1": "READY"}
    shutil.rmtree(tmp_path / "scale")
    parts.control.follow("scale")
    assert parts.settled() == {"1": "UNAVAILABLE"}
    assert parts.repository.ready()


class Asking:
    """One ModelInfer, with something that happens between the look for its version and its place in the queue."""

    def __init__(self, parts: Parts, between: Callable[[], None], version: str = "") -> None:
        service = InferenceService(
            parts.repository, parts.metrics, LogSettings("error", lambda _: None), control=parts.control
        )
        request = InferRequest("scale", version, "", {"x": np.ones((1, 4), np.float32)}, (), 0.0)

        def read() -> InferRequest:
            between()
            parts.settled()
            return request

        self.answers: list[tuple[grpc.StatusCode, str, Any]] = []
        call = InferCall(service, "scale", version, 0.0, self.encode, lambda *answer: self.answers.append(answer))
        call.begin(read)
        service.flush()

    @staticmethod
    def encode(model: Model, outputs: dict[str, Any]) -> tuple[str, float]:
        return model.version, float(outputs["y"][0, 0])


@pytest.mark.parametrize("config", ["", "instance_group { count: 1 }"])
@pytest.mark.parametrize(("named", "published"), [("", 1), ("1", 1), ("", 2)])
def test_a_swap_between_looking_and_asking(parts: Parts, config: str, named: str, published: int) -> None:
    """A request that has found a version which is drained before it is queued is answered by that one's successor."""
    (parts.directory / "scale" / "config.pbtxt").write_text(f"max_batch_size: 8 {config}")
    first = parts.load()

    def swap() -> None:
        graphs.scale(parts.directory, factor=3, version=published)
        parts.load()

    asking = Asking(parts, swap, named)
    for _ in range(500):  # an instance answers from a thread of its own
        if asking.answers:
            break
        time.sleep(0.01)
    assert asking.answers == [(grpc.StatusCode.OK, "", (str(published), 3.0))]
    assert closed(first)
    assert parts.sample("requests_total", model="scale", version=str(published), code="OK") == 1


def test_an_unload_between_looking_and_asking(parts: Parts) -> None:
    """A request that has found a version which is unloaded before it is queued is refused."""
    parts.load()
    asking = Asking(parts, lambda: parts.control.unload("scale"))
    ((code, details, _),) = asking.answers
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "model scale version 1 is UNAVAILABLE: unloaded")


def test_files_that_come_to_a_model_which_finishes() -> None:
    """A request whose images would be decoded for a model that is being unloaded is sent to its successor."""
    decoders = Decoders(1, 1, 1000)
    model = FinishedModel()
    decoders.finish(model)
    how: Any = None
    decoding = Decoding(model, "model m", {}, (), how, lambda _: None, lambda _: None)
    with pytest.raises(ClosedError, match="model m: it is being unloaded"):
        decoders.submit(decoding)
    assert decoders.unfinished(model) == 0
    decoders.close()


class FinishedModel:
    """Has nothing to run."""

    def flush(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("name", ["", ".", "..", "../scale", "a/b", "/scale", ".hidden", "x" * 300, "a\0"])
def test_names_that_no_model_has(parts: Parts, name: str) -> None:
    """A Load's name is that of a directory below the repository."""
    with pytest.raises(InvalidArgumentError, match="expected the name of a directory"):
        parts.load(name)


def test_a_model_that_is_not_there(parts: Parts) -> None:
    """A Load of what the repository lacks says what it has, and leaves no trace."""
    with pytest.raises(InvalidArgumentError, match="model 'nosuch' is not in the repository; it has scale"):
        parts.load("nosuch")
    assert parts.states("nosuch") == {}


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_calls_decide_in_explicit_mode_only(tmp_path: Path, build: Callable[..., Parts], mode: str) -> None:
    """Elsewhere Load and Unload are UNAVAILABLE."""
    graphs.scale(tmp_path)
    parts = build(mode)
    for call in (parts.load, lambda: parts.control.unload("scale")):
        with pytest.raises(UnavailableError, match=f"--model-control is {mode}; expected explicit"):
            call()
    assert parts.states() == {"1": "READY"}

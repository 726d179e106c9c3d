"""Model control of a real server: versions change under load, models come and go, and memory is given back."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from server.client import Client, ClientError
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.waiting import eventually

X = {"x": np.ones((1, 4), np.float32)}
CALLERS = 6
WEIGHTS, WIDTH = 25, 1000
"""Of the large model: so many matrices of 4 MB."""


@contextmanager
def client(server: RunningServer) -> Iterator[Any]:
    """Connect NVIDIA's client."""
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


def index(control: Any, name: str) -> dict[str, tuple[str, str]]:
    """Return the state and reason of each version of a model."""
    models = control.get_model_repository_index().models
    return {each.version: (each.state, each.reason) for each in models if each.name == name}


def publish(repository: Path, name: str, version: int, factor: float) -> None:
    """Put a version there, or another in its place, complete from the first moment."""
    staged = repository.parent / "staged"
    graphs.scale(staged, name, factor=factor, version=version)
    (repository / name / str(version)).mkdir(parents=True, exist_ok=True)
    (staged / name / str(version) / "model.onnx").rename(repository / name / str(version) / "model.onnx")


@dataclass
class Load:
    """Callers who ask one model all the time, and hold each answer against what may serve at that moment.

    Factors only grow: an answer's is at least that which served when it was asked for, and at most the one published last.
    """

    server: RunningServer
    model: str
    served: float
    """The factor that serves for sure."""
    published: float
    """The largest factor that may serve."""
    factors: dict[float, str]
    """The version of each factor."""
    answers: int = 0
    seen: set[float] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def call(self, caller: int) -> list[str]:
        """Ask until told to stop; return what was wrong."""
        wrong = []
        turn = 0
        with Client(self.server.address) as connected:
            while not self.stop.is_set():
                turn += 1
                x = np.full((1 + turn % 3, 4), caller * 1000 + turn, np.float32)
                least = self.served
                try:
                    answer = connected.infer(self.model, {"x": x})
                except ClientError as error:
                    wrong.append(f"{error.code}: {error}")
                    continue
                factor = float(answer.outputs["y"][0, 0] / x[0, 0])
                if not np.array_equal(answer.outputs["y"], x * np.float32(factor)):
                    wrong.append(f"{factor}: rows are not those of the request")
                if not least <= factor <= self.published:
                    wrong.append(f"factor {factor} where {least} to {self.published} may serve")
                if self.factors.get(factor) != answer.version:
                    wrong.append(f"version {answer.version} answered with factor {factor}")
                self.seen.add(factor)
                self.answers += 1
        return wrong


@contextmanager
def constant_load(server: RunningServer, *models: str) -> Iterator[list[Load]]:
    """Have every model asked by several callers; at the end nothing may have been wrong."""
    loads = [Load(server, model, 1, 1, {1: "1"}) for model in models]
    with ThreadPoolExecutor(CALLERS * len(models)) as pool:
        calls = [pool.submit(load.call, caller) for load in loads for caller in range(CALLERS)]
        try:
            assert eventually(lambda: all(load.answers > 10 for load in loads))
            yield loads
        finally:
            for load in loads:
                load.stop.set()
        assert [wrong for call in calls for wrong in call.result()][:10] == []


def change(repository: Path, load: Load, turn: int) -> int:
    """Publish the next factor, as a new version in every other turn, else in place of the newest; return its version."""
    version = int(load.factors[load.published]) + turn % 2
    factor = load.published + 1
    load.factors[factor] = str(version)
    load.published = factor
    publish(repository, load.model, version, factor)
    if turn % 4 == 1:  # the versions before are no more
        for older in (repository / load.model).iterdir():
            if older.is_dir() and older.name != str(version):
                shutil.rmtree(older)
    return version


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that runs in the thread that reads, and one whose requests always wait a little."""
    made = tmp_path / "repository"
    for name in ("inline", "queued"):
        graphs.scale(made, name, factor=1)
    (made / "queued" / "config.pbtxt").write_text(
        "max_batch_size: 64 instance_group { count: 1 } dynamic_batching { max_queue_delay_microseconds: 3000 }"
    )
    return made


@pytest.mark.parametrize(
    ("options", "changes"), [((), 100), (("--way", "ordinary"), 20), (("--frontends", "2"), 28)], ids=str
)
def test_versions_change_under_load(repository: Path, tmp_path: Path, options: tuple[str, ...], changes: int) -> None:
    """While versions are reloaded and replaced by Load calls, no request fails, and each is answered by one that serves."""
    control_options = ("--model-control", "explicit", "--model", "inline", "--model", "queued")
    with (
        running_server(repository, tmp_path, *control_options, *options) as server,
        client(server) as control,
        constant_load(server, "inline", "queued") as loads,
    ):
        for turn in range(changes):
            load = loads[turn // 2 % 2]
            version = change(repository, load, turn)
            control.load_model(load.model)
            load.served = load.published
            assert control.is_server_ready()
            assert index(control, load.model)[str(version)] == ("READY", "")
            if turn % 2:  # every other version is replaced before it has answered anybody, or not
                assert eventually(lambda load=load: load.published in load.seen)  # type: ignore[misc]
        for load in loads:
            before = load.answers
            assert eventually(lambda load=load, before=before: load.answers > before + 2 * CALLERS)  # type: ignore[misc]
            assert load.published == 1 + changes / 2
            assert len(load.seen) > changes / 4
            assert load.seen >= {1, load.published}
        for load in loads:
            load.stop.set()
            newest = load.factors[load.published]
            assert eventually(lambda load=load: sorted(load_states(control, load)) == ["READY"])  # type: ignore[misc]
            assert server.metric("netweight_model_state", model=load.model, version=newest, state="READY") == 1
    assert "ERROR" not in server.log()


def load_states(control: Any, load: Load) -> list[str]:
    """Return the states of a model's versions, but for those that are unloaded."""
    return [state for state, reason in index(control, load.model).values() if reason != "unloaded"]


@pytest.mark.parametrize("options", [(), ("--frontends", "2")], ids=str)
def test_versions_change_with_the_files(repository: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """The same where the files decide: what is published is served without a call."""
    poll = ("--model-control", "poll", "--poll-seconds", "0.1")
    with (
        running_server(repository, tmp_path, *poll, *options) as server,
        client(server) as control,
        constant_load(server, "inline", "queued") as loads,
    ):
        for turn in range(4):
            for load in loads:
                change(repository, load, turn)
            for load in loads:
                assert eventually(lambda load=load: load.published in load.seen)  # type: ignore[misc]
                load.served = load.published  # seen once: from here on it is the one
        assert control.is_server_ready()
    assert "ERROR" not in server.log()


def test_what_is_half_written_is_not_served(repository: Path, tmp_path: Path) -> None:
    """A broken version is told with its reason while the one before serves; mended, it serves; removed, it is unloaded."""
    poll = ("--model-control", "poll", "--poll-seconds", "0.1")
    with (
        running_server(repository, tmp_path, *poll) as server,
        client(server) as control,
        constant_load(server, "inline") as (load,),
    ):
        directory = repository / "inline"
        whole = (directory / "1" / "model.onnx").read_bytes()
        (directory / "2").mkdir()
        path = directory / "2" / "model.onnx"
        path.write_bytes(whole[: len(whole) // 2])
        assert eventually(lambda: index(control, "inline").get("2", ("", ""))[0] == "UNAVAILABLE")
        assert "model.onnx" in index(control, "inline")["2"][1]
        assert index(control, "inline")["1"] == ("READY", "")
        assert control.is_server_ready()
        assert control.is_model_ready("inline")
        load.published, load.factors[2] = 2, "2"
        graphs.scale(tmp_path / "staged", "inline", factor=2)
        path.write_bytes((tmp_path / "staged" / "inline" / "1" / "model.onnx").read_bytes())
        assert eventually(lambda: 2 in load.seen)
        load.served = 2
        assert eventually(lambda: index(control, "inline")["1"] == ("UNAVAILABLE", "unloaded"))
        load.stop.set()
        shutil.rmtree(directory)
        assert eventually(lambda: index(control, "inline")["2"] == ("UNAVAILABLE", "unloaded"))
        assert control.is_server_ready()
        assert not control.is_model_ready("inline")
        with health_of(server, "inline") as status:
            assert status() == health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def health_of(server: RunningServer, name: str) -> Iterator[Callable[[], int]]:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        yield lambda: int(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)


@pytest.fixture
def explicit(repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server in which nothing is loaded yet."""
    with running_server(repository, tmp_path, "--model-control", "explicit") as started:
        yield started


def test_a_server_without_models_is_ready(explicit: RunningServer) -> None:
    """In explicit mode nothing is loaded at the start, what could be is told, and the server is ready."""
    assert (explicit.models_ready, explicit.models) == (0, 0)
    with client(explicit) as control, health_of(explicit, "") as status:
        assert control.is_server_ready()
        assert status() == health_pb2.HealthCheckResponse.SERVING
        assert index(control, "inline") == index(control, "queued") == {"": ("UNAVAILABLE", "not loaded")}
        assert "model_repository" in control.get_server_metadata().extensions


def test_a_failed_reload_keeps_the_old_version(explicit: RunningServer, repository: Path) -> None:
    """The reason is the call's and the index's; model and server stay ready, and the next good Load clears it."""
    with client(explicit) as control, Client(explicit.address) as asker:
        control.load_model("inline")
        path = repository / "inline" / "1" / "model.onnx"
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        with pytest.raises(InferenceServerException, match=r"model inline cannot be loaded: .*model\.onnx") as caught:
            control.load_model("inline")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        state, reason = index(control, "inline")["1"]
        assert (state, reason[:13]) == ("READY", "not replaced:")
        assert control.is_model_ready("inline")
        assert control.is_server_ready()
        np.testing.assert_array_equal(asker.infer("inline", X).outputs["y"], X["x"])
        path.write_bytes(whole)
        control.load_model("inline")
        assert index(control, "inline")["1"] == ("READY", "")
        assert explicit.metric("netweight_model_loads_total", outcome="failed") == 1


def test_overrides(explicit: RunningServer, repository: Path) -> None:
    """A Load's configuration and files take the place of what lies there, until the next Load; names may be new."""

    def answer(name: str) -> tuple[float, str]:
        with Client(explicit.address) as asker:
            got = asker.infer(name, X)
        return float(got.outputs["y"][0, 0]), got.version

    graphs.scale(repository.parent / "staged", "any", factor=7)
    file = (repository.parent / "staged" / "any" / "1" / "model.onnx").read_bytes()
    small = json.dumps({"max_batch_size": 3})
    with client(explicit) as control:
        control.load_model("inline", config=small)
        assert control.get_model_config("inline").config.max_batch_size == 3
        assert answer("inline") == (1, "1")
        control.load_model("inline", config=small, files={"file:5/model.onnx": file})
        assert answer("inline") == (7, "5")
        control.load_model("inline")
        assert answer("inline") == (1, "1")
        assert control.get_model_config("inline").config.max_batch_size == 32
        control.load_model("brought", config="{}", files={"file:1/model.onnx": file})
        assert answer("brought") == (7, "1")
        with pytest.raises(InferenceServerException, match="expected a path below the model's directory"):
            control.load_model("brought", config="{}", files={"file:../1/model.onnx": file})
        control.unload_model("brought")
        assert eventually(lambda: index(control, "brought")["1"] == ("UNAVAILABLE", "unloaded"))
        assert not (repository / "brought").exists()


def test_a_carried_graph_that_ends_its_process_is_refused(repository: Path, explicit: RunningServer) -> None:
    """ONNX Runtime aborts at it; the server tries it elsewhere, says so, and serves on what it served."""
    file = graphs.aborting(repository.parent / "staged").read_bytes()
    with client(explicit) as control:
        control.load_model("inline")
        for name in ("inline", "brought"):
            with pytest.raises(InferenceServerException, match=r"ends the process that opens it \(SIGABRT\)") as caught:
                control.load_model(name, config="{}", files={"file:1/model.onnx": file})
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        with Client(explicit.address) as asker:
            assert float(asker.infer("inline", X).outputs["y"][0, 0]) == 1
        assert index(control, "brought")["1"][0] == "UNAVAILABLE"


def test_what_calls_may_not_do(repository: Path, tmp_path: Path, explicit: RunningServer) -> None:
    """Outside explicit mode Load and Unload are UNAVAILABLE; another repository is UNIMPLEMENTED everywhere."""
    with client(explicit) as control:
        control.unload_model("nosuch")
        control.unload_model("nosuch", unload_dependents=True)
    (tmp_path / "second").mkdir()
    with running_server(repository, tmp_path / "second") as server, client(server) as control:
        for call in (control.load_model, control.unload_model):
            with pytest.raises(InferenceServerException, match="--model-control is none; expected explicit") as caught:
                call("inline")
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert index(control, "inline") == {"1": ("READY", "")}


@pytest.fixture
def slow_to_load(repository: Path) -> str:
    """A model that takes seconds to load: its first run does."""
    graphs.slow(repository, rounds=2000)
    return "slow"


@pytest.mark.parametrize("options", [(), ("--frontends", "2")], ids=str)
def test_loads_hold_up_nothing_else(
    repository: Path, tmp_path: Path, slow_to_load: str, options: tuple[str, ...]
) -> None:
    """While many Load calls of one model wait for each other, others are answered; an Unload ends them."""
    explicit = ("--model-control", "explicit", "--model", "inline")
    with (
        running_server(repository, tmp_path, *explicit, *options) as server,
        client(server) as control,
        Client(server.address) as asker,
        health_of(server, "") as status,
        ThreadPoolExecutor(40) as pool,
    ):
        loads = [pool.submit(load, server, slow_to_load) for _ in range(40)]
        assert eventually(lambda: index(control, slow_to_load).get("1", ("", ""))[0] == "LOADING")
        assert control.is_server_live()
        assert control.is_server_ready()
        assert status() == health_pb2.HealthCheckResponse.SERVING
        np.testing.assert_array_equal(asker.infer("inline", X).outputs["y"], X["x"])
        assert not any(each.done() for each in loads)
        control.unload_model(slow_to_load)
        assert index(control, slow_to_load) == {"": ("UNAVAILABLE", "not loaded")}
        outcomes = {each.result() for each in loads}
        assert outcomes <= {"OK", "StatusCode.UNAVAILABLE"}
        assert "StatusCode.UNAVAILABLE" in outcomes
        control.unload_model(slow_to_load)
        assert eventually(lambda: "READY" not in [state for state, _ in index(control, slow_to_load).values()])


def load(server: RunningServer, name: str) -> str:
    """Load a model and return the status."""
    with client(server) as control:
        try:
            control.load_model(name)
        except InferenceServerException as error:
            return str(error.status())
        return "OK"


def test_sigterm_during_a_load(explicit: RunningServer, slow_to_load: str) -> None:
    """A server that is told to stop while it loads ends in order."""
    with client(explicit) as control, ThreadPoolExecutor(1) as pool:
        call = pool.submit(load, explicit, slow_to_load)
        assert eventually(lambda: index(control, slow_to_load).get("1", ("", ""))[0] == "LOADING")
        assert explicit.stop(signal.SIGTERM) == 0
        assert call.result() == "StatusCode.UNAVAILABLE"
    assert "Traceback" not in explicit.log()


def test_requests_at_an_unloaded_model_are_finished(explicit: RunningServer, repository: Path) -> None:
    """An Unload returns at once; what the model has is answered, what comes later is UNAVAILABLE."""
    graphs.slow(repository, rounds=1000)
    (repository / "slow" / "config.pbtxt").write_text("max_batch_size: 1 instance_group { count: 1 }")
    x = {"x": np.ones((1, 256, 256), np.float32)}
    with client(explicit) as control, ThreadPoolExecutor(4) as pool:
        control.load_model("slow")

        def call() -> np.ndarray[Any, Any]:
            with Client(explicit.address) as asker:
                return asker.infer("slow", x).outputs["y"]

        calls: list[Future[Any]] = [pool.submit(call) for _ in range(4)]
        assert eventually(lambda: explicit.metric("netweight_pending_requests", model="slow") >= 2)
        control.unload_model("slow")
        assert index(control, "slow")["1"][0] == "UNLOADING"
        with pytest.raises(ClientError, match="model slow version 1 is UNLOADING") as caught:
            call()
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        for each in calls:
            np.testing.assert_allclose(each.result(), x["x"])
        assert eventually(lambda: index(control, "slow")["1"] == ("UNAVAILABLE", "unloaded"))
    assert explicit.metric("netweight_requests_total", model="slow", code="OK") == 4


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_unloading_gives_the_memory_back(repository: Path, tmp_path: Path, rounds: int) -> None:
    """Resident memory after rounds of loading, asking and unloading a model of 100 MB is within 10 % of the start."""
    last = WEIGHTS - 1
    factors = 1 + np.arange(WEIGHTS, dtype=np.float32) / 1000  # ONNX Runtime would keep equal weights once
    graphs.save(
        repository / "large" / "1" / "model.onnx",
        [
            helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], ["y" if i == last else f"h{i + 1}"])
            for i in range(WEIGHTS)
        ],
        [("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [("y", TensorProto.FLOAT, ["batch", WIDTH])],
        {f"w{i}": factor * np.eye(WIDTH, dtype=np.float32) for i, factor in enumerate(factors)},
    )
    options = ("--model-control", "explicit", "--model", "inline")
    x = {"x": np.ones((8, WIDTH), np.float32)}
    with (
        running_server(repository, tmp_path, *options) as server,
        client(server) as control,
        Client(server.address) as asker,
    ):
        process = psutil.Process(server.process.pid)
        asker.infer("inline", X)
        start = process.memory_info().rss
        for _ in range(rounds):
            control.load_model("large")
            assert asker.infer("large", x).outputs["y"] == pytest.approx(x["x"] * factors.prod(), rel=1e-3)
            assert process.memory_info().rss - start > 4 * WEIGHTS * WIDTH**2
            control.unload_model("large")
            assert eventually(lambda: index(control, "large")["1"] == ("UNAVAILABLE", "unloaded"))
        assert process.memory_info().rss == pytest.approx(start, rel=0.1)

"""What a served model's statistics and metrics say of its requests, and how models share a machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.client import Client, ClientError
from tests import graphs
from tests.servers import RunningServer, running_server

PARTS = ("input", "queue", "compute", "output")
IN_PROTOCOL = {
    "input": "compute_input",
    "queue": "queue",
    "compute": "compute_infer",
    "output": "compute_output",
}
"""What ModelStatistics calls each part."""
WIDTH = 64
BUSY_CALLERS, BUSY_ANSWERS = 12, 60


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inline model, a threaded one, and one that keeps the machine busy."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made, "inline")
    graphs.scale(made, "threaded")
    (made / "threaded" / "config.pbtxt").write_text("max_batch_size: 8\ninstance_group { count: 2 }\n")
    graphs.slow(made, width=WIDTH, rounds=300)
    graphs.slow(made, "busy", rounds=100)
    return made


@pytest.fixture(params=["--frontends 1", "--frontends 2"])
def server(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of its own, for exact counts."""
    with running_server(repository, tmp_path, *request.param.split()) as started:
        yield started


def statistics(server: RunningServer, model: str = "") -> list[Any]:
    """Return what NVIDIA's client gets for a model, by version; of all models where none is named."""
    with triton.InferenceServerClient(server.address) as client:
        return list(client.get_inference_statistics(model).model_stats)


def sample(model: str, rows: int, value: float) -> np.ndarray[Any, Any]:
    return np.full((rows, WIDTH, WIDTH) if model == "slow" else (rows, 4), value, np.float32)


def right(model: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x if model == "slow" else 2 * x


def load(server: RunningServer, model: str, callers: int, turns: int) -> int:
    """Send requests of one to three samples from several callers, see that they are answered; return the samples."""

    def call(caller: int) -> int:
        samples = 0
        with Client(server.address) as client:
            for turn in range(turns):
                x = sample(model, 1 + (caller + turn) % 3, caller * turns + turn)
                np.testing.assert_array_equal(client.infer(model, {"x": x}).outputs["y"], right(model, x))
                samples += len(x)
        return samples

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, range(callers)))


@pytest.mark.parametrize("model", ["inline", "threaded", "slow"])
def test_the_parts_add_up_to_the_whole(server: RunningServer, model: str) -> None:
    """Input, queue, compute and output together are the requests' time, in the metrics and in ModelStatistics."""
    callers, turns = 8, 12
    sent = callers * turns
    samples = load(server, model, callers, turns)
    with Client(server.address) as client:
        for _ in range(5):
            with pytest.raises(ClientError, match="expected x: FP32"):
                client.infer(model, {"x": np.zeros((1, 7), np.float32)})
    (figures,) = statistics(server, model)
    stats = figures.inference_stats
    parts = {part: getattr(stats, name) for part, name in IN_PROTOCOL.items()}

    assert (figures.name, figures.version) == (model, "1")
    assert (stats.success.count, stats.fail.count) == (sent, 5)
    assert stats.fail.ns > 0
    assert {part: each.count for part, each in parts.items()} == dict.fromkeys(PARTS, sent)
    assert all(each.ns > 0 for each in parts.values())
    assert stats.success.ns == pytest.approx(sum(each.ns for each in parts.values()), abs=len(parts))

    def seconds(name: str) -> float:
        return server.metric(f"netweight_{name}_duration_seconds_sum", model=model)

    assert seconds("request") - stats.fail.ns / 1e9 == pytest.approx(sum(map(seconds, PARTS)), rel=0.05)
    for part, each in parts.items():
        assert seconds(part) == pytest.approx(each.ns / 1e9, rel=1e-6)
        assert server.metric(f"netweight_{part}_duration_seconds_count", model=model) == sent

    assert figures.inference_count == samples
    assert 0 < figures.execution_count <= figures.inference_count
    assert figures.last_inference > 0
    batches = figures.batch_stats
    sizes = [each.batch_size for each in batches]
    assert sizes == sorted(set(sizes))
    assert sum(each.batch_size * each.compute_infer.count for each in batches) == figures.inference_count
    assert sum(each.compute_infer.count for each in batches) == figures.execution_count
    assert all(each.compute_infer.ns > 0 for each in batches)
    for each in batches:
        assert each.compute_input.count == each.compute_output.count == each.compute_infer.count
    assert server.metric("netweight_executions_total", model=model) == figures.execution_count
    assert server.metric("netweight_inferences_total", model=model) == samples
    assert server.metric("netweight_requests_total", model=model, code="OK") == sent
    assert server.metric("netweight_requests_total", model=model, code="INVALID_ARGUMENT") == 5


def test_statistics_by_name(server: RunningServer) -> None:
    """Without a name there is every model; one that is not there, in name or version, is INVALID_ARGUMENT."""
    assert [each.name for each in statistics(server)] == ["busy", "inline", "slow", "threaded"]
    (unused,) = statistics(server, "inline")
    assert (unused.inference_count, unused.execution_count, unused.last_inference) == (0, 0, 0)
    assert unused.inference_stats.success.count == 0
    assert list(unused.batch_stats) == []
    with triton.InferenceServerClient(server.address) as client:
        for name, version in (("nosuch", ""), ("inline", "9"), ("inline", "a")):
            with pytest.raises(InferenceServerException) as caught:
                client.get_inference_statistics(name, version)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("model", ["inline", "threaded"])
def test_a_busy_model_does_not_starve_another(server: RunningServer, model: str) -> None:
    """While many callers saturate one model, a lone caller of another is answered as often as all of them."""
    stop = threading.Event()
    answered = 0
    counting = threading.Lock()
    image = np.random.default_rng(0).normal(size=(1, 256, 256)).astype(np.float32)

    def saturate(_: int) -> None:
        nonlocal answered
        with Client(server.address) as client:
            while not stop.is_set():
                np.testing.assert_allclose(client.infer("busy", {"x": image}).outputs["y"], image, rtol=1e-5)
                with counting:
                    answered += 1
                    if answered >= BUSY_ANSWERS:
                        stop.set()

    alone = 0
    with ThreadPoolExecutor(BUSY_CALLERS) as pool, Client(server.address) as client:
        callers = [pool.submit(saturate, each) for each in range(BUSY_CALLERS)]
        while not stop.is_set() and not any(each.done() for each in callers):
            x = sample(model, 2, alone)
            np.testing.assert_array_equal(client.infer(model, {"x": x}).outputs["y"], 2 * x)
            alone += 1
        stop.set()
        for each in callers:
            each.result()
    assert answered >= BUSY_ANSWERS
    assert alone >= BUSY_ANSWERS


def test_priorities_are_kept_end_to_end(repository: Path, tmp_path: Path) -> None:
    """Of what waits behind a running batch, the requests of the higher level are run first."""
    own = tmp_path / "repository"
    graphs.slow(own, rounds=1500)
    (own / "slow" / "config.pbtxt").write_text(
        "max_batch_size: 1\ninstance_group { count: 1 }\n"
        "dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n"
    )
    image = np.ones((1, 256, 256), np.float32)
    tensor = triton.InferInput("x", image.shape, np_to_triton_dtype(image.dtype))
    tensor.set_data_from_numpy(image)
    order: list[int] = []
    done = threading.Semaphore(0)
    with running_server(own, tmp_path) as server, triton.InferenceServerClient(server.address) as client:

        def send(priority: int) -> None:
            def finished(result: Any, error: Any) -> None:
                order.append(-1 if error else priority)
                done.release()

            client.async_infer("slow", [tensor], finished, priority=priority)

        send(1)
        for priority in (2, 2, 2, 1, 1, 1):  # all of them arrive while the first one runs
            send(priority)
        for _ in range(7):
            assert done.acquire(timeout=60)
    assert order[1:] in ([1, 1, 1, 2, 2, 2], [2, 1, 1, 1, 2, 2])  # one of level 2 at most began before they came

"""The server's life: start, refuse to start, bound, drain, stop; health, reflection, metrics."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from server.client import Client, ClientError, infer_request
from server.config import Settings
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.waiting import eventually

SLOW = {"x": np.ones((1, 256, 256), np.float32)}
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
SCALE = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick model, and one whose execution takes a good part of a second."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    graphs.slow(made, rounds=1500)
    return made


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that is shared by the tests that leave it as it was."""
    with running_server(repository, tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(params=["direct", "ordinary"])
def fresh(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of the test's own, in which at most two requests may wait."""
    with running_server(repository, tmp_path, "--max-queue-size", "2", "--way", request.param) as started:
        yield started


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "netweight", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def call_slow(address: str, **options: Any) -> np.ndarray[Any, Any]:
    with Client(address, **options) as client:
        return client.infer("slow", SLOW).outputs["y"]


def occupy(server: RunningServer, pool: ThreadPoolExecutor, waiting: int = 0) -> list[Future[Any]]:
    """Have one request run, and so many wait."""
    calls = [pool.submit(call_slow, server.address)]
    started = server.metric("netweight_executions_total", model="slow")
    assert eventually(lambda: server.metric("netweight_pending_requests", model="slow") == 0)
    time.sleep(0.05)
    for wanted in range(1, waiting + 1):
        calls.append(pool.submit(call_slow, server.address))
        assert eventually(lambda n=wanted: server.metric("netweight_pending_requests", model="slow") == n)  # type: ignore[misc]
    assert server.metric("netweight_executions_total", model="slow") == started
    return calls


def test_sigterm_drains(fresh: RunningServer) -> None:
    """SIGTERM lets requests in flight finish with their answers, and the process exits with 0."""
    with ThreadPoolExecutor(2) as pool:
        calls = occupy(fresh, pool, waiting=1)
        assert fresh.stop(signal.SIGTERM) == 0
        for call in calls:
            np.testing.assert_allclose(call.result(), SLOW["x"])
    assert "draining" in fresh.log()


def test_a_watcher_of_health_does_not_hold_up_the_end(fresh: RunningServer) -> None:
    """An open Watch is told NOT_SERVING and ended: the process exits before its 20 s of grace are over."""
    with grpc.insecure_channel(fresh.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert fresh.stop(signal.SIGTERM, timeout_seconds=15) == 0
        assert [each.status for each in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_second_signal_quits(fresh: RunningServer) -> None:
    """The second signal ends the process at once, with exit code 1."""
    with ThreadPoolExecutor(2) as pool:
        calls = occupy(fresh, pool, waiting=1)
        fresh.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "draining" in fresh.log())
        assert fresh.stop(signal.SIGTERM) == 1
        for call in calls:
            with pytest.raises(ClientError) as caught:
                call.result()
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_the_queue_is_bounded(fresh: RunningServer) -> None:
    """A request that finds the queue full is refused UNAVAILABLE, told so, and counted; those before it are answered."""
    with ThreadPoolExecutor(3) as pool:
        calls = occupy(fresh, pool, waiting=2)
        with pytest.raises(ClientError, match="2 requests wait already") as caught:
            call_slow(fresh.address)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        for call in calls:
            np.testing.assert_allclose(call.result(), SLOW["x"])
    assert fresh.metric("netweight_requests_total", model="slow", code="UNAVAILABLE") == 1
    assert fresh.metric("netweight_requests_total", model="slow", code="OK") == 3


def test_expired_requests_do_not_run(fresh: RunningServer) -> None:
    """A request whose deadline passes in the queue is DEADLINE_EXCEEDED and never executed."""
    with ThreadPoolExecutor(1) as pool:
        (first,) = occupy(fresh, pool)
        with pytest.raises(ClientError) as caught:
            call_slow(fresh.address, timeout_seconds=0.05)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        first.result()
    call_slow(fresh.address)
    assert fresh.metric("netweight_inferences_total", model="slow") == 2
    assert fresh.metric("netweight_requests_total", model="slow", code="OK") == 2


def test_what_is_no_request_is_refused(fresh: RunningServer) -> None:
    """Bytes that are no ModelInferRequest, and a message beyond the limit, are errors; the server goes on."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(fresh.address, options=options) as channel:
        call = channel.unary_unary(MODEL_INFER, request_serializer=bytes, response_deserializer=bytes)
        for raw, codes in (
            (b"\xff\xff\xff", {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}),
            (b"\0" * (65 * 2**20), {grpc.StatusCode.RESOURCE_EXHAUSTED}),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(raw)
            assert caught.value.code() in codes
    with Client(fresh.address) as client:
        np.testing.assert_array_equal(client.infer("scale", SCALE).outputs["y"], 2 * SCALE["x"])


def test_cancelled_requests_do_not_run(fresh: RunningServer) -> None:
    """A request that its caller cancels while it waits is counted CANCELLED and never executed."""
    message = infer_request("slow", SLOW).SerializeToString()
    with ThreadPoolExecutor(1) as pool, grpc.insecure_channel(fresh.address) as channel:
        (first,) = occupy(fresh, pool)
        call = channel.unary_unary(MODEL_INFER, request_serializer=bytes, response_deserializer=bytes)
        waiting = call.future(message)
        assert eventually(lambda: fresh.metric("netweight_pending_requests", model="slow") == 1)
        waiting.cancel()  # type: ignore[no-untyped-call]
        first.result()
        cancelled = {"model": "slow", "code": "CANCELLED"}
        assert eventually(lambda: fresh.metric("netweight_requests_total", **cancelled) == 1)
    call_slow(fresh.address)
    assert fresh.metric("netweight_inferences_total", model="slow") == 2


def test_other_models_answer_while_one_is_busy(server: RunningServer) -> None:
    """A long execution of one model does not hold up another."""
    with ThreadPoolExecutor(1) as pool:
        (busy,) = occupy(server, pool)
        with Client(server.address) as client:
            np.testing.assert_array_equal(client.infer("scale", SCALE).outputs["y"], 2 * SCALE["x"])
        assert not busy.done()


def test_queue_timeout(repository: Path, tmp_path: Path) -> None:
    """With a queue timeout, a request that waits longer is refused UNAVAILABLE in time."""
    with (
        running_server(repository, tmp_path, "--queue-timeout-seconds", "0.05") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        (busy,) = occupy(server, pool)
        with pytest.raises(ClientError, match=r"waited 0\.05 s in the queue") as caught:
            call_slow(server.address)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert not busy.done()


def test_health_follows_the_models(fresh: RunningServer) -> None:
    """grpc.health.v1 tells the server's state under "", and each model's under its name; `netweight health` asks it."""
    with grpc.insecure_channel(fresh.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "scale", "slow"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nosuch"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="nosuch"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
    assert run("health", "--address", fresh.address).returncode == 0
    fresh.stop()
    stopped = run("health", "--address", fresh.address)
    assert stopped.returncode == 1
    assert "netweight serve" in stopped.stderr


def test_reflection_lists_and_resolves_both_names(server: RunningServer) -> None:
    """Reflection lists the service under both names, and each resolves to messages of its own package."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        assert {"inference.GRPCInferenceService", "netweight.v1.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        for package in ("inference", "netweight.v1"):
            file = database.FindFileContainingSymbol(f"{package}.GRPCInferenceService")
            assert isinstance(file, descriptor_pb2.FileDescriptorProto)
            assert file.package == package
            infer = next(each for each in file.service[0].method if each.name == "ModelInfer")
            assert infer.input_type == f".{package}.ModelInferRequest"


def test_metrics_say_what_the_models_cost(server: RunningServer, repository: Path) -> None:
    """Size on disk, load time, memory, provider and state stand in /metrics as soon as a model is ready."""
    size = (repository / "slow" / "1" / "model.onnx").stat().st_size
    assert server.metric("netweight_model_file_bytes", model="slow", version="1") == size
    assert server.metric("netweight_model_load_seconds", model="slow") > 0
    assert server.metric("netweight_model_resident_bytes", model="slow") > 0
    assert server.metric("netweight_model_provider_info", model="slow", provider="CPUExecutionProvider") == 1
    assert server.metric("netweight_model_state", model="slow", state="READY") == 1
    assert server.metric("netweight_model_state", model="slow", state="UNAVAILABLE") == 0
    assert server.metric("process_resident_memory_bytes") > 0


def test_unknown_models_do_not_become_labels(fresh: RunningServer) -> None:
    """A call for a model that is not there is counted without its name: callers cannot fill the metrics."""
    with Client(fresh.address) as client:
        for name in ("a", "b"):
            with pytest.raises(ClientError):
                client.infer(name, SCALE)
    assert fresh.metric("netweight_requests_total", model="", code="NOT_FOUND") == 2
    with urllib.request.urlopen(fresh.metrics_url) as page:  # noqa: S310  our own server
        assert b'model="a"' not in page.read()


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (apt-get install prometheus)"
)
def test_prometheus_scrapes_us(server: RunningServer, tmp_path: Path) -> None:
    """A real Prometheus finds the target up, and answers a percentile of the request durations."""
    target = urllib.parse.urlsplit(server.metrics_url).netloc
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms}\n"
        f"scrape_configs: [{{job_name: netweight, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "prometheus.log").open("w") as log:
        prometheus = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def ask(query: str) -> list[Any]:
        address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address) as answer:
                result: list[Any] = json.load(answer)["data"]["result"]
                return result
        except OSError:
            return []

    try:
        assert eventually(lambda: any(row["value"][1] == "1" for row in ask("up")), 30)
        with Client(server.address) as client:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                client.infer("scale", SCALE)
        p99 = "histogram_quantile(0.99, sum by (le, model) (rate(netweight_request_duration_seconds_bucket[10s])))"
        assert eventually(lambda: any(0 < float(row["value"][1]) < 10 for row in ask(p99)), 20)
    finally:
        prometheus.terminate()
        prometheus.wait(20)


def test_a_port_in_use_is_said_in_one_line(server: RunningServer, repository: Path) -> None:
    """A port that is taken ends the start with exit code 1 and one line that names the option."""
    port = server.address.rpartition(":")[2]
    failed = run("serve", "--repository", str(repository), "--grpc-port", port, "--metrics-port", "0")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1].startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    metrics = str(urllib.parse.urlsplit(server.metrics_url).port)
    failed = run("serve", "--repository", str(repository), "--grpc-port", "0", "--metrics-port", metrics)
    assert failed.returncode == 1
    assert "--metrics-port" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_misuse_is_said_in_one_line(repository: Path, tmp_path: Path) -> None:
    """No repository, an unknown model and a setting out of range are one line each; usage errors exit with 2."""
    missing = run("serve", "--repository", str(tmp_path / "nosuch"))
    assert missing.returncode == 1
    assert "is no directory; export a model into it" in missing.stderr
    unknown = run("serve", "--repository", str(repository), "--model", "nosuch")
    assert unknown.returncode == 1
    assert "model 'nosuch' is not in" in unknown.stderr
    assert "it has scale, slow" in unknown.stderr
    assert run("serve", "--grpc-port", "70000").returncode == 1
    assert run("serve", "--provider", "tpu").returncode == 2
    assert run("nosuch").returncode == 2


def test_the_environment_sets_what_the_command_line_does_not(repository: Path, tmp_path: Path) -> None:
    """A setting comes from the command line, else from the environment, else from its default."""
    os.environ["NETWEIGHT_MODELS"] = "scale"
    try:
        with running_server(repository, tmp_path) as server:
            assert server.models == 1
        with running_server(repository, tmp_path, "--model", "slow", "--model", "scale") as server:
            assert server.models == 2
    finally:
        del os.environ["NETWEIGHT_MODELS"]
    assert Settings().models == ()


def test_cuda_is_insisted_on(repository: Path, tmp_path: Path) -> None:
    """Without CUDA, `--provider cuda` refuses each model and names the cause; `auto` serves it on the CPU."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine has CUDA")
    with running_server(repository, tmp_path, "--provider", "cuda") as server:
        assert server.models_ready == 0
        assert "install netweight[gpu]" in server.log()
    with running_server(repository, tmp_path, "--provider", "auto") as server:
        assert server.models_ready == 2


def test_serving_needs_no_torch(repository: Path, tmp_path: Path) -> None:
    """The server starts where torch, onnx and the other stages cannot be imported."""
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'lightning', 'models', 'export', 'compare'):\n"
        "    sys.modules[name] = None\n"
    )
    command = [sys.executable, "-m", "netweight", "serve", "--repository", str(repository)]
    with subprocess.Popen(
        [*command, "--grpc-port", "0", "--metrics-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("netweight ready")
        process.terminate()
        assert process.wait(20) == 0

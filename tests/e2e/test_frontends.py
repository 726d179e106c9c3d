"""Several front-end processes before one engine: `netweight serve --frontends 2`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto

from server.client import arrays, infer_request
from server.pb import inference_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.waiting import eventually

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
OWN_CONNECTION = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
SERVING, NOT_SERVING = 1, 2


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick model, one that copies tensors of any length, and one that takes a good part of a second."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    graphs.identity(made, "free", TensorProto.FLOAT, ["batch", "width"])
    graphs.slow(made, rounds=1500)
    return made


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that is shared by the tests that leave it as it was."""
    with running_server(repository, tmp_path_factory.mktemp("server"), "--frontends", "2") as started:
        yield started


@pytest.fixture
def fresh(repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of the test's own."""
    with running_server(repository, tmp_path, "--frontends", "2") as started:
        yield started


def front_ends(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def connections(process: psutil.Process) -> int:
    """Count the callers that are connected to a front end."""
    return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))


def connect(server: RunningServer, stack: ExitStack, count: int) -> list[grpc.Channel]:
    """Open channels, each with a connection of its own, until every front end has some."""
    channels = [stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION)) for _ in range(count)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(20)
    assert all(connections(each) for each in front_ends(server))
    return channels


def infer(channel: grpc.Channel, model: str, array: Any, **options: Any) -> np.ndarray[Any, Any]:
    call = channel.unary_unary(MODEL_INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
    answer = call(infer_request(model, {"x": array}), timeout=60, **options)
    (output,) = arrays(answer).values()
    return output


def raw_infer(channel: grpc.Channel) -> Any:
    return channel.unary_unary(MODEL_INFER, request_serializer=bytes, response_deserializer=bytes)


SLOW = np.ones((1, 256, 256), np.float32)


def test_callers_get_their_own_answers(server: RunningServer) -> None:
    """Through both processes, under load and with tensors of all sizes, every answer is that of its own request."""
    turns = 40

    def call(caller: int, channel: grpc.Channel) -> list[str]:
        wrong = []
        chosen = np.random.default_rng(caller)
        for turn in range(turns):
            value = caller * 1000 + turn
            if turn % 4:
                x = np.full((1 + turn % 3, 4), value, np.float32)
                right = np.array_equal(infer(channel, "scale", x), 2 * x)
            else:
                x = np.full((1, int(10 ** chosen.uniform(0, 5.5))), value, np.float32)
                right = np.array_equal(infer(channel, "free", x), x)
            if not right:
                wrong.append(f"caller {caller}, turn {turn}")
        return wrong

    with ExitStack() as stack, ThreadPoolExecutor(24) as pool:
        channels = connect(server, stack, 24)
        before = {each.pid: sum(each.cpu_times()[:2]) for each in front_ends(server)}
        wrong = list(pool.map(call, range(24), channels))
        for each in front_ends(server):  # both did some of the work
            assert sum(each.cpu_times()[:2]) > before[each.pid]
    assert [each for caller in wrong for each in caller] == []


def test_batches_form_across_front_ends(server: RunningServer) -> None:
    """Requests that come through both processes during an execution run together in the next one."""
    executions = server.metric("netweight_executions_total", model="slow")
    inferences = server.metric("netweight_inferences_total", model="slow")
    with ExitStack() as stack, ThreadPoolExecutor(12) as pool:
        for y in pool.map(lambda channel: infer(channel, "slow", SLOW), connect(server, stack, 12)):
            np.testing.assert_allclose(y, SLOW)
    assert server.metric("netweight_inferences_total", model="slow") - inferences == 12
    assert server.metric("netweight_executions_total", model="slow") - executions <= 3


def test_the_metrics_are_one_view(fresh: RunningServer) -> None:
    """Every request is counted once, under its own status, whichever process refused or answered it."""
    good = np.ones((1, 4), np.float32)
    refused: list[tuple[str, Any, grpc.StatusCode]] = [
        ("scale", np.ones((1, 5), np.float32), grpc.StatusCode.INVALID_ARGUMENT),  # the engine sees that
        ("nosuch", good, grpc.StatusCode.NOT_FOUND),
    ]
    with ExitStack() as stack:
        channels = connect(fresh, stack, 12)
        for channel in channels:
            for _ in range(5):
                np.testing.assert_array_equal(infer(channel, "scale", good), 2 * good)
            for model, array, code in refused:
                with pytest.raises(grpc.RpcError) as caught:
                    infer(channel, model, array)
                assert caught.value.code() is code
            short = infer_request("scale", {"x": good})
            short.raw_input_contents[0] = b"1234567"  # the front end sees that
            for model, code in (("scale", grpc.StatusCode.INVALID_ARGUMENT), ("nosuch", grpc.StatusCode.NOT_FOUND)):
                short.model_name = model
                with pytest.raises(grpc.RpcError) as caught:
                    raw_infer(channel)(short.SerializeToString())
                assert caught.value.code() is code
    codes = ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
    counts = [
        sum(fresh.metric("netweight_requests_total", code=code, model=model) for model in ("scale", ""))
        for code in codes
    ]
    assert counts == [60, 24, 24]
    assert fresh.metric("netweight_request_duration_seconds_count", model="scale") >= 60


def test_a_front_end_that_dies_is_replaced(fresh: RunningServer) -> None:
    """After SIGKILL of one front end only its own callers see an error; a new one takes its place and serves."""
    stop = threading.Event()

    def call(index: int, channel: grpc.Channel) -> tuple[int, set[grpc.StatusCode]]:
        done, failed = 0, set()
        while not stop.is_set():
            x = np.full((1, 4), index * 1000 + done, np.float32)
            try:
                np.testing.assert_array_equal(infer(channel, "scale", x), 2 * x)
                done += 1
            except grpc.RpcError as error:
                failed.add(error.code())
        return done, failed

    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        channels = connect(fresh, stack, 16)
        killed, kept = front_ends(fresh)
        of_killed = connections(killed)
        waiting = [pool.submit(infer, channel, "slow", SLOW) for channel in channels[:2]]
        calls = [pool.submit(call, index, channel) for index, channel in enumerate(channels[2:])]
        time.sleep(0.2)
        killed.kill()
        assert eventually(lambda: fresh.metric("netweight_frontend_restarts_total") == 1)
        assert eventually(lambda: len(front_ends(fresh)) == 2 and all(map(listens, front_ends(fresh))))
        stop.set()
        outcomes = [each.result() for each in calls]
        failed = [codes for _, codes in outcomes if codes]
        assert all(codes <= {grpc.StatusCode.UNAVAILABLE} for codes in failed)
        assert len(failed) <= of_killed
        assert sum(done for done, _ in outcomes) > 0
        for each in waiting:
            assert each.exception() is None or each.exception().code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[union-attr]
        assert kept.is_running()
        for channel in channels:
            np.testing.assert_array_equal(infer(channel, "scale", SLOW[0, :1, :4], wait_for_ready=True), 2)
    with ExitStack() as stack:
        connect(fresh, stack, 16)  # the new one takes connections
    assert eventually(lambda: fresh.metric("netweight_pending_requests", model="slow") == 0)
    assert fresh.log().count("ended with exit code -9") == 1


def listens(process: psutil.Process) -> bool:
    return any(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))


def test_sigterm_drains_all(fresh: RunningServer) -> None:
    """SIGTERM lets the requests in flight in all processes finish with their answers; then every process has ended."""
    with ExitStack() as stack, ThreadPoolExecutor(12) as pool:
        channels = connect(fresh, stack, 12)
        processes = front_ends(fresh)
        calls: list[Future[Any]] = [pool.submit(infer, channel, "slow", SLOW) for channel in channels]
        assert eventually(lambda: fresh.metric("netweight_pending_requests", model="slow") > 0)
        time.sleep(1.5)  # all of them have been sent by then, also where the machine has more to do
        assert not all(call.done() for call in calls)
        assert fresh.stop(signal.SIGTERM) == 0
        for call in calls:
            np.testing.assert_allclose(call.result(), SLOW)
    assert psutil.wait_procs(processes, timeout=1)[1] == []
    assert "draining" in fresh.log()
    assert "Traceback" not in fresh.log()


def test_health_is_told_everywhere(fresh: RunningServer) -> None:
    """Check and Watch answer the same through every process, and watchers hear of the drain."""
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        channels = connect(fresh, stack, 12)
        watches = []
        for channel in channels:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "scale", "slow"):
                assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
            with pytest.raises(grpc.RpcError) as caught:
                stub.Check(health_pb2.HealthCheckRequest(service="nosuch"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        for channel in channels[:6]:
            watches.append(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="scale")))
            assert next(watches[-1]).status == SERVING
        busy = pool.submit(infer, channels[-1], "slow", SLOW)
        time.sleep(0.05)
        fresh.process.send_signal(signal.SIGTERM)
        for watch in watches:
            assert next(watch).status == NOT_SERVING
            watch.cancel()
        np.testing.assert_allclose(busy.result(), SLOW)
        assert fresh.process.wait(30) == 0


def test_other_calls_reach_the_engine(server: RunningServer) -> None:
    """Metadata and readiness are the same through every process, and so are their errors."""
    with ExitStack() as stack:
        for channel in connect(server, stack, 12):

            def call(name: str, request: Any, reply: Any, channel: grpc.Channel = channel) -> Any:
                method = f"/inference.GRPCInferenceService/{name}"
                return channel.unary_unary(method, type(request).SerializeToString, reply.FromString)(request)

            assert call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
            metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="scale"), pb.ModelMetadataResponse)
            assert [each.name for each in metadata.inputs] == ["x"]
            with pytest.raises(grpc.RpcError) as caught:
                call("ModelReady", pb.ModelReadyRequest(name="nosuch"), pb.ModelReadyResponse)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert "'nosuch' is unknown" in str(caught.value.details())


def test_cancelled_requests_do_not_run(fresh: RunningServer) -> None:
    """A request that is cancelled, or whose deadline passes, while it waits in the engine is not executed."""
    message = infer_request("slow", {"x": SLOW}).SerializeToString()
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        channels = connect(fresh, stack, 12)
        infer(channels[0], "slow", SLOW)
        busy = pool.submit(infer, channels[0], "slow", np.repeat(SLOW, 4, axis=0))  # seconds
        time.sleep(0.1)
        waiting = [raw_infer(channel).future(message) for channel in channels[:6]]
        expired = [raw_infer(channel).future(message, timeout=0.5) for channel in channels[6:]]
        assert eventually(lambda: fresh.metric("netweight_pending_requests", model="slow") == 12)
        for each in waiting:
            each.cancel()
        busy.result()

        def gone() -> float:  # a deadline that the caller notices first is a cancellation to the server
            codes = ("CANCELLED", "DEADLINE_EXCEEDED")
            return sum(fresh.metric("netweight_requests_total", model="slow", code=code) for code in codes)

        assert eventually(lambda: gone() == 12)
        assert all(each.code() is grpc.StatusCode.DEADLINE_EXCEEDED for each in expired)
        infer(channels[0], "slow", SLOW)
    assert fresh.metric("netweight_inferences_total", model="slow") == 6


@pytest.mark.parametrize(("first", "second"), [("2", "2"), ("2", "1"), ("1", "2")])
def test_a_port_in_use_is_said_in_one_line(repository: Path, tmp_path: Path, first: str, second: str) -> None:
    """A second server on the port is refused, although front ends share it among themselves."""
    with running_server(repository, tmp_path, "--model", "scale", "--frontends", first) as running:
        port = running.address.rpartition(":")[2]
        command = ["serve", "--repository", str(repository), "--grpc-port", port, "--metrics-port", "0"]
        failed = subprocess.run(
            [sys.executable, "-m", "netweight", *command, "--frontends", second],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1].startswith(f"Error: cannot listen on 127.0.0.1:{port}: in use")
    assert "Traceback" not in failed.stderr


def test_a_server_starts_again_at_once_on_its_port(repository: Path, tmp_path: Path) -> None:
    """Connections that the last server has closed do not keep the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for _ in range(2):
        with (
            running_server(repository, tmp_path, "--model", "scale", "--frontends", "2", "--grpc-port", port) as server,
            ExitStack() as stack,
        ):
            assert server.address.endswith(f":{port}")
            for channel in connect(server, stack, 12):
                x = SLOW[0, :1, :4]
                np.testing.assert_array_equal(infer(channel, "scale", x), 2 * x)
            assert server.stop() == 0


def test_front_ends_end_with_the_engine(fresh: RunningServer) -> None:
    """When the engine is killed by SIGKILL, its front ends end too."""
    processes = front_ends(fresh)
    assert len(processes) == 2
    os.kill(fresh.process.pid, signal.SIGKILL)
    fresh.process.wait(10)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_front_ends_hold_no_model(server: RunningServer) -> None:
    """Weights and ONNX Runtime are in the engine alone."""
    engine = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in engine
    for each in front_ends(server):
        assert "onnxruntime" not in Path(f"/proc/{each.pid}/maps").read_text()


def test_a_front_end_that_cannot_start_ends_the_server(repository: Path, tmp_path: Path) -> None:
    """If the front ends cannot start, the server says so in one line and exits with 1, leaving nothing behind."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'server.frontend' in sys.orig_argv:\n    sys.modules['server.reflection'] = None\n"
    )
    failed = subprocess.run(
        [
            *(sys.executable, "-m", "netweight", "serve", "--repository", str(repository), "--model", "scale"),
            *("--frontends", "2", "--grpc-port", "0", "--metrics-port", "0"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1].endswith(") ended with exit code 1; the log above may tell why")

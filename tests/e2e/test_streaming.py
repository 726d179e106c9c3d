"""ModelStreamInfer against the real process, by tritonclient and by plain gRPC."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.client import arrays, infer_request
from server.pb import inference_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.waiting import eventually

NAMES = ("inference.GRPCInferenceService", "netweight.v1.GRPCInferenceService")
WAYS = ["--way direct", "--way ordinary", "--frontends 2"]
SLOW = np.ones((1, 256, 256), np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick model, one that takes a tenth of a second and runs one batch at a time, and those whose requests wait."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    graphs.slow(made, rounds=300)
    graphs.held(made, 3)
    graphs.held(made, 30, "kept")
    return made


@pytest.fixture(scope="module", params=WAYS)
def server(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that takes three streams (in each process)."""
    options = (*request.param.split(), "--max-streams", "3")
    with running_server(repository, tmp_path_factory.mktemp("server"), *options) as started:
        yield started


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """A connection of the test's own."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def stream(channel: grpc.Channel, requests: Iterator[bytes], **options: Any) -> Any:
    call = channel.stream_stream(f"/{NAMES[0]}/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    return call(requests, **options)


def ask(model: str, x: Any, request_id: str = "") -> bytes:
    message = infer_request(model, {"x": x})
    message.id = request_id
    return message.SerializeToString()


class Sender:
    """The requests of a stream, given one by one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, raw: bytes) -> None:
        self._queue.put(raw)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._queue.get, None)


def tensor(name: str, array: Any) -> triton.InferInput:
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def test_tritonclient_streams(server: RunningServer) -> None:
    """A stream of tritonclient gives one answer for each request, in order; an error is told and the stream goes on."""
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for turn in range(200):
            name = "nosuch" if turn % 50 == 7 else "scale"
            x = np.full((1, 4), turn, np.float32)
            client.async_stream_infer(
                name, [tensor("x", x)], request_id=str(turn), enable_empty_final_response=bool(turn % 2)
            )
        client.stop_stream()
    for turn in range(200):
        result, error = answers.get(timeout=10)
        if turn % 50 == 7:
            assert result is None
            assert "'nosuch' is unknown" in error.message()
        else:
            assert error is None
            assert result.get_response().id == str(turn)
            np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), 2 * turn))
            assert result.get_response().parameters["triton_final_response"].bool_param
    assert answers.empty()


def test_tritonclient_aio_streams(server: RunningServer) -> None:
    """The asyncio client's stream does too."""

    async def ask_all() -> list[tuple[Any, Any]]:
        async def requests() -> Any:
            for turn in range(50):
                x = np.full((1, 5 if turn == 3 else 4), turn, np.float32)
                yield {"model_name": "scale", "inputs": [tensor("x", x)], "request_id": str(turn)}

        async with triton_aio.InferenceServerClient(server.address) as client:
            return [answer async for answer in client.stream_infer(requests())]

    answers = asyncio.run(ask_all())
    assert len(answers) == 50
    for turn, (result, error) in enumerate(answers):
        if turn == 3:
            assert "FP32 [1,5]; expected x: FP32 [-1,4]" in error.message()
        else:
            np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), 2 * turn))


def test_errors_leave_the_stream_open(channel: grpc.Channel) -> None:
    """Each request's error is in its own answer, beside its id, and the next request is answered."""
    sender = Sender()
    answers = stream(channel, iter(sender))
    for raw, text, request_id in (
        (ask("nosuch", SLOW, "one"), "'nosuch' is unknown", "one"),
        (b"\xff no message", "the message is no ModelInferRequest", ""),
        (b"", "unknown", ""),
        (ask("scale", np.ones((1, 3), np.float32), "two"), "expected x: FP32 [-1,4]", "two"),
    ):
        sender.send(raw)
        answer = next(answers)
        assert text in answer.error_message
        assert answer.infer_response.id == request_id
        assert not answer.infer_response.outputs
        sender.send(ask("scale", np.ones((1, 4), np.float32), "good"))
        answer = next(answers)
        assert answer.error_message == ""
        assert answer.infer_response.id == "good"
    sender.end()
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("name", NAMES)
def test_both_names_of_the_service_stream(channel: grpc.Channel, name: str) -> None:
    """An empty stream ends well, under either name."""
    call = channel.stream_stream(f"/{name}/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    assert list(call(iter(()))) == []


def test_requests_of_a_stream_share_batches(server: RunningServer, channel: grpc.Channel) -> None:
    """A stream's requests are begun before the earlier ones are answered, so that they run together, and stay in order."""
    executions = server.metric("netweight_executions_total", model="slow")
    requests = (ask("slow" if turn else "scale", turn * (SLOW if turn else SLOW[0, :1, :4])) for turn in range(9))
    answers = list(stream(channel, requests))
    for turn, answer in enumerate(answers):
        (y,) = arrays(answer.infer_response).values()
        np.testing.assert_allclose(y, np.full(y.shape, turn))
    assert len(answers) == 9
    assert server.metric("netweight_executions_total", model="slow") - executions <= 5


def test_much_more_than_is_read_ahead(channel: grpc.Channel) -> None:
    """A caller who sends all before reading any answer gets all of them, in order."""
    answers = stream(channel, (ask("scale", np.full((1, 4), turn, np.float32)) for turn in range(500)))
    time.sleep(0.3)
    for turn, answer in enumerate(answers):
        (y,) = arrays(answer.infer_response).values()
        np.testing.assert_array_equal(y, np.full((1, 4), 2 * turn))
    assert turn == 499


def test_streams_are_limited_and_ordinary_calls_go_on(server: RunningServer) -> None:
    """Open streams hold up nobody; one more than the limit is refused, and taken once another has ended."""
    x = np.ones((1, 4), np.float32)
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
        senders = [Sender() for _ in range(3)]
        opened = [stream(channel, iter(sender)) for sender in senders]
        for sender, answers in zip(senders, opened, strict=True):
            sender.send(ask("scale", x))
            assert next(answers).error_message == ""
        refused = stream(channel, iter([ask("scale", x)]))
        with pytest.raises(grpc.RpcError, match="3 streams are open, the limit") as caught:
            next(refused)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with triton.InferenceServerClient(server.address) as client:
            for _ in range(40):
                np.testing.assert_array_equal(client.infer("scale", [tensor("x", x)]).as_numpy("y"), 2 * x)
                assert client.is_server_live()
        senders[0].end()
        assert list(opened[0]) == []

        def taken() -> bool:
            try:
                return len(list(stream(channel, iter([ask("scale", x)])))) == 1
            except grpc.RpcError:
                return False

        assert eventually(taken)
        for sender in senders[1:]:
            sender.end()


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_caller_who_goes_leaves_the_queue(server: RunningServer, channel: grpc.Channel, how: str) -> None:
    """When a stream is cancelled or its deadline passes, what it has waiting is not run, and is counted as gone."""
    sender = Sender()
    answers = stream(channel, iter(sender), **({"timeout": 3} if how == "deadline" else {}))
    expected = grpc.StatusCode.CANCELLED if how == "cancel" else grpc.StatusCode.DEADLINE_EXCEEDED
    gone = server.metric("netweight_requests_total", model="kept", code=expected.name)
    for _ in range(10):
        sender.send(ask("kept", SLOW[0, :1, :4]))
    assert eventually(lambda: server.metric("netweight_pending_requests", model="kept") == 10)
    if how == "cancel":
        answers.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(answers)
    assert caught.value.code() is expected
    assert eventually(lambda: server.metric("netweight_pending_requests", model="kept") == 0)
    assert server.metric("netweight_requests_total", model="kept", code=expected.name) == gone + 10
    assert server.metric("netweight_inferences_total", model="kept") == 0
    sender.end()


def test_ended_streams_leave_no_thread(server: RunningServer, channel: grpc.Channel) -> None:
    """However a stream ends, its threads do too, but for those of the pool, which are used again."""
    engine = psutil.Process(server.process.pid)
    processes = [engine, *engine.children()]
    x = ask("scale", np.ones((1, 4), np.float32))

    def threads() -> int:
        return sum(each.num_threads() for each in processes)

    def open_and_end() -> None:
        assert len(list(stream(channel, iter([x])))) == 1
        sender = Sender()
        left = stream(channel, iter(sender))
        sender.send(x)
        next(left)
        left.cancel()
        sender.end()

    for _ in range(10):
        open_and_end()
    before = threads()
    for _ in range(20):
        open_and_end()
    assert eventually(lambda: threads() <= before + 3)


def test_a_message_beyond_the_limit_ends_its_stream_only(server: RunningServer, channel: grpc.Channel) -> None:
    """A message larger than --max-message-bytes is no request: gRPC ends its stream; the server goes on."""
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(channel, iter([bytes(65 * 2**20)])))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert next(stream(channel, iter([ask("scale", SLOW[0, :1, :4])]))).error_message == ""


@pytest.mark.parametrize("way", WAYS)
def test_sigterm_answers_what_was_read(repository: Path, tmp_path: Path, way: str) -> None:
    """A server that stops answers what it has begun on every stream, then ends them UNAVAILABLE, and waits for nobody."""
    with running_server(repository, tmp_path, *way.split()) as running, ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(running.address, [("grpc.use_local_subchannel_pool", 1)]))
        senders = [Sender() for _ in range(3)]
        opened = [stream(channel, iter(sender)) for sender in senders]
        outcomes: list[tuple[int, Any]] = []

        def take(answers: Any) -> None:
            count = 0
            try:
                for answer in answers:
                    count += not answer.error_message
            except grpc.RpcError as error:
                outcomes.append((count, error.code()))

        threads = [threading.Thread(target=take, args=(answers,)) for answers in opened]
        for thread in threads:
            thread.start()
        for sender in senders[:2]:
            for _ in range(2):
                sender.send(ask("held", SLOW[0, :1, :4]))
        assert eventually(lambda: running.metric("netweight_pending_requests", model="held") == 4)
        assert running.stop(signal.SIGTERM, timeout_seconds=30) == 0
        for thread in threads:
            thread.join(10)
        assert sorted(outcomes) == [(count, grpc.StatusCode.UNAVAILABLE) for count in (0, 2, 2)]
        assert "Traceback" not in running.log()


def test_a_stream_that_was_stopped_says_so(server: RunningServer) -> None:
    """The stop_stream of tritonclient with cancel_requests ends at once, and the client can begin another stream."""
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for _ in range(4):
            client.async_stream_infer("slow", [tensor("x", SLOW)])
        client.stop_stream(cancel_requests=True)
        errors = []
        while not answers.empty():
            _, error = answers.get()
            errors += [error] if error else []
        assert [isinstance(each, InferenceServerException) for each in errors] == [True]
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("scale", [tensor("x", SLOW[0, :1, :4])])
        client.stop_stream()
        result, error = answers.get(timeout=10)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * SLOW[0, :1, :4])

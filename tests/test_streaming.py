"""Streams of requests over a real gRPC server, before a service whose answers the test gives."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from server.infer_call import INTERNAL
from server.pb import inference_pb2 as pb
from server.streaming import AHEAD, Streams
from server.transport import NAMES

OK = grpc.StatusCode.OK


class Asked:
    """A request that was begun."""

    waits = True

    def __init__(self, request_id: str, respond: Any) -> None:
        self.id = request_id
        self.respond = respond
        self.cancelled: queue.SimpleQueue[grpc.StatusCode] = queue.SimpleQueue()

    def cancel(self, code: grpc.StatusCode) -> bool:
        self.cancelled.put(code)
        return True

    def answer(self) -> None:
        self.respond(OK, "", pb.ModelInferResponse(id=self.id))


class FakeService:
    """Notes what is asked; model "broken" shows a defect of ours."""

    traced = unflushed = False

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()

    def infer(self, message: pb.ModelInferRequest, respond: Any, *_: Any) -> Asked:
        if message.model_name == "broken":
            raise RuntimeError("a defect")
        asked = Asked(message.id, respond)
        self.asked.put(asked)
        return asked

    def flush(self) -> None:
        """Nothing waits for this."""


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def streams(service: FakeService) -> Streams:
    return Streams(service, 2)


@pytest.fixture
def call(streams: Streams) -> Iterator[Any]:
    """Open streams of requests to a server."""
    server = grpc.server(ThreadPoolExecutor(1))
    streams.enable(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream(
            f"/{NAMES[0]}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
    server.stop(None).wait()


def requests(*ids: str, model: str = "m") -> Iterator[pb.ModelInferRequest]:
    return (pb.ModelInferRequest(model_name=model, id=each) for each in ids)


def test_answers_keep_the_order_of_the_requests(service: FakeService, call: Any) -> None:
    """However the requests finish, they are answered in their order; each answer says that it is the last of its own."""
    answers = call(requests("a", "b", "c"))
    begun = [service.asked.get(timeout=10) for _ in range(3)]
    for each in (begun[2], begun[0], begun[1]):
        each.answer()
    told = list(answers)
    assert [each.infer_response.id for each in told] == ["a", "b", "c"]
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in told)


def test_no_more_than_so_much_is_read_ahead(service: FakeService, call: Any) -> None:
    """A stream's requests are begun up to the bound ahead of its answers; an answer makes room for one more."""
    answers = call(requests(*map(str, range(AHEAD + 5))))
    begun = [service.asked.get(timeout=10) for _ in range(AHEAD)]
    with pytest.raises(queue.Empty):
        service.asked.get(timeout=0.2)
    begun[0].answer()
    begun.append(service.asked.get(timeout=10))
    with pytest.raises(queue.Empty):
        service.asked.get(timeout=0.2)
    for each in begun[1:]:
        each.answer()
    for _ in range(4):
        service.asked.get(timeout=10).answer()
    assert [each.infer_response.id for each in answers] == [str(each) for each in range(AHEAD + 5)]


def test_a_defect_is_one_answer(service: FakeService, call: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A defect of ours is logged and answered as the request's error, without details; the stream goes on."""
    answers = call(each for one in (requests("a", model="broken"), requests("b")) for each in one)
    first = next(answers)
    assert (first.error_message, first.infer_response.id) == (INTERNAL, "a")
    service.asked.get(timeout=10).answer()
    assert next(answers).infer_response.id == "b"
    assert "a defect" in caplog.text


def test_a_caller_who_goes_withdraws_all(service: FakeService, call: Any) -> None:
    """What was begun is cancelled with the reason when its stream is."""
    answers = call(requests("a", "b"), timeout=0.5)
    for _ in range(2):
        asked = service.asked.get(timeout=10)
        assert asked.cancelled.get(timeout=10) is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError):
        next(answers)


def test_the_end_answers_what_was_begun(service: FakeService, streams: Streams, call: Any) -> None:
    """When the server stops, requests that were read are answered, then the stream ends UNAVAILABLE; a new one at once."""
    ended = threading.Event()

    def open_ended() -> Iterator[pb.ModelInferRequest]:
        yield from requests("a")
        ended.wait()

    answers = call(open_ended())
    asked = service.asked.get(timeout=10)
    streams.end()
    asked.answer()
    assert next(answers).infer_response.id == "a"
    for each in (answers, call(requests("b"))):
        with pytest.raises(grpc.RpcError, match="the server is stopping") as caught:
            next(each)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    ended.set()


def test_a_stream_whose_caller_has_sent_all_ends_well(service: FakeService, streams: Streams, call: Any) -> None:
    """A stream that lacks nothing but answers ends OK, also when the server stops meanwhile."""
    answers = call(requests("a"))
    asked = service.asked.get(timeout=10)
    threading.Event().wait(0.3)  # until the end of the requests has arrived
    streams.end()
    asked.answer()
    assert [each.infer_response.id for each in answers] == ["a"]
    assert answers.code() is OK


def test_one_more_than_the_limit_is_refused(service: FakeService, call: Any) -> None:
    """A stream beyond the limit is refused with the setting's name."""
    held = [call(requests("a")) for _ in range(2)]
    begun = [service.asked.get(timeout=10) for _ in held]
    with pytest.raises(grpc.RpcError, match="2 streams are open, the limit") as caught:
        next(call(requests("b")))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for each in begun:
        each.answer()
    for answers in held:
        assert len(list(answers)) == 1

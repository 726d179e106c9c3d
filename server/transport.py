"""How calls reach the service: grpc.server for all of them, with a shorter way for ModelInfer.

grpc.server hands each call to a thread of its pool, and that thread would wait for the batch. The shorter way rides on
grpc.server's own completion queue: its polling thread reads the message and queues it, and the thread that ran the
batch sends the answer; no thread waits, and none is woken in between. That uses parts of grpcio that are private, so it
is taken only with versions that it was tested with; with others ModelInfer goes the ordinary way. Health, reflection
and every other call go the ordinary way always.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # private: see TESTED_GRPCIO

from server.config import Way
from server.errors import ServerError
from server.pb import inference_pb2 as pb
from server.service import INTERNAL, InferCall, InferenceService

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NAMES = ("inference.GRPCInferenceService", SERVICE.full_name)
"""The protocol's name and ours."""
TESTED_GRPCIO = ("1.81.", "1.85.")
EXPECTED_CALLS = 64
"""ModelInfer calls that grpcio may take in before the polling thread sees them, for each name."""
THREADS = 16
"""For the ordinary calls; a reflection stream holds one as long as it is open."""
WAITING_THREADS = 256
"""Where ModelInfer goes the ordinary way, each call in flight holds one."""


class Transport:
    """A grpc.server that answers to both names of the service.

    Args:
        service: answers the calls.
        max_message_bytes: the largest request or answer.
        way: of ModelInfer; auto is direct if this version of grpcio was tested with it.
    """

    def __init__(self, service: InferenceService, max_message_bytes: int, way: Way = "auto") -> None:
        direct = way == "direct" or (way == "auto" and grpc.__version__.startswith(TESTED_GRPCIO))
        self.server = grpc.server(
            ThreadPoolExecutor(THREADS if direct else WAITING_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),  # a port in use must be an error, not a second server on it
            ],
        )
        self.server.add_generic_rpc_handlers(tuple(handlers(service)))
        self._direct = DirectInfer(self.server, service) if direct else None

    def listen(self, address: str) -> int:
        """Take ``host:port`` and return the port.

        Raises:
            RuntimeError: it cannot be taken.
        """
        return self.server.add_insecure_port(address)

    def start(self) -> None:
        """Answer calls."""
        self.server.start()
        if self._direct is not None:
            self._direct.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls and wait for those in flight, at most so long; what is left then is cancelled."""
        self.server.stop(grace_seconds).wait()


class DirectInfer:
    """The shorter way of ModelInfer, on the completion queue of a grpc.server.

    grpc.server calls an event's tag with the event, and expects (a call state of its own, callbacks): ours has neither.
    Operation objects hold C structs, so each call makes its own.
    """

    def __init__(self, server: grpc.Server, service: InferenceService) -> None:
        self._service = service
        state: Any = server._state  # type: ignore[attr-defined]  # noqa: SLF001  grpcio's own; see TESTED_GRPCIO
        self._core, self._queue = state.server, state.completion_queue
        self._methods = [f"/{name}/ModelInfer" for name in NAMES]
        for method in self._methods:
            self._core.register_method(method)

    def start(self) -> None:
        """Expect calls; the server was started before."""
        for method in self._methods:
            for _ in range(EXPECTED_CALLS):
                self._expect(method)

    def _expect(self, method: str) -> None:
        def begin(event: Any) -> tuple[None, tuple[()]]:
            if event.success:  # else the server stops
                self._expect(method)
                _guarded(DirectCall(self._service, event).start)
            return _NOTHING

        self._core.request_registered_call(self._queue, self._queue, method, begin)


class DirectCall:
    """One ModelInfer on the shorter way."""

    __slots__ = ("_call", "_cancelled", "_deadline", "_infer", "_service")

    def __init__(self, service: InferenceService, event: Any) -> None:
        self._service = service
        self._call = event.call
        self._deadline: float | None = event.call_details.deadline
        self._infer: InferCall | None = None
        self._cancelled = False

    def start(self) -> None:
        """Ask for the message, and to be told when the caller goes away."""
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), self._received)

    def _received(self, event: Any) -> tuple[None, tuple[()]]:
        raw = event.batch_operations[0].message()
        if raw is not None and not self._cancelled:  # None: the caller went away, or sent more than the limit
            _guarded(lambda: self._begin(raw))
        return _NOTHING

    def _begin(self, raw: bytes) -> None:
        try:
            message = pb.ModelInferRequest.FromString(raw)
        except DecodeError:
            self._respond(grpc.StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest", None)
            return
        self._infer = self._service.infer(message, self._respond)

    def _closed(self, event: Any) -> tuple[None, tuple[()]]:
        if event.batch_operations[0].cancelled():
            self._cancelled = True
            if self._infer is not None:
                self._infer.cancel(_why_gone(self._deadline))
        return _NOTHING

    def _respond(self, code: grpc.StatusCode, details: str, response: pb.ModelInferResponse | None) -> None:
        operations = [cygrpc.SendInitialMetadataOperation((), 0)]
        if response is not None:
            operations.append(cygrpc.SendMessageOperation(response.SerializeToString(), 0))
        operations.append(cygrpc.SendStatusFromServerOperation((), code.value[0], details.encode(), 0))
        self._call.start_server_batch(tuple(operations), _sent)


def handlers(service: InferenceService) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Return the service's ordinary handlers, one set for each of its names, read off the proto file."""
    methods = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _wait(service) if method.name == "ModelInfer" else _answer(getattr(service, method.name)),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        for method in SERVICE.methods
    }
    return [grpc.method_handlers_generic_handler(name, methods) for name in NAMES]


def _answer(method: Callable[[Any], Message]) -> Callable[[Any, grpc.ServicerContext], Message]:
    """Turn a method's failures into gRPC statuses."""

    def answer(request: Any, context: grpc.ServicerContext) -> Message:
        try:
            return method(request)
        except ServerError as error:
            code, details = error.code, str(error)
        except Exception:
            log.exception("%s failed", method.__name__)
            code, details = grpc.StatusCode.INTERNAL, INTERNAL
        return _abort(context, code, details)

    return answer


def _wait(service: InferenceService) -> Callable[[Any, grpc.ServicerContext], Message]:
    """Make ModelInfer the ordinary way: the call's thread waits for its answer."""

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Message:
        answered: Future[tuple[grpc.StatusCode, str, pb.ModelInferResponse | None]] = Future()
        call = service.infer(request, lambda *answer: answered.set_result(answer))
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.time() + remaining

        def gone() -> None:
            code = _why_gone(deadline)
            if call.cancel(code):
                answered.set_result((code, "the caller went away", None))

        if not context.add_callback(gone):
            gone()
        code, details, response = answered.result()
        return response or _abort(context, code, details)

    return answer


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("abort always raises")


def _why_gone(deadline: float | None) -> grpc.StatusCode:
    """Tell a deadline (seconds since the epoch) that has passed from a caller that hung up."""
    passed = deadline is not None and time.time() >= deadline
    return grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED


def _guarded(step: Callable[[], None]) -> None:
    """Keep a defect of ours from ending the thread that polls for every call."""
    try:
        step()
    except Exception:
        log.exception("ModelInfer failed")


def _sent(_: Any) -> tuple[None, tuple[()]]:
    return _NOTHING


_NOTHING: tuple[None, tuple[()]] = (None, ())

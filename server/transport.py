"""How calls reach the service: grpc.server for all of them, with a shorter way for ModelInfer.

grpc.server hands each call to a thread of its pool, and that thread would wait for the batch. The shorter way rides on
grpc.server's own completion queue: its polling thread reads the message and queues it, and the thread that ran the
batch sends the answer; no thread waits, and none is woken in between. That uses parts of grpcio that are private, so it
is taken only with versions that it was tested with; with others ModelInfer goes the ordinary way. Health, reflection
and every other call go the ordinary way always.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import MethodType
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
import grpc._server as grpc_server  # private: see TESTED_GRPCIO
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # private: see TESTED_GRPCIO

from server import tls, wire
from server.config import Way
from server.errors import ServerError
from server.infer_call import INTERNAL, Respond
from server.limits import shortened
from server.pb import inference_pb2 as pb
from server.pb import netweight_pb2
from server.tokens import Gate, Guard
from server.trace_context import NO_CONTEXT, TraceContext, context_of

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NAMES = ("inference.GRPCInferenceService", SERVICE.full_name)
"""The protocol's name and ours."""
WEIGHBRIDGE = netweight_pb2.DESCRIPTOR.services_by_name["Weighbridge"]
"""What is our own, under our name only."""
METHODS = {
    method.name: method for each in (SERVICE, WEIGHBRIDGE) for method in each.methods if not method.server_streaming
}
"""The calls of one message and one answer, by name. Those of streams are in server/streaming.py, card_watches.py."""
SLOW = frozenset({"RepositoryModelLoad"})
"""Calls that may take minutes: they have threads of their own, so that no other call waits for one."""
SLOW_THREADS = 8
"""For those; more of them wait."""
TESTED_GRPCIO = ("1.81.", "1.85.")
NOT_A_REQUEST = "the message is no ModelInferRequest"
EXPECTED_CALLS = 64
"""ModelInfer calls that grpcio may take in before the polling thread sees them, for each name."""
AT_ONCE = 0.0
"""A deadline that has passed: a poll that takes what is there and does not wait."""
ROUNDED_SECONDS = 0.1
"""gRPC rounds a timeout up on its way here, of 10 to 100 seconds by as much: the caller goes that much sooner."""
MOST_EVENTS = 512
"""That are taken before what came is run, however many more are at hand."""
THREADS = 16
"""For the ordinary calls; a reflection stream holds one as long as it is open."""
HANDSHAKE_MILLISECONDS = 20_000
"""Within which a new connection must have finished TLS and greeted."""
WAITING_THREADS = 256
"""Where ModelInfer goes the ordinary way, each call in flight holds one."""


Answer: TypeAlias = Callable[[Any, grpc.ServicerContext], Message]
"""Answers a call's message."""


class Service(Protocol):
    """What a transport needs of a service, besides a method for each other call."""

    @property
    def unflushed(self) -> bool:
        """Whether calls were begun that wait for `flush`."""

    @property
    def traced(self) -> bool:
        """Whether a call's trace context is of use."""

    def infer(
        self,
        message: pb.ModelInferRequest,
        respond: Respond,
        contents: wire.Contents | None = None,
        context: TraceContext = NO_CONTEXT,
    ) -> Call:
        """Begin a ModelInfer; ``contents`` are its raw contents, if they are not in the message."""

    def flush(self) -> None:
        """No other call is at hand: run, or send on, what was begun."""


class Call(Protocol):
    """A ModelInfer that was begun."""

    @property
    def waits(self) -> bool:
        """Whether it is worth watching for a caller who goes away."""

    def cancel(self, code: grpc.StatusCode) -> bool:
        """The caller went away; return whether `respond` will never be called."""


class Transport:
    """A grpc.server that answers to both names of the service.

    Args:
        service: answers the calls.
        max_message_bytes: the largest request or answer.
        way: of ModelInfer; auto is direct if this version of grpcio was tested with it.
        reuse_port: whether other processes may listen on the same port; otherwise a port in use is an error.
        guard: asks callers for tokens; None: nobody does.
        max_metadata_bytes: the largest headers of a call.
        max_connection_calls: calls in flight on one connection.
    """

    def __init__(
        self,
        service: Service,
        max_message_bytes: int,
        way: Way = "auto",
        *,
        reuse_port: bool = False,
        guard: Guard | None = None,
        max_metadata_bytes: int = 16384,
        max_connection_calls: int = 1024,
    ) -> None:
        direct = way == "direct" or (way == "auto" and grpc.__version__.startswith(TESTED_GRPCIO))
        self.server = grpc.server(
            ThreadPoolExecutor(THREADS if direct else WAITING_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_metadata_size", max_metadata_bytes),
                ("grpc.absolute_max_metadata_size", max_metadata_bytes),
                ("grpc.max_concurrent_streams", max_connection_calls),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
                ("grpc.so_reuseport", int(reuse_port)),
            ],
            interceptors=[] if guard is None else [Gate(guard)],
        )
        self._guard = guard
        self.server.add_generic_rpc_handlers(tuple(handlers(service)))
        self._direct = DirectInfer(self.server, service, guard) if direct else None

    def listen(self, address: str, files: tls.Files | None = None) -> int:
        """Take ``host:port`` and return the port.

        Args:
            address: of the port.
            files: of TLS; None: without.

        Raises:
            RuntimeError: it cannot be taken.
            StartError: the files of TLS, or that of the tokens, cannot be used.
        """
        if self._guard is not None:
            self._guard.load()
        if files is None:
            return self.server.add_insecure_port(address)
        return self.server.add_secure_port(address, tls.credentials(files))

    def start(self) -> None:
        """Answer calls."""
        if self._direct is None:
            self.server.start()
        else:
            self._direct.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls and wait for those in flight, at most so long; what is left then is cancelled."""
        self.server.stop(grace_seconds).wait()


class DirectInfer:
    """The shorter way of ModelInfer, on the completion queue of a grpc.server.

    In place of grpc.server's own loop, which blocks after each event, ours takes every event that is at hand before it
    lets the service run or send on what came: requests that came together stay together. The tags of our events are
    bound methods, called with the event; all other events are grpc.server's own and handed to it. Operation objects
    hold C structs, so each call makes its own.
    """

    def __init__(self, server: grpc.Server, service: Service, guard: Guard | None) -> None:
        self._service = service
        self._guard = guard
        self._state: Any = server._state  # type: ignore[attr-defined]  # noqa: SLF001  grpcio's own; see TESTED_GRPCIO
        self._core, self._queue = self._state.server, self._state.completion_queue
        self._methods = [Method(self, f"/{name}/ModelInfer") for name in NAMES]
        for method in self._methods:
            self._core.register_method(method.name)

    def start(self) -> None:
        """Start the server, as grpc.server would, with a loop of our own."""
        with self._state.lock:
            self._core.start()
            self._state.stage = grpc_server._ServerStage.STARTED  # noqa: SLF001
            for name in self._state.registered_method_handlers:
                grpc_server._request_registered_call(self._state, name)  # noqa: SLF001
            grpc_server._request_call(self._state)  # noqa: SLF001
        for method in self._methods:
            for _ in range(EXPECTED_CALLS):
                self.expect(method)
        threading.Thread(target=self._poll, name="grpc-poll", daemon=True).start()

    def expect(self, method: Method) -> None:
        """Ask for one more call of this method."""
        self._core.request_registered_call(self._queue, self._queue, method.name, method.begin)

    def begin(self, event: Any) -> None:
        """Begin a call."""
        DirectCall(self._service, self._guard, event)

    def _poll(self) -> None:
        service, queue = self._service, self._queue
        taken = 0
        while True:
            event = queue.poll(AT_ONCE if service.unflushed else None)
            if event.completion_type == cygrpc.CompletionType.queue_timeout or taken >= MOST_EVENTS:
                taken = 0
                _guarded(service.flush)
            if event.completion_type != cygrpc.CompletionType.queue_timeout:
                taken += 1
                if type(event.tag) is MethodType:
                    try:
                        event.tag(event)
                    except Exception:  # a defect of ours must not end the thread that polls for every call
                        log.exception("ModelInfer failed")
                elif not grpc_server._process_event_and_continue(self._state, event):  # noqa: SLF001
                    _guarded(service.flush)
                    return
            event = None  # it may hold a call that has ended, and must be gone before the next poll


class Method:
    """One of ModelInfer's two names; its `begin` is the tag of the calls that are expected."""

    def __init__(self, infer: DirectInfer, name: str) -> None:
        self.name = name
        self._infer = infer

    def begin(self, event: Any) -> None:
        """Begin a call, and expect another."""
        if event.success:  # else the server stops
            self._infer.expect(self)
            self._infer.begin(event)


class DirectCall:
    """One ModelInfer on the shorter way."""

    __slots__ = ("_answered", "_call", "_cancelled", "_context", "_deadline", "_infer", "_service", "_watched")

    def __init__(self, service: Service, guard: Guard | None, event: Any) -> None:
        """Ask for the message, unless the caller may not send it."""
        self._service = service
        self._call = event.call
        self._deadline: float | None = event.call_details.deadline
        self._context = context_of(event.invocation_metadata) if service.traced else NO_CONTEXT
        self._infer: Call | None = None
        self._watched = self._cancelled = self._answered = False
        if guard is not None:
            try:
                guard.check("ModelInfer", event.invocation_metadata)
            except ServerError as error:
                self._respond(error.code, str(error), None)
                return
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), self._received)

    def _received(self, event: Any) -> None:
        raw = event.batch_operations[0].message()
        if raw is None:  # the caller went away, or sent more than the limit
            self._watch()
            return
        try:
            message, contents = wire.parse(raw)
        except DecodeError:
            self._respond(grpc.StatusCode.INVALID_ARGUMENT, NOT_A_REQUEST, None)
            return
        infer = self._infer = self._service.infer(message, self._respond, contents, self._context)
        if self._answered:
            self._infer = None
        elif infer.waits:
            self._watch()

    def _watch(self) -> None:
        """Ask to be told when the caller goes away."""
        self._watched = True
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)

    def _closed(self, event: Any) -> None:
        infer = self._infer
        if event.batch_operations[0].cancelled() and infer is not None:
            infer.cancel(why_gone(self._deadline))

    def _respond(self, code: grpc.StatusCode, details: str, response: pb.ModelInferResponse | None) -> None:
        self._answered = True
        self._infer = None  # it knows this call: gRPC counts both as in flight while they keep each other alive
        operations = [cygrpc.SendInitialMetadataOperation((), 0)]
        if response is not None:
            operations.append(cygrpc.SendMessageOperation(response.SerializeToString(), 0))
        operations.append(cygrpc.SendStatusFromServerOperation((), code.value[0], shortened(details).encode(), 0))
        self._call.start_server_batch(tuple(operations), self._sent)

    def _sent(self, _: Any) -> None:
        """Nothing is left to do; the event kept the call alive until here."""


def handlers(service: Service) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Return the service's ordinary handlers, one set for each of its names, read off the proto files."""
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            _parsed(
                message_factory.GetMessageClass(method.input_type),
                _wait(service) if name == "ModelInfer" else _answer(getattr(service, name)),
            ),
            response_serializer=lambda response: response.SerializeToString(),
        )
        for name, method in METHODS.items()
    }
    threads = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="slow")
    for name in SLOW:
        slow: Any = methods[name].unary_unary
        slow.experimental_thread_pool = threads
    own = {name: methods.pop(name) for name in WEIGHBRIDGE.methods_by_name.keys() & methods.keys()}
    return [
        *(grpc.method_handlers_generic_handler(name, methods) for name in NAMES),
        grpc.method_handlers_generic_handler(WEIGHBRIDGE.full_name, own),
    ]


def _parsed(kind: type[Message], answer: Answer) -> Answer:
    """Parse a call's message, where grpcio would answer INTERNAL if that fails."""

    def parsed(raw: bytes, context: grpc.ServicerContext) -> Message:
        try:
            request = kind.FromString(raw)
        except DecodeError:
            return _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"the message is no {kind.DESCRIPTOR.name}")
        return answer(request, context)

    return parsed


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


def _wait(service: Service) -> Callable[[Any, grpc.ServicerContext], Message]:
    """Make ModelInfer the ordinary way: the call's thread waits for its answer."""

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> Message:
        answered: Future[tuple[grpc.StatusCode, str, pb.ModelInferResponse | None]] = Future()
        trace = context_of(context.invocation_metadata()) if service.traced else NO_CONTEXT
        call = service.infer(request, lambda *answer: answered.set_result(answer), context=trace)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.time() + remaining

        def gone() -> None:
            code = why_gone(deadline)
            if call.cancel(code):
                answered.set_result((code, "the caller went away", None))

        if not context.add_callback(gone):
            gone()
        service.flush()
        code, details, response = answered.result()
        return response or _abort(context, code, details)

    return answer


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, shortened(details))
    raise AssertionError("abort always raises")


def why_gone(deadline: float | None) -> grpc.StatusCode:
    """Tell a deadline (seconds since the epoch) that has passed from a caller that hung up."""
    passed = deadline is not None and time.time() >= deadline - ROUNDED_SECONDS
    return grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED


def _guarded(step: Callable[[], None]) -> None:
    """Keep a defect of ours from ending the thread that polls for every call."""
    try:
        step()
    except Exception:
        log.exception("ModelInfer failed")

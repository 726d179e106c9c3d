"""ModelStreamInfer: many requests on one call, begun as they come and answered in their order.

Each open stream has two threads: one reads requests and begins them, up to a bound ahead of the answers, so that they
share batches with each other and with everybody else's; the other sends the answers. They are not those of the ordinary
calls: however many streams are open, these go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from server import heads, wire
from server.infer_call import INTERNAL
from server.pb import inference_pb2 as pb
from server.trace_context import NO_CONTEXT, TraceContext, context_of
from server.transport import NAMES, NOT_A_REQUEST, Call, Service, why_gone

if TYPE_CHECKING:
    from server.infer_call import Respond

log = logging.getLogger(__name__)
AHEAD = 64
"""Requests of one stream that are begun and not answered yet; then no more of it is read."""
REFUSERS = 4
"""Threads for streams beyond the limit: they take no longer than a refusal does."""
FINAL = pb.ModelInferResponse(parameters={"triton_final_response": pb.InferParameter(bool_param=True)})
"""What a stream's answers have besides: as in Triton, where a model may answer a request in pieces, the last says so."""


class Streams:
    """Takes ModelStreamInfer calls, up to a number at a time.

    Args:
        service: answers their requests.
        most: how many may be open.
    """

    def __init__(self, service: Service, most: int) -> None:
        self.experimental_thread_pool = ThreadPoolExecutor(most + REFUSERS, thread_name_prefix="stream")
        """Read by grpcio: where it calls this object."""
        self._service = service
        self._most = most
        self._open: set[Stream] = set()
        self._ended = False
        self._lock = threading.Lock()

    def enable(self, server: grpc.Server) -> None:
        """Serve ModelStreamInfer under both names of the service; messages pass as bytes."""
        methods = {"ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods) for name in NAMES])

    def end(self) -> None:
        """End every stream once what it has begun is answered: a server that stops does not wait for its callers."""
        with self._lock:
            self._ended = True
            streams = list(self._open)
        for stream in streams:
            stream.end()

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Return the answers to a stream's requests, as they come."""
        stream = Stream(self._service, context)
        with self._lock:
            full, ended = len(self._open) >= self._most, self._ended
            if not (full or ended):
                self._open.add(stream)
        if full:
            text = f"{self._most} streams are open, the limit (--max-streams): close one, or try again later"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            if not ended:
                stream.start(requests)
                yield from stream.answers()
            if ended or stream.cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; what it had read is answered")
        finally:
            with self._lock:
                self._open.discard(stream)


class Stream:
    """One ModelStreamInfer."""

    def __init__(self, service: Service, context: grpc.ServicerContext) -> None:
        self._service = service
        self._context = context
        self._trace: TraceContext = context_of(context.invocation_metadata()) if service.traced else NO_CONTEXT
        self._turns: deque[Turn] = deque()
        self._reads = True
        self._complete = False
        """All that the caller sends was read."""
        self._ended = False
        """The server stops: no more is read."""
        self._gone: grpc.StatusCode | None = None
        self._changed = threading.Condition()

    def start(self, requests: Iterator[bytes]) -> None:
        """Begin to read."""
        remaining = self._context.time_remaining()
        deadline = None if remaining is None else time.time() + remaining
        threading.Thread(target=self._read, args=(requests,), name="stream-read", daemon=True).start()
        if not self._context.add_callback(lambda: self._leave(why_gone(deadline))):
            self._leave(why_gone(deadline))

    def answers(self) -> Iterator[bytes]:
        """Return the answers in the order of the requests, until there will be no more."""
        while True:
            with self._changed:
                self._changed.wait_for(self._can_answer)
                if not self._turns:
                    return
                turn = self._turns.popleft()
                self._changed.notify_all()
            yield turn.answer

    def end(self) -> None:
        """Read no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def cut(self) -> bool:
        """Whether the caller may have sent more than was read."""
        return self._ended and not self._complete

    def answered(self, turn: Turn) -> None:
        """Note that a request is answered."""
        with self._changed:
            if self._turns and self._turns[0] is turn:
                self._changed.notify_all()

    def _can_answer(self) -> bool:
        return bool(self._turns[0].answer) if self._turns else self._ended or not self._reads

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            for raw in requests:
                if not self._begin(raw):
                    return
            self._complete = True
        except grpc.RpcError:
            pass  # the caller went away; `_leave` is told
        except Exception:
            log.exception("ModelStreamInfer failed")
        finally:
            with self._changed:
                self._reads = False
                self._changed.notify_all()

    def _begin(self, raw: bytes) -> bool:
        """Begin a request as soon as there is room; return whether to read on."""
        turn = self._wait_for_room()
        if turn is None:
            return False
        turn.begin(self._service, raw, self._trace)
        if self._gone:
            turn.cancel(self._gone)
        return True

    def _wait_for_room(self) -> Turn | None:
        """Return the next request's place; None: the stream is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._turns) < AHEAD or self._ended or self._gone)
            if self._ended or self._gone:
                return None
            self._turns.append(turn := Turn(self))
            return turn

    def _leave(self, code: grpc.StatusCode) -> None:
        """The call is over: withdraw what still waits."""
        with self._changed:
            self._gone = code
            self._reads = False
            turns = list(self._turns)
            self._turns.clear()
            self._changed.notify_all()
        for turn in turns:
            turn.cancel(code)


class Turn:
    """One request of a stream, and its answer."""

    __slots__ = ("_call", "_id", "_stream", "answer")

    def __init__(self, stream: Stream) -> None:
        self.answer = b""
        """A ModelStreamInferResponse; empty until it is there."""
        self._stream = stream
        self._id = ""
        self._call: Call | None = None

    def begin(self, service: Service, raw: bytes, trace: TraceContext) -> None:
        """Begin the request that these bytes are."""
        try:
            message, contents = wire.parse(raw)
        except DecodeError:
            self.respond(grpc.StatusCode.INVALID_ARGUMENT, NOT_A_REQUEST, None)
            return
        self._id = message.id
        respond: Respond = self.respond
        try:
            self._call = service.infer(message, respond, contents, trace)
            service.flush()
        except Exception:
            log.exception("ModelStreamInfer failed")
            self.respond(grpc.StatusCode.INTERNAL, INTERNAL, None)
        if self.answer:
            self._call = None

    def respond(self, code: grpc.StatusCode, details: str, response: pb.ModelInferResponse | None) -> None:
        """Take the answer, or what is wrong with the request."""
        if response is None:
            refusal = pb.ModelInferResponse(id=self._id, parameters=FINAL.parameters)
            answer = pb.ModelStreamInferResponse(error_message=details or code.name, infer_response=refusal)
            self.answer = answer.SerializeToString()
        else:
            self.answer = _streamed(response.SerializeToString())
        self._call = None  # it knows this turn: neither may keep the other alive
        self._stream.answered(self)

    def cancel(self, code: grpc.StatusCode) -> None:
        """Withdraw the request, if it still waits: nobody does for its answer."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel(code)


def _streamed(response: bytes) -> bytes:
    """Return a ModelStreamInferResponse that holds this ModelInferResponse, and `FINAL` with it.

    A message's bytes after another's are both together, so nothing is parsed: a front end has only the bytes.
    """
    inner = response + _FINAL
    return heads.prefix(pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, len(inner)) + inner


_FINAL = FINAL.SerializeToString()

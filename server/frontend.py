"""A front-end process: takes calls from callers and hands them to the engine, which is the process that started it.

It parses and checks messages, and writes answers; it holds no model and does not import ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2_grpc

from server import channel, heads, reflection, wire
from server.card_watches import CardWatches
from server.channel import Channel
from server.errors import ServerError, UnavailableError
from server.health import HealthServicer
from server.limits import Limits
from server.log_settings import LINE, LogState
from server.machine import keep_message_memory, spare_collector
from server.pb import inference_pb2 as pb
from server.security import Security
from server.streaming import Streams
from server.trace_context import NO_CONTEXT, TraceContext
from server.transport import METHODS, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from server.config import Way
    from server.infer_call import Respond
    from server.tensors import Array

log = logging.getLogger(__name__)
CODES = {code.value[0]: code for code in grpc.StatusCode}
PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """What the engine tells a front end, as JSON, on its command line."""

    engine: int
    """Its process."""
    address: str
    memory: int
    """File descriptors, inherited: the shared memory, and the eventfds of both ends."""
    wake_engine: int
    wake_self: int
    arena_size: int
    max_message_bytes: int
    max_waiting: int
    """Requests that may wait for room in the shared memory."""
    max_streams: int
    max_metadata_bytes: int
    max_connection_calls: int
    limits: dict[str, int]
    """`Limits`."""
    security: dict[str, str]
    """`Security`."""
    way: Way
    log_level: str
    traced: bool
    """Whether the engine wants to know where calls come from."""


class RemoteService:
    """The service as the transport knows it; the engine answers."""

    def __init__(self, options: Options) -> None:
        self.traced = options.traced
        self._wake = options.wake_self
        self._max_waiting = options.max_waiting
        self._limits = Limits(**options.limits)
        self._channel = Channel(
            options.memory,
            options.arena_size,
            first=False,
            wake_other=options.wake_engine,
            wake_self=options.wake_self,
            lost=self._too_long,
        )
        self._numbers = itertools.count(1)
        self._calls: dict[int, RemoteCall] = {}
        self._replies: dict[int, Future[tuple[int, str, bytes]]] = {}
        self._requests = heads.RequestHeads()
        self._answers = heads.AnswerHeads()
        self._inline: set[tuple[str, str]] = set()
        self.health = HealthServicer()
        self.stopping = threading.Event()
        self.grace_seconds = 0.0

    def infer(
        self,
        message: pb.ModelInferRequest,
        respond: Respond,
        contents: wire.Contents | None = None,
        context: TraceContext = NO_CONTEXT,
    ) -> RemoteCall:
        """Begin a ModelInfer; the engine sees it with the next `flush`."""
        arrived = time.perf_counter()
        number = next(self._numbers)
        origin = (message.id, *context) if self.traced else None
        call = self._calls[number] = RemoteCall(self, number, message, arrived, origin, respond)
        try:
            contents = list(message.raw_input_contents if contents is None else contents)
            known = self._requests.read(message, contents)
            if known is None and wire.names_memory(message):
                call.prepared = True
                whole = message.SerializeToString(), tuple([bytes(each) for each in contents])
                self._channel.send((channel.MESSAGE, number, arrived, context, *whole))
            elif known is None:
                request = wire.decode(message, contents, limits=self._limits)
                call.prepared = any(array.dtype.hasobject for array in request.inputs.values())
                self._requests.learn(message, contents, request)
                head = (request.model, request.version, heads.wishes(request))
                self._send_arrays((channel.INFER, number, arrived, origin, *head), request.inputs)
            else:
                model, version, wishes, specs, sizes = known
                record = (channel.INFER, number, arrived, origin, model, version, wishes)
                if max(sizes) < channel.LARGE_BYTES:
                    self._channel.send((*record, (specs, tuple(contents))))
                else:
                    self._send_arrays(record, heads.arrays(specs, contents))
        except ServerError as error:
            self._channel.send(call.refusal(error.code, str(error)))
        return call

    def _send_arrays(self, record: channel.Record, arrays: dict[str, Array]) -> None:
        if self._channel.waiting >= self._max_waiting:
            raise UnavailableError(f"{self._max_waiting} requests wait for shared memory already: try again later")
        self._channel.send_arrays(record, arrays)

    def waits(self, wanted: tuple[str, str]) -> bool:
        """Whether calls of this model and version wait in the engine's queue, as far as its answers have told."""
        return wanted not in self._inline

    @property
    def unflushed(self) -> bool:
        """Whether something was begun that waits for `flush`."""
        return self._channel.gathered

    def flush(self) -> None:
        """Hand what was begun to the engine."""
        self._channel.flush()

    def cancel(self, call: RemoteCall, code: grpc.StatusCode) -> bool:
        """Withdraw a call; return whether it was not answered before."""
        if self._calls.pop(call.number, None) is None:
            return False
        if self._channel.withdraw(call.number):  # the engine has not seen it, but counts it
            self._channel.send(call.refusal(code, ""))
        else:
            self._channel.send((channel.CANCEL, call.number, code.value[0]))
        self._channel.flush()
        return True

    def __getattr__(self, name: str) -> Callable[[Message], Message]:
        """Return a method of the protocol that the engine carries out."""
        method = METHODS.get(name)
        if method is None:
            raise AttributeError(name)
        answer_type = message_factory.GetMessageClass(method.output_type)

        def call(message: Message) -> Message:
            number = next(self._numbers)
            reply = self._replies[number] = Future()
            self._channel.send((channel.CALL, number, name, message.SerializeToString()))
            self._channel.flush()
            code, details, answer = reply.result()
            if code:
                error = ServerError(details)
                error.code = CODES[code]
                raise error
            return answer_type.FromString(answer)

        return call

    def listening(self) -> None:
        """Tell the engine that callers are served."""
        self._channel.send((channel.LISTENING, 0))
        self._channel.flush()

    def receive(self) -> None:
        """Take what the engine has sent."""
        for record in self._channel.receive():
            try:
                self._take(*record)
            except Exception:
                log.exception("an answer failed")
        self._channel.flush()

    def serve(self) -> None:
        """Take what the engine sends, for ever."""
        while True:
            channel.wait(self._wake, stuck=self._channel.stuck)
            self.receive()

    def _take(self, kind: int, number: int, *rest: Any) -> None:
        if kind == channel.ANSWER:
            call = self._calls.pop(number, None)
            code, details, version, inline, packed = rest
            if call is None:  # nobody waits for it
                self._channel.arrays(packed)  # views that end here
                return
            if not code:
                (self._inline.add if inline else self._inline.discard)(call.wanted)
            call.answer(code, details, None if code else self._written(call, version, packed))
        elif kind == channel.WRITTEN:
            if (call := self._calls.pop(number, None)) is not None:
                code, details, written = rest
                call.answer(code, details, None if code else Written(written))
        elif kind == channel.REPLY:
            self._replies.pop(number).set_result(rest)
        elif kind == channel.HEALTH:
            self.health.set(*rest)
        elif kind == channel.LOG:
            LogState(**rest[0]).apply()
        else:
            (self.grace_seconds,) = rest
            self.stopping.set()

    def _written(self, call: RemoteCall, version: str, packed: channel.Packed) -> Written:
        specs, contents = packed
        raw = [each if type(each) is bytes else bytes(self._channel.contents(each)) for each in contents]
        return Written(self._answers.write(call.wanted[0], version, call.request_id, specs, raw))

    def _too_long(self, record: channel.Record) -> None:
        """Refuse a request that the shared memory cannot hold: its text is longer than its tensors may be."""
        self._take(
            channel.REPLY if record[0] == channel.CALL else channel.ANSWER,
            record[1],
            grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
            "the request is too long",
            *((b"",) if record[0] == channel.CALL else ("", False, ((), ()))),
        )


class RemoteCall:
    """One ModelInfer that the engine answers."""

    __slots__ = ("_arrived", "_origin", "_respond", "_service", "number", "prepared", "request_id", "wanted")

    def __init__(
        self,
        service: RemoteService,
        number: int,
        message: pb.ModelInferRequest,
        arrived: float,
        origin: channel.Origin,
        respond: Respond,
    ) -> None:
        self.number = number
        self.prepared = False
        """The engine may have to decode its images before it is queued."""
        self.wanted = (message.model_name, message.model_version)
        self._service = service
        self.request_id = message.id
        self._arrived = arrived
        self._origin = origin
        self._respond = respond

    @property
    def waits(self) -> bool:
        """Whether it is worth watching for a caller who goes away."""
        return self.prepared or self._service.waits(self.wanted)

    def cancel(self, code: grpc.StatusCode) -> bool:
        """The caller went away; return whether the call was not answered before: `respond` is then never called."""
        return self._service.cancel(self, code)

    def refusal(self, code: grpc.StatusCode, details: str) -> channel.Record:
        """Return the record of a call that goes no further; the engine counts it, and answers."""
        return (channel.REFUSE, self.number, self._arrived, self._origin, *self.wanted, code.value[0], details)

    def answer(self, code: int, details: str, response: Written | None) -> None:
        """Answer the caller."""
        self._respond(CODES[code], details, response)


class Written:
    """A ModelInferResponse that is written already."""

    __slots__ = ("_bytes",)

    def __init__(self, written: bytes) -> None:
        self._bytes = written

    def SerializeToString(self) -> bytes:  # noqa: N802  protobuf's name
        """Return it."""
        return self._bytes


def main(arguments: list[str]) -> int:
    """Serve until the engine says stop; return the exit code."""
    options = Options(**json.loads(arguments[0]))
    _end_with(options.engine)
    logging.basicConfig(stream=sys.stderr, level=options.log_level.upper(), format=LINE)
    keep_message_memory()
    service = RemoteService(options)
    service.receive()  # health, as it is now
    security = Security(**options.security)
    transport = Transport(
        service,
        options.max_message_bytes,
        options.way,
        reuse_port=True,
        guard=security.guard(),
        max_metadata_bytes=options.max_metadata_bytes,
        max_connection_calls=options.max_connection_calls,
    )
    health_pb2_grpc.add_HealthServicer_to_server(service.health, transport.server)
    reflection.enable(transport.server)
    streams = Streams(service, options.max_streams)
    streams.enable(transport.server)
    watches = CardWatches(service, options.max_streams)
    watches.enable(transport.server)
    try:
        transport.listen(options.address, security.tls)
    except RuntimeError:
        log.error("cannot listen on %s", options.address)  # noqa: TRY400  one line: grpcio has told the cause
        return 1
    transport.start()
    threading.Thread(target=service.serve, name="answers", daemon=True).start()
    spare_collector()
    service.listening()
    service.stopping.wait()
    service.health.end_watches()
    streams.end()
    watches.end()
    transport.stop(service.grace_seconds)
    return 0


def _end_with(engine: int) -> None:
    """Leave the signals that stop to the engine, and end when it ends, even by SIGKILL."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != engine:  # it has ended already
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

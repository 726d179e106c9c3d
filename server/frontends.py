"""The engine's side of `--frontends`: starts the front-end processes, and carries out what they hand over."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf import message_factory

from server import channel, security, wire
from server.channel import Channel
from server.errors import ServerError, StartError
from server.frontend import CODES, Options
from server.infer_call import INTERNAL, InferCall
from server.pb import inference_pb2 as pb
from server.trace_context import NO_CONTEXT, TraceContext
from server.transport import METHODS, SLOW, SLOW_THREADS, TESTED_GRPCIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.config import Settings
    from server.log_settings import LogState
    from server.log_settings import Value as LogValue
    from server.model import Model
    from server.service import InferenceService
    from server.tensors import Array

log = logging.getLogger(__name__)
Encoded: TypeAlias = "tuple[str, bool, channel.Packed | None, dict[str, Array] | None]"
"""The version that ran, whether it runs inline, and its outputs: packed, or aside."""
START_SECONDS = 60.0
"""How long a front end may take until it listens."""
SETTLED_SECONDS = 10.0
"""One that lived this long is replaced at once; the pause before others doubles up to the longest."""
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
POLLING = "-event_engine_listener,-event_engine_client"
"""Of grpcio, in a front end: the thread that takes calls reads the sockets too, rather than threads that wake it. With
two front ends on 2 cores the median of five runs was 10,946 requests/s against 10,003; with a single process, which has
a core to spare for those threads, 7,987 against 9,080."""
CALL_THREADS = 16
"""For calls other than ModelInfer."""
STOP_SECONDS = 5.0
"""Beyond the grace, for the processes to end."""


class FrontEnds:
    """The front-end processes on one port, each replaced when it dies.

    Args:
        service: carries their calls out.
        settings: how many there are, and how they serve.
    """

    def __init__(self, service: InferenceService, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._address = ""
        self._held: list[socket.socket] = []
        self._wake = os.eventfd(0)
        self._all: tuple[FrontEnd, ...] = ()
        self._health: dict[str, int] = {}
        self._log: dict[str, LogValue] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._closed = False
        self._started: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="call")
        self._slow = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="slow")
        self._reader = threading.Thread(target=self._read, name="front-ends", daemon=True)
        self._keepers = [
            threading.Thread(target=self._keep, args=(index,), name=f"front-end-{index}", daemon=True)
            for index in range(settings.frontends)
        ]

    def listen(self, host: str, port: int) -> int:
        """Hold ``host:port`` for the front ends and return the port.

        Raises:
            OSError: it cannot be taken.
        """
        self._held, port = hold(host, port)
        self._address = f"{host}:{port}"
        return port

    def start(self) -> None:
        """Start the processes; they listen some time after."""
        self._reader.start()
        for keeper in self._keepers:
            keeper.start()

    def wait(self) -> None:
        """Block until every front end listens.

        Raises:
            StartError: one of them cannot.
        """
        for _ in self._keepers:
            try:
                failure = self._started.get(timeout=START_SECONDS)
            except queue.Empty:
                failure = f"does not listen within {START_SECONDS:g} s"
            if failure:
                raise StartError(f"front end {failure}; the log above may tell why")

    def tell_health(self, service: str, status: int) -> None:
        """Have every front end tell this status of a service."""
        with self._lock:
            if self._health.get(service) == status:
                return
            self._health[service] = status
            for front in self._all:
                front.channel.send((channel.HEALTH, 0, service, status))
                front.channel.flush()

    def tell_log(self, state: LogState) -> None:
        """Have every front end log so."""
        with self._lock:
            self._log = dataclasses.asdict(state)
            for front in self._all:
                front.channel.send((channel.LOG, 0, self._log))
                front.channel.flush()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls and wait for those in flight, at most so long; what is left then is cut off."""
        with self._lock:
            self._stopping.set()
            for front in self._all:
                front.channel.send((channel.STOP, 0, grace_seconds))
                front.channel.flush()
        end = time.monotonic() + grace_seconds + STOP_SECONDS
        for keeper in self._keepers:
            if keeper.ident is not None:
                keeper.join(max(0.0, end - time.monotonic()))
        for front in self._all:
            front.process.kill()
        self._closed = True
        os.eventfd_write(self._wake, 1)
        if self._reader.ident is not None:
            self._reader.join()
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)
        for each in self._held:
            each.close()

    def _keep(self, index: int) -> None:
        """Have one front end run until the server stops."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # the process inherits it
        pause = 0.0
        while not self._stopping.wait(pause):
            began = time.monotonic()
            how = self._run()
            if self._stopping.is_set():
                return
            settled = time.monotonic() - began > SETTLED_SECONDS
            pause = 0.0 if settled else min(LONGEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_SECONDS, 2 * pause))
            self._service.metrics.frontend_restarts.inc()
            log.warning("front end %d %s; its calls failed, the next one starts in %g s", index, how, pause)

    def _run(self) -> str:
        """Run one process until it ends, and say how it did."""
        front = FrontEnd(self._service, self._settings, self._address, self._wake, self._started, self._submit)
        try:
            with self._lock:
                if self._stopping.is_set():
                    return "was not started"
                for service, status in self._health.items():
                    front.channel.send((channel.HEALTH, 0, service, status))
                if self._log:
                    front.channel.send((channel.LOG, 0, self._log))
                front.start()
                self._all = (*self._all, front)
        except OSError as error:
            how = f"cannot be started: {error}"
        else:
            how = f"(process {front.process.pid}) ended with exit code {front.process.wait()}"
            front.ended = True
            os.eventfd_write(self._wake, 1)
        if not front.listens:
            self._started.put(how)
        return how

    def _read(self) -> None:
        """Carry out what the front ends hand over, for ever: all that is there at once, so that batches form of it."""
        while not self._closed:
            channel.wait(self._wake, stuck=any(front.channel.stuck for front in self._all))
            for front in self._all:
                front.receive()
            self._service.flush()
            for front in self._all:
                front.channel.flush()
                if front.ended:
                    self._bury(front)

    def _submit(self, carry_out: Callable[..., None], number: int, name: str, raw: bytes) -> None:
        """Have a call other than ModelInfer carried out by a thread."""
        (self._slow if name in SLOW else self._pool).submit(carry_out, number, name, raw)

    def _bury(self, front: FrontEnd) -> None:
        with self._lock:
            self._all = tuple(each for each in self._all if each is not front)
        front.close()


class FrontEnd:
    """One front-end process, as the engine knows it."""

    def __init__(
        self,
        service: InferenceService,
        settings: Settings,
        address: str,
        wake: int,
        started: queue.SimpleQueue[str],
        submit: Callable[..., None],
    ) -> None:
        self._service = service
        self._started = started
        self._submit = submit
        self._calls: dict[int, Pending] = {}
        self._wake = os.eventfd(0)
        arena_size = channel.arena_bytes(settings.max_message_bytes)
        self._memory = channel.create_memory(arena_size)
        self._options = Options(
            engine=os.getpid(),
            address=address,
            memory=self._memory,
            wake_engine=wake,
            wake_self=self._wake,
            arena_size=arena_size,
            max_message_bytes=settings.max_message_bytes,
            max_waiting=settings.max_queue_size,
            max_streams=settings.max_streams,
            max_metadata_bytes=settings.max_metadata_bytes,
            max_connection_calls=settings.max_connection_calls,
            limits=dataclasses.asdict(settings.limits),
            security=dataclasses.asdict(security.of(settings)),
            way=settings.way,
            log_level=settings.log_level,
            traced=service.traced,
        )
        self.channel = Channel(
            self._memory, arena_size, first=True, wake_other=self._wake, wake_self=wake, lost=self._too_long
        )
        self.process: subprocess.Popen[bytes]
        self.listens = False
        self.ended = False
        self.reader = 0

    def start(self) -> None:
        """Start the process. It ends when the thread that calls this ends."""
        self.channel.flush()
        environment = dict(os.environ)
        # where this `server` is, and no folder of that name where the user stands (-P)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
        )
        if grpc.__version__.startswith(TESTED_GRPCIO):
            environment.setdefault("GRPC_EXPERIMENTS", POLLING)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.frontend", json.dumps(dataclasses.asdict(self._options))],
            pass_fds=(self._options.memory, self._options.wake_engine, self._options.wake_self),
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        os.close(self._memory)  # it is mapped

    def close(self) -> None:
        """Withdraw its calls; the process has ended."""
        for answer in list(self._calls.values()):
            answer.cancel(grpc.StatusCode.CANCELLED)
        self.channel.close()
        os.close(self._wake)

    def receive(self) -> None:
        """Carry out what it has sent."""
        self.reader = threading.get_ident()
        for record in self.channel.receive():
            try:
                self._take(*record)
            except Exception:
                log.exception("a front end's call failed")

    def send(self, record: channel.Record, arrays: dict[str, Array] | None = None) -> None:
        """Send a record; from the thread that receives it goes with the others that are gathered."""
        if arrays is None:
            self.channel.send(record)
        else:
            self.channel.send_arrays(record, arrays)
        if threading.get_ident() != self.reader:
            self.channel.flush()

    def forget(self, number: int) -> None:
        """Note that a call is answered."""
        self._calls.pop(number, None)

    def _take(self, kind: int, number: int, *rest: Any) -> None:
        if kind == channel.INFER:
            self._infer(number, *rest)
        elif kind == channel.MESSAGE:
            self._infer_message(number, *rest)
        elif kind == channel.REFUSE:
            self._refuse(number, *rest)
        elif kind == channel.CANCEL:
            if (answer := self._calls.pop(number, None)) is not None:
                answer.cancel(CODES[rest[0]])
        elif kind == channel.CALL:
            self._submit(self._call, number, *rest)
        else:
            self.listens = True
            self._started.put("")

    def _infer(
        self,
        number: int,
        arrived: float,
        origin: channel.Origin,
        model: str,
        version: str,
        wishes: tuple[float, int, tuple[tuple[str, int], ...]],
        packed: channel.Packed,
    ) -> None:
        timeout_seconds, priority, outputs = wishes
        wanted = tuple([wire.RequestedOutput(*each) for each in outputs]) if outputs else ()
        inputs = self.channel.arrays(packed)
        request_id, context = _split(origin)
        request = wire.InferRequest(model, version, request_id, inputs, wanted, timeout_seconds, priority)
        answer = self._calls[number] = Answer(self, number)
        answer.begun(self._service.infer_decoded(request, arrived, answer.encode, answer.respond, context))

    def _infer_message(
        self, number: int, arrived: float, context: TraceContext, message: bytes, contents: tuple[bytes, ...]
    ) -> None:
        request = pb.ModelInferRequest.FromString(message)
        answer = self._calls[number] = MessageAnswer(self, number)
        answer.begun(self._service.infer(request, answer.respond, contents, context, arrived))

    def _refuse(
        self, number: int, arrived: float, origin: channel.Origin, model: str, version: str, code: int, details: str
    ) -> None:
        """Answer, and count, a request that the front end refused; what is wrong with its model goes first."""

        def refused() -> wire.InferRequest:
            error = ServerError(details)
            error.code = CODES[code]
            raise error

        answer = Answer(self, number)
        request_id, context = _split(origin)
        call = InferCall(self._service, model, version, arrived, answer.encode, answer.respond)
        call.begin(refused, request_id, context)

    def _call(self, number: int, name: str, raw: bytes) -> None:
        """Carry out a call other than ModelInfer, in a thread of the pool."""
        method = METHODS[name]
        code, details, reply = grpc.StatusCode.OK, "", b""
        try:
            request = message_factory.GetMessageClass(method.input_type).FromString(raw)
            reply = getattr(self._service, name)(request).SerializeToString()
        except ServerError as error:
            code, details = error.code, str(error)
        except Exception:
            log.exception("%s failed", name)
            code, details = grpc.StatusCode.INTERNAL, INTERNAL
        self.channel.send((channel.REPLY, number, code.value[0], details, reply))
        self.channel.flush()

    def _too_long(self, record: channel.Record) -> None:
        """Refuse what the shared memory cannot hold in place of its answer."""
        code, details = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "the answer is too long"
        rest = (b"",) if record[0] == channel.REPLY else ("", False, ((), ()))
        self.channel.send((record[0], record[1], code, details, *rest))


class Pending:
    """One ModelInfer that a front end has handed over."""

    __slots__ = ("_answered", "_call", "_front", "_number")

    def __init__(self, front: FrontEnd, number: int) -> None:
        self._front = front
        self._number = number
        self._answered = False
        self._call: InferCall | None = None

    def begun(self, call: InferCall) -> None:
        """Note the call, to be withdrawn by, unless it is answered already."""
        self._call = call
        if self._answered:
            self._call = None

    def cancel(self, code: grpc.StatusCode) -> None:
        """Have the call withdrawn: nobody waits for it any more."""
        if self._call is not None:
            self._call.cancel(code)

    def over(self) -> None:
        """Note that it is answered. Its call knows this object, and its tensors go once nothing holds both."""
        self._front.forget(self._number)
        self._answered, self._call = True, None


class Answer(Pending):
    """Where the outcome of one goes."""

    __slots__ = ()

    def encode(self, model: Model, outputs: dict[str, Array]) -> Encoded:
        """Copy the outputs into a record's form; where there is no room, aside, to wait for some."""
        packed = self._front.channel.pack(outputs)
        aside = None if packed is not None else {name: array.copy() for name, array in outputs.items()}
        return model.version, model.inline, packed, aside

    def respond(self, code: grpc.StatusCode, details: str, encoded: Encoded | None) -> None:
        """Send the outcome."""
        self.over()
        version, inline, packed, aside = encoded or ("", False, ((), ()), None)
        record = (channel.ANSWER, self._number, code.value[0], details, version, inline)
        if packed is None:
            self._front.send(record, aside)
        else:
            self._front.send((*record, packed))


class MessageAnswer(Pending):
    """Where the outcome of one goes that was handed over as a message."""

    __slots__ = ()

    def respond(self, code: grpc.StatusCode, details: str, response: pb.ModelInferResponse | None) -> None:
        """Send the outcome."""
        self.over()
        written = b"" if response is None else response.SerializeToString()
        self._front.send((channel.WRITTEN, self._number, code.value[0], details, written))


def _split(origin: channel.Origin) -> tuple[str, TraceContext]:
    """Return the request's id and the context of its caller's trace."""
    return (origin[0], origin[1:]) if origin else ("", NO_CONTEXT)


def hold(host: str, port: int) -> tuple[list[socket.socket], int]:
    """Take a port for processes that this one starts, without listening on it; they listen with SO_REUSEPORT.

    It is taken alone, so that a port in use is an error, and shared only afterwards: with the processes of this user
    that ask for it with SO_REUSEPORT, which no server does that takes its port by this function.

    Args:
        host: every address that it stands for is taken.
        port: 0 for any free one.

    Returns:
        The sockets, to be kept open, and the port.

    Raises:
        OSError: it is in use, or no address of this machine.
    """
    held: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            held.append(one := socket.socket(family, kind, protocol))
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that a server before us has closed
            one.bind((address[0], port, *address[2:]))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # from here on it is ours alone
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = one.getsockname()[1]
    except OSError:
        for one in held:
            one.close()
        raise
    return held, port

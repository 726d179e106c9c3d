"""The callers: what sends requests to a server, one at a time or many at once, and times the replies.

Requests are serialised once, beforehand, and replies stay bytes, so that the caller costs little of the machine that it
shares with the server. Latency is what the client saw: from handing the request over to having the reply's bytes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import numpy as np

from server.pb import inference_pb2

if sys.platform == "win32":  # uvloop is not made for it
    new_event_loop = None
else:
    from uvloop import new_event_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # each load has a connection of its own
    ("grpc.enable_http_proxy", 0),
)
REPLY_TIMEOUT_SECONDS = 60.0
ERROR_PAUSE_SECONDS = 0.01  # a server that refuses at once is not asked in a busy loop
DATATYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype(np.float32)}


@dataclass(frozen=True)
class Window:
    """How long callers go on: at least `seconds`, and on to `min_replies`, but never past `max_seconds`."""

    seconds: float
    min_replies: int = 0
    max_seconds: float = 0.0

    def is_open(self, elapsed_seconds: float, replies: int) -> bool:
        """Return whether a caller may send once more."""
        if elapsed_seconds < self.seconds:
            return True
        return replies < self.min_replies and elapsed_seconds < self.max_seconds


@dataclass(frozen=True, eq=False)
class Load:
    """What a number of callers saw, warm-up left out.

    Attributes:
        callers: how many requests were under way at any time.
        seconds: from the first request to the last reply.
        latencies: float64 [count], seconds, of the replies with status OK, in the order of their arrival.
        errors: replies with any other status, by its name.
        first_error: status and message of the first of them.
    """

    callers: int
    seconds: float
    latencies: NDArray[np.float64]
    errors: dict[str, int]
    first_error: str | None

    @property
    def count(self) -> int:
        """Replies with status OK."""
        return int(self.latencies.size)

    @property
    def error_count(self) -> int:
        """Replies with any other status."""
        return sum(self.errors.values())


def serialise(model: str, images: NDArray[Any], *, input_name: str, datatype: str) -> list[bytes]:
    """Return one serialised ModelInferRequest of batch 1 for each image of `images` [count, ...]."""
    requests = []
    for image in images.astype(DATATYPES[datatype], copy=False):
        request = inference_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=input_name, datatype=datatype, shape=(1, *image.shape))
        request.raw_input_contents.append(image.tobytes())
        requests.append(request.SerializeToString())
    return requests


def one_at_a_time(address: str, requests: Sequence[bytes], window: Window, *, warm_up_seconds: float = 0.5) -> Load:
    """Return what one caller saw that sends a request when it has the reply to the last, through a blocking channel.

    The blocking channel answers a single caller some 10 % sooner than grpc.aio, and is what such a caller would use.
    """
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = cast("Callable[..., bytes]", channel.unary_unary(METHOD, None, None))
        _ask_in_turn(call, requests, Window(warm_up_seconds))
        return _ask_in_turn(call, requests, window)


def closed_loop(
    address: str,
    requests: Sequence[bytes],
    callers: int,
    window: Window,
    *,
    warm_up_seconds: float = 0.5,
    connections: int = 1,
) -> Load:
    """Return what `callers` callers saw, each sending when it has the reply to its last request.

    Requests under way when the window closes are waited for and counted; `Load.seconds` reaches to the last reply. Over
    several connections, callers take them in turn: a server of several processes gets whole connections, not requests.
    """
    return run(_closed_loop(address, requests, callers, window, warm_up_seconds, connections))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in an event loop of its own, uvloop's where there is one; return what it returns."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def _closed_loop(
    address: str, requests: Sequence[bytes], callers: int, window: Window, warm_up_seconds: float, connections: int
) -> Load:
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(connections):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS))
            calls.append(cast("Callable[..., Awaitable[bytes]]", channel.unary_unary(METHOD, None, None)))
        await _ask_at_once(calls, requests, callers, Window(warm_up_seconds))
        return await _ask_at_once(calls, requests, callers, window)


class _Tally:
    """Collects replies and errors of one window."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.first_error: str | None = None
        self.start = time.perf_counter()

    def is_open(self) -> bool:
        return self.window.is_open(time.perf_counter() - self.start, len(self.latencies))

    def reply(self, sent: float, content: bytes) -> None:
        if content:
            self.latencies.append(time.perf_counter() - sent)
        else:
            self.error("EMPTY", "the status is OK but the reply has no bytes")

    def error(self, code: str, details: str) -> None:
        self.errors[code] += 1
        self.first_error = self.first_error or f"{code}: {details}"

    def load(self, callers: int) -> Load:
        seconds = time.perf_counter() - self.start
        return Load(callers, seconds, np.array(self.latencies, np.float64), dict(self.errors), self.first_error)


def _ask_in_turn(call: Callable[..., bytes], requests: Sequence[bytes], window: Window) -> Load:
    tally, source = _Tally(window), cycle(requests)
    while tally.is_open():
        sent = time.perf_counter()
        try:
            tally.reply(sent, call(next(source), timeout=REPLY_TIMEOUT_SECONDS))
        except grpc.RpcError as error:
            tally.error(error.code().name, error.details() or "")
            time.sleep(ERROR_PAUSE_SECONDS)
    return tally.load(1)


async def _ask_at_once(
    calls: Sequence[Callable[..., Awaitable[bytes]]], requests: Sequence[bytes], callers: int, window: Window
) -> Load:
    tally, source = _Tally(window), cycle(requests)

    async def caller(call: Callable[..., Awaitable[bytes]]) -> None:
        while tally.is_open():
            sent = time.perf_counter()
            try:
                tally.reply(sent, await call(next(source), timeout=REPLY_TIMEOUT_SECONDS))
            except grpc.aio.AioRpcError as error:
                tally.error(error.code().name, error.details() or "")
                await asyncio.sleep(ERROR_PAUSE_SECONDS)

    await asyncio.gather(*(caller(calls[number % len(calls)]) for number in range(callers)))
    return tally.load(callers)

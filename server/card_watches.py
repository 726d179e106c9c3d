"""WatchCards: a stream of cost cards as they change.

Each open stream has a thread, which looks at the cards once in an interval and sends those that are other than they
were. The cards are ListCards', asked for once for all streams that look at about the same time. A thread makes the next
message when the last one is on its way: a caller who reads slowly holds up his own thread, and nothing is kept for him
but what he was told last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from server.errors import InvalidArgumentError, ServerError, UnavailableError
from server.infer_call import INTERNAL
from server.limits import shortened
from server.pb import netweight_pb2 as pb
from server.transport import WEIGHBRIDGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)
DEFAULT_MILLISECONDS, SHORTEST_MILLISECONDS, LONGEST_MILLISECONDS = 1000, 100, 60_000
SNAPSHOT_SECONDS = 0.1
"""The age up to which cards are shared: the shortest interval, so that who watches alone has new ones each time."""
SENDING_SECONDS = 0.25
"""What a server that stops gives messages that are on their way: a caller who reads is told why his stream ends."""
REFUSERS = 4
"""Threads for streams beyond the limit: they take no longer than a refusal does."""


class Service(Protocol):
    """What a watch needs of the service."""

    @property
    def ListCards(self) -> Callable[[pb.ListCardsRequest], Any]:  # noqa: N802  the protocol's name
        """Answers that call."""


class CardWatches:
    """Takes WatchCards calls, up to a number at a time.

    Args:
        service: has the cards.
        most: how many may be open.
    """

    def __init__(self, service: Service, most: int) -> None:
        self.experimental_thread_pool = ThreadPoolExecutor(most + REFUSERS, thread_name_prefix="cards")
        """Read by grpcio: where it calls this object."""
        self._snapshots = Snapshots(service)
        self._most = most
        self._open: set[Watch] = set()
        self._ended = False
        self._lock = threading.Lock()

    def enable(self, server: grpc.Server) -> None:
        """Serve WatchCards; messages pass as bytes."""
        methods = {"WatchCards": grpc.unary_stream_rpc_method_handler(self)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(WEIGHBRIDGE.full_name, methods)])

    def end(self) -> None:
        """End every stream: a server that stops does not wait for its watchers, nor for one who does not read."""
        with self._lock:
            self._ended = True
            watches = list(self._open)
        for watch in watches:
            watch.wake()
        end = time.monotonic() + SENDING_SECONDS
        for watch in watches:
            watch.cut(max(0.0, end - time.monotonic()))

    def __call__(self, raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Return the messages of a stream, as they come."""
        watch = Watch(self._snapshots, context)
        with self._lock:
            full = len(self._open) >= self._most
            if not full:
                self._open.add(watch)
        if full:
            text = f"{self._most} streams of cards are open, the limit (--max-streams): close one, or try again later"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        failure = ServerError(INTERNAL)
        try:
            yield from self._follow(watch, raw, context)
        except DecodeError:
            failure = InvalidArgumentError("the message is no WatchCardsRequest")
        except ServerError as error:
            failure = error
        except Exception:
            log.exception("WatchCards failed")
        finally:
            with self._lock:
                self._open.discard(watch)
        context.abort(failure.code, shortened(str(failure)))

    def _follow(self, watch: Watch, raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yield messages until the caller leaves or the server stops.

        Raises:
            UnavailableError: the server stops, or the caller has left, who is not told.
        """
        if context.add_callback(watch.wake):
            while not self._ended and context.is_active():
                message = watch.message(raw)
                if message is not None and self._begins(watch):
                    yield message
                    watch.sent()
                watch.wait()
        raise UnavailableError("the server is stopping")

    def _begins(self, watch: Watch) -> bool:
        """Have a watch send, unless the server stops: `end` sees each one that sends, and none begins after it."""
        with self._lock:
            if not self._ended:
                watch.sends()
            return not self._ended


class Snapshots:
    """The cards, made once for all who look at about the same time.

    Args:
        service: has the cards.
        clock: tells seconds.
    """

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._made: dict[str, tuple[float, Mapping[tuple[str, str], pb.Card]]] = {}
        """By the model that was asked for: when they were made, and they. Those too old go at the next look."""
        self._lock = threading.Lock()
        """Held while cards are made: who comes meanwhile waits for them, and makes none of his own."""

    def cards(self, model: str) -> Mapping[tuple[str, str], pb.Card]:
        """Return the cards of a model, or of all, by name and version; they are everybody's, and not to be changed.

        Raises:
            ServerError: the service's.
        """
        with self._lock:
            oldest = self._clock() - SNAPSHOT_SECONDS
            self._made = {name: made for name, made in self._made.items() if made[0] > oldest}
            if model not in self._made:
                listed = self._service.ListCards(pb.ListCardsRequest(model=model)).cards
                # as of now: were it as of before, those who waited for cards that took long would make them again
                self._made[model] = self._clock(), {(each.model, each.version): each for each in listed}
            return self._made[model][1]


class Watch:
    """One stream, and what it was told last.

    Args:
        snapshots: have the cards.
        context: of the call.
    """

    def __init__(self, snapshots: Snapshots, context: grpc.ServicerContext) -> None:
        self._snapshots = snapshots
        self._context: Any = context  # its cancel has no types
        self._request: pb.WatchCardsRequest | None = None
        self._told: Mapping[tuple[str, str], pb.Card] = {}
        self._over = threading.Event()
        self._idle = threading.Event()
        """Set while no message is on its way."""
        self._idle.set()

    def wake(self) -> None:
        """End the wait: the caller left, or the server stops."""
        self._over.set()

    def sends(self) -> None:
        """Take note that a message is on its way from here on."""
        self._idle.clear()

    def sent(self) -> None:
        """Take note that it has arrived, or that there is room for it on the way."""
        self._idle.set()

    def cut(self, seconds: float) -> None:
        """Cancel the call if a message is still on its way after so many seconds: its caller does not read."""
        if not self._idle.wait(seconds):
            self._context.cancel()

    def wait(self) -> None:
        """Wait until the next message may go."""
        assert self._request is not None
        self._over.wait((self._request.interval_ms or DEFAULT_MILLISECONDS) / 1000)

    def message(self, raw: bytes) -> bytes | None:
        """Return a message if something has changed, or it is the first.

        Raises:
            DecodeError: the request cannot be read.
            ServerError: it asks for what there is not.
        """
        first = self._request is None
        if self._request is None:
            self._request = _checked(pb.WatchCardsRequest.FromString(raw))
        message = self._changes(self._request.model, first=first)
        return message.SerializeToString() if first or message.cards or message.forgotten else None

    def _changes(self, model: str, *, first: bool) -> pb.WatchCardsResponse:
        now: Mapping[tuple[str, str], pb.Card] = {}
        try:
            now = self._snapshots.cards(model)
        except ServerError as error:  # from another process it has no class of its own
            if first or error.code != grpc.StatusCode.NOT_FOUND:
                raise
        changed = [each for key, each in now.items() if self._told.get(key) != each]
        forgotten = [pb.VersionName(model=name, version=version) for name, version in self._told.keys() - now.keys()]
        self._told = now
        return pb.WatchCardsResponse(cards=changed, forgotten=forgotten)


def _checked(request: pb.WatchCardsRequest) -> pb.WatchCardsRequest:
    if request.interval_ms and not SHORTEST_MILLISECONDS <= request.interval_ms <= LONGEST_MILLISECONDS:
        raise InvalidArgumentError(
            f"interval_ms is {request.interval_ms}; expected {SHORTEST_MILLISECONDS} to {LONGEST_MILLISECONDS}, "
            f"or 0 for {DEFAULT_MILLISECONDS}"
        )
    return request

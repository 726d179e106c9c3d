"""WatchCards: a stream of cost cards as they change.

Each open stream has a thread, which asks for the cards once in an interval, as ListCards does, and sends those that are
other than they were. It makes the next message when the last one is on its way: a caller who reads slowly holds up his
own thread, and nothing is kept for him but what he was told last.
"""

from __future__ import annotations

import logging
import threading
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
    from collections.abc import Callable

log = logging.getLogger(__name__)
DEFAULT_MILLISECONDS, SHORTEST_MILLISECONDS, LONGEST_MILLISECONDS = 1000, 100, 60_000
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
        self._service = service
        self._most = most
        self._open: set[Watch] = set()
        self._ended = False
        self._lock = threading.Lock()

    def enable(self, server: grpc.Server) -> None:
        """Serve WatchCards; messages pass as bytes."""
        methods = {"WatchCards": grpc.unary_stream_rpc_method_handler(self)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(WEIGHBRIDGE.full_name, methods)])

    def end(self) -> None:
        """End every stream: a server that stops does not wait for its watchers."""
        with self._lock:
            self._ended = True
            watches = list(self._open)
        for watch in watches:
            watch.wake()

    def __call__(self, raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Return the messages of a stream, as they come."""
        watch = Watch(self._service)
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
                yield from watch.messages(raw)
                watch.wait()
        raise UnavailableError("the server is stopping")


class Watch:
    """One stream, and what it was told last."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._request: pb.WatchCardsRequest | None = None
        self._told: dict[tuple[str, str], pb.Card] = {}
        self._over = threading.Event()

    def wake(self) -> None:
        """End the wait: the caller left, or the server stops."""
        self._over.set()

    def wait(self) -> None:
        """Wait until the next message may go."""
        assert self._request is not None
        self._over.wait((self._request.interval_ms or DEFAULT_MILLISECONDS) / 1000)

    def messages(self, raw: bytes) -> Iterator[bytes]:
        """Yield a message if something has changed, or it is the first.

        Raises:
            DecodeError: the request cannot be read.
            ServerError: it asks for what there is not.
        """
        first = self._request is None
        if self._request is None:
            self._request = _checked(pb.WatchCardsRequest.FromString(raw))
        message = self._changes(self._request.model, first=first)
        if first or message.cards or message.forgotten:
            yield message.SerializeToString()

    def _changes(self, model: str, *, first: bool) -> pb.WatchCardsResponse:
        try:
            listed = self._service.ListCards(pb.ListCardsRequest(model=model)).cards
        except ServerError as error:  # from another process it has no class of its own
            if first or error.code != grpc.StatusCode.NOT_FOUND:
                raise
            listed = []
        now = {(each.model, each.version): each for each in listed}
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

"""grpc.health.v1, derived from the models' states: it holds no opinion of its own."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health, health_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.service import InferenceService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WATCHERS = 256
"""Callers of Watch at a time; more wait for one of them to go."""


class HealthServicer(health.HealthServicer):
    """The standard service, whose open Watch calls can be ended; each of them holds one thread of a pool of its own.

    Its other way, without a thread for each, sends while it holds the lock that the thread that polls for every call
    takes when a watcher goes away: both wait for each other for ever.
    """

    def __init__(self) -> None:
        watchers = ThreadPoolExecutor(WATCHERS, thread_name_prefix="watch")
        super().__init__(experimental_non_blocking=False, experimental_thread_pool=watchers)
        self._watches: weakref.WeakSet[Any] = weakref.WeakSet()
        self._told: dict[str, int] = {}

    def set(self, service: str, status: int) -> None:
        """Take a service's status; those who watch are told if it has changed."""
        if self._told.get(service) != status:
            self._told[service] = status
            super().set(service, status)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802  as generated
        """Return the statuses of a service, as they come."""
        watch = super().Watch(request, context, send_response_callback)
        self._watches.add(watch)
        return watch

    def end_watches(self) -> None:
        """End every Watch once it has told what it knows: a server that stops does not wait for its watchers."""
        for watch in list(self._watches):
            watch.close()


class Health:
    """Tells the standard health service what the server's states amount to.

    Service "" is the server (SERVING as ServerReady is true); a model's name is that model (SERVING while one of its
    versions is READY).

    Args:
        service: whose states they are.
        tell: is called with each service's name and status as well, whether or not it has changed.
    """

    def __init__(self, service: InferenceService, tell: Callable[[str, int], None] | None = None) -> None:
        self.servicer = HealthServicer()
        self._service = service
        self._tell = tell
        self._lock = threading.Lock()

    def update(self) -> None:
        """Derive every service's status anew, and tell those who watch. Any thread may call."""
        with self._lock:
            self._set("", self._service.ready())
            serving: dict[str, bool] = {}
            for status in self._service.repository.index():
                ready = status.state == "READY" and not self._service.draining
                serving[status.name] = serving.get(status.name, False) or ready
            for name, ready in serving.items():
                self._set(name, ready)

    def _set(self, name: str, serving: bool) -> None:
        status = SERVING if serving else NOT_SERVING
        self.servicer.set(name, status)
        if self._tell is not None:
            self._tell(name, status)

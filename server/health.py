"""grpc.health.v1, derived from the models' states: it holds no opinion of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2

if TYPE_CHECKING:
    from server.service import InferenceService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Tells the standard health service what the server's states amount to.

    Service "" is the server (SERVING as ServerReady is true); a model's name is that model (SERVING while one of its
    versions is READY).
    """

    def __init__(self, service: InferenceService) -> None:
        self.servicer = health.HealthServicer()
        self._service = service
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
        self.servicer.set(name, SERVING if serving else NOT_SERVING)

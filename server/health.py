"""grpc.health.v1, derived from the models' states: it holds no opinion of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

if TYPE_CHECKING:
    from server.repository import Repository
    from server.service import InferenceService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Tells the standard health service what the server's states amount to.

    Service "" is the server (SERVING as ServerReady is true); a model's name is that model (SERVING while one of its
    versions is READY).
    """

    def __init__(self, service: InferenceService, repository: Repository) -> None:
        self.servicer = HealthServicer()
        self._service = service
        self._repository = repository

    async def update(self) -> None:
        """Derive every service's status anew, and tell those who watch."""
        await self.servicer.set("", SERVING if self._service.ready() else NOT_SERVING)
        serving: dict[str, bool] = {}
        for status in self._repository.index():
            ready = status.state == "READY" and not self._service.draining
            serving[status.name] = serving.get(status.name, False) or ready
        for name, ready in serving.items():
            await self.servicer.set(name, SERVING if ready else NOT_SERVING)

"""The process: builds every part, starts them in order, serves, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import prometheus_client
from grpc_health.v1 import health_pb2_grpc

from server import reflection
from server.errors import StartError
from server.health import Health
from server.machine import process_age_seconds
from server.metrics import Metrics
from server.repository import Repository, VersionStatus
from server.service import InferenceService, handlers

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from server.config import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """Where a started server listens, and what it serves."""

    grpc_address: str
    metrics_url: str
    models_ready: int
    models: int
    seconds: float
    """Since the process was started."""

    def __str__(self) -> str:
        """Return the one line that the process prints to standard output."""
        return (
            f"netweight ready grpc={self.grpc_address} metrics={self.metrics_url} "
            f"models={self.models_ready}/{self.models} seconds={self.seconds:.2f}"
        )


class App:
    """One server: all of its parts, and their order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.repository = Repository(settings, self.metrics, self._changed)
        self.service = InferenceService(self.repository, self.metrics)
        self.health = Health(self.service, self.repository)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grpc: grpc.aio.Server | None = None
        self._metrics_server: tuple[WSGIServer, Thread] | None = None

    async def start(self) -> Ready:
        """Listen, then load every model; callers see LOADING until then.

        Raises:
            StartError: a port is taken, or the repository is not there.
        """
        self._loop = asyncio.get_running_loop()
        self.repository.scan()
        metrics_port = self._serve_metrics()
        grpc_port = await self._serve_grpc()
        await asyncio.to_thread(self.repository.load_all)
        await self.health.update()
        states = [status.state for status in self.repository.index()]
        host = self.settings.host
        return Ready(
            grpc_address=f"{host}:{grpc_port}",
            metrics_url=f"http://{host}:{metrics_port}/metrics",
            models_ready=states.count("READY"),
            models=len(states),
            seconds=process_age_seconds(),
        )

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, wait for those in flight, then close the models and the metrics."""
        self.service.draining = True
        await self.health.update()
        if self._grpc is not None:
            await self._grpc.stop(grace_seconds)
        await asyncio.to_thread(self.repository.close)
        if self._metrics_server is not None:
            server, thread = self._metrics_server
            server.shutdown()
            server.server_close()
            thread.join()

    def _serve_metrics(self) -> int:
        registry = self.metrics.registry
        prometheus_client.ProcessCollector(registry=registry)
        try:
            server, thread = prometheus_client.start_http_server(
                self.settings.metrics_port, self.settings.host, registry
            )
        except OSError as error:
            raise _cannot_listen(self.settings.host, self.settings.metrics_port, "--metrics-port") from error
        self._metrics_server = (server, thread)
        return int(server.server_port)

    async def _serve_grpc(self) -> int:
        limit = self.settings.max_message_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),  # a port in use must be an error, not a second server on it
        ]
        self._grpc = grpc.aio.server(options=options)
        self._grpc.add_generic_rpc_handlers(handlers(self.service))
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self._grpc)
        reflection.enable(self._grpc)
        await self.health.update()
        host, port = self.settings.host, self.settings.grpc_port
        try:
            bound = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise _cannot_listen(host, port, "--grpc-port") from error
        await self._grpc.start()
        return bound

    def _changed(self, _: VersionStatus) -> None:
        """Pass a state on to health; called in whichever thread changed it."""
        if self._loop is not None and self._grpc is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self.health.update(), self._loop)


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a server until a signal stops it: the first SIGTERM or SIGINT drains, the second quits at once.

    Args:
        settings: all of them.
        announce: told the ready line.

    Raises:
        StartError: the server cannot start.
    """
    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    _runner()(_serve(settings, announce))


def _runner() -> Callable[..., None]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.run
    return uvloop.run


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    app = App(settings)
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            log.warning("second signal: quitting at once")
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_signal)
    try:
        announce(str(await app.start()))
        await stopping.wait()
        log.info("draining: waiting at most %g s for requests in flight", settings.drain_seconds)
    finally:
        await app.stop(settings.drain_seconds)


def _cannot_listen(host: str, port: int, option: str) -> StartError:
    return StartError(f"cannot listen on {host}:{port}: in use, or no address of this machine; choose another {option}")

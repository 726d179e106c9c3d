"""The process: builds every part, starts them in order, serves, drains, stops."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import prometheus_client
from grpc_health.v1 import health_pb2_grpc

from server import reflection
from server.errors import StartError
from server.frontends import FrontEnds
from server.health import Health
from server.machine import keep_message_memory, process_age_seconds, spare_collector
from server.metrics import Metrics
from server.repository import Repository, VersionStatus
from server.service import InferenceService
from server.transport import Transport

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
        self._frontends = FrontEnds(self.service, settings) if settings.frontends > 1 else None
        self.health = Health(self.service, self._frontends.tell_health if self._frontends else None)
        self.stopping = threading.Event()
        self._transport = Transport(self.service, settings.max_message_bytes, settings.way)
        self._metrics_server: tuple[WSGIServer, Thread] | None = None

    def start(self) -> Ready:
        """Listen, then load every model; callers see LOADING until then.

        Raises:
            StartError: a port is taken, or the repository is not there.
        """
        self.repository.scan()
        metrics_port = self._serve_metrics()
        grpc_port = self._serve_grpc()
        self.repository.load_all(self.stopping.is_set)
        if self._frontends:
            self._frontends.wait()
        spare_collector()
        states = [status.state for status in self.repository.index()]
        host = self.settings.host
        return Ready(
            grpc_address=f"{host}:{grpc_port}",
            metrics_url=f"http://{host}:{metrics_port}/metrics",
            models_ready=states.count("READY"),
            models=len(states),
            seconds=process_age_seconds(),
        )

    def stop(self) -> None:
        """Refuse new calls, wait for those in flight, then close the models and the metrics."""
        self.service.draining = True
        self.health.update()
        self.health.servicer.end_watches()
        (self._frontends or self._transport).stop(self.settings.drain_seconds)
        self.repository.close()
        if self._metrics_server is not None:
            server, thread = self._metrics_server
            server.shutdown()
            server.server_close()
            thread.join()

    def _serve_metrics(self) -> int:
        host, port, registry = self.settings.host, self.settings.metrics_port, self.metrics.registry
        prometheus_client.ProcessCollector(registry=registry)
        try:
            self._metrics_server = prometheus_client.start_http_server(port, host, registry)
        except OSError as error:
            raise _cannot_listen(host, port, "--metrics-port") from error
        return int(self._metrics_server[0].server_port)

    def _serve_grpc(self) -> int:
        self.health.update()
        host, port = self.settings.host, self.settings.grpc_port
        try:
            if self._frontends:
                port = self._frontends.listen(host, port)
            else:
                health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self._transport.server)
                reflection.enable(self._transport.server)
                port = self._transport.listen(f"{host}:{port}")
        except (OSError, RuntimeError) as error:
            raise _cannot_listen(host, port, "--grpc-port") from error
        (self._frontends or self._transport).start()
        return port

    def _changed(self, _: VersionStatus) -> None:
        self.health.update()


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
    keep_message_memory()
    app = App(settings)

    def on_signal(*_: object) -> None:
        if app.stopping.is_set():
            log.warning("second signal: quitting at once")
            os._exit(1)
        log.info("draining: waiting at most %g s for requests in flight", settings.drain_seconds)
        app.stopping.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    try:
        ready = app.start()
        if not app.stopping.is_set():
            announce(str(ready))
        app.stopping.wait()
    finally:
        app.stop()


def _cannot_listen(host: str, port: int, option: str) -> StartError:
    return StartError(f"cannot listen on {host}:{port}: in use, or no address of this machine; choose another {option}")

"""The process: builds every part, starts them in order, serves, drains, stops."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import prometheus_client
from grpc_health.v1 import health_pb2_grpc

from server import gpu, metrics_page, reflection, security, startup
from server.card_watches import CardWatches
from server.control import Control
from server.errors import StartError
from server.frontends import FrontEnds
from server.health import Health
from server.log_settings import LINE, LogSettings, LogState
from server.machine import keep_message_memory, spare_collector
from server.metrics import Metrics
from server.polling import Polling
from server.repository import Repository, VersionStatus
from server.service import InferenceService
from server.shared_memory import SharedMemory
from server.streaming import Streams
from server.trace_settings import TraceSettings
from server.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from server.config import Settings
    from server.tracing import Tracing

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
        self._imported = time.monotonic()  # all modules are there when this is called
        self.settings = settings
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stopping = threading.Event()
        self.repository = Repository(self.metrics, self._changed)
        self.control = Control(settings, self.metrics, self.repository, self.stopping)
        self._polling: Polling | None = None
        self._tracing = _tracing(settings)
        self.service = InferenceService(
            self.repository,
            self.metrics,
            LogSettings(settings.log_level, self._tell_log),
            self._tracing,
            _shared_memory(settings),
            control=self.control,
            limits=settings.limits,
        )
        self.metrics.ready.set_function(self.service.ready)
        self._frontends = FrontEnds(self.service, settings) if settings.frontends > 1 else None
        self.health = Health(self.service, self._frontends.tell_health if self._frontends else None)
        self._streams = Streams(self.service, settings.max_streams)
        self._watches = CardWatches(self.service, settings.max_streams)
        self._security = security.of(settings)
        self._transport = Transport(
            self.service,
            settings.max_message_bytes,
            settings.way,
            guard=self._security.guard(),
            max_metadata_bytes=settings.max_metadata_bytes,
            max_connection_calls=settings.max_connection_calls,
        )
        self._metrics_server: tuple[WSGIServer, Thread] | None = None

    def start(self) -> Ready:
        """Listen, then load every model; callers see LOADING until then.

        Raises:
            StartError: a port is taken, the repository is not there, or callers could do more than they should.
        """
        security.check(self.settings)
        self.control.scan()
        if self.settings.model_control == "poll":
            self._polling = Polling(self.settings, self.control, self.stopping)
        if self._tracing:
            self._tracing.start()
        metrics_port = self._serve_metrics()
        grpc_port = self._serve_grpc()
        self.control.load_all()
        if self._frontends:
            self._frontends.wait()
        spare_collector()
        if self._polling:
            self._polling.start()
        states = [status.state for status in self.repository.index()]
        loads = sum(load.seconds for load in list(self.metrics.held.values()))
        if took := startup.startup(self._imported, loads):
            self.metrics.started(took)
        host = self.settings.host
        return Ready(
            grpc_address=f"{host}:{grpc_port}",
            metrics_url=f"http{'s' if self._security.tls else ''}://{host}:{metrics_port}/metrics",
            models_ready=states.count("READY"),
            models=len(states),
            seconds=took.total if took else 0.0,
        )

    def stop(self) -> None:
        """Refuse new calls, wait for those in flight, then close the models and the metrics."""
        self.stopping.set()
        self.service.draining = True
        self.health.update()
        self.health.servicer.end_watches()
        self._streams.end()
        self._watches.end()
        (self._frontends or self._transport).stop(self.settings.drain_seconds)
        if self._polling:
            self._polling.close()
        self.control.close()
        if self._tracing:
            self._tracing.stop()
        if self._metrics_server is not None:
            server, thread = self._metrics_server
            server.shutdown()
            server.server_close()
            thread.join()

    def _serve_metrics(self) -> int:
        host, port, registry = self.settings.host, self.settings.metrics_port, self.metrics.registry
        prometheus_client.ProcessCollector(registry=registry)
        if (gpus := gpu.find()) is not None:
            registry.register(gpu.GpuMetrics(gpus))
        try:
            self._metrics_server = metrics_page.start(host, port, registry, self._security.tls)
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
                self._streams.enable(self._transport.server)
                self._watches.enable(self._transport.server)
                port = self._transport.listen(f"{host}:{port}", self._security.tls)
        except (OSError, RuntimeError) as error:
            raise _cannot_listen(host, port, "--grpc-port") from error
        (self._frontends or self._transport).start()
        return port

    def _changed(self, _: VersionStatus) -> None:
        self.health.update()

    def _tell_log(self, state: LogState) -> None:
        if self._frontends:
            self._frontends.tell_log(state)


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a server until a signal stops it: the first SIGTERM or SIGINT drains, the second quits at once.

    Args:
        settings: all of them.
        announce: told the ready line.

    Raises:
        StartError: the server cannot start.
    """
    logging.basicConfig(stream=sys.stderr, level=settings.log_level.upper(), format=LINE)
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


def _tracing(settings: Settings) -> Tracing | None:
    """Return the tracing that the settings ask for; what it needs is imported only then."""
    if not settings.trace_endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from server.tracing import Tracing
    except ModuleNotFoundError as error:
        raise StartError(
            f"tracing needs the package {error.name}, which is not installed: pip install -e '.[tracing]', "
            "or start without --trace-endpoint (and OTEL_EXPORTER_OTLP_ENDPOINT)"
        ) from error
    return Tracing(settings.trace_endpoint, settings.trace_ratio, TraceSettings(on=True))


def _shared_memory(settings: Settings) -> SharedMemory:
    if not settings.shared_memory:
        return SharedMemory()
    return SharedMemory(
        settings.max_shared_memory_regions, settings.max_shared_memory_bytes, settings.max_message_bytes
    )


def _cannot_listen(host: str, port: int, option: str) -> StartError:
    return StartError(f"cannot listen on {host}:{port}: in use, or no address of this machine; choose another {option}")

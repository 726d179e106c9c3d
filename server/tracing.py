"""Tracing by OpenTelemetry: a span for each inference request, with its parts inside, sent to an OTLP receiver.

The times are those that the server takes anyway, and a span is made when its answer has been sent: a traced request
costs its caller nothing but the choice whether it is traced. Spans wait in a bounded queue for a thread that sends
them; whatever becomes of them there, requests are served. Imported only if tracing is on: OpenTelemetry is an extra.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_EXPORT_BATCH_SIZE
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.errors import StartError
from server.spans import NAME, RPC, RequestSpan, Source, Times, Unfolding

if TYPE_CHECKING:
    import grpc

    from server.batcher import Entry
    from server.trace_context import TraceContext
    from server.trace_settings import TraceSettings

log = logging.getLogger(__name__)
FLUSH_SECONDS = 3.0
"""How long the receiver may take for the last spans when the server stops."""
REQUESTS_AT_ONCE = 64
"""In one message to the receiver, unless OTEL_BSP_MAX_EXPORT_BATCH_SIZE says otherwise: with their parts as many spans
as the SDK sends at once. Writing them holds Python's lock, so fewer let requests through sooner."""
LONGEST_TEXT = 256
"""Characters of a caller's text, and of an error, in a span."""
OK = Status(StatusCode.UNSET)
"""What the conventions want of a call that did not fail."""


class Tracing:
    """Chooses which requests are traced, and sends their spans.

    Args:
        endpoint: the receiver, http://HOST:PORT or https://HOST:PORT, by gRPC.
        ratio: the share of traces begun here that is kept; a caller's trace is kept if the caller keeps it.
        settings: what TraceSetting says besides.

    Raises:
        StartError: the endpoint is no such address.
    """

    def __init__(self, endpoint: str, ratio: float, settings: TraceSettings) -> None:
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
            raise StartError(f"trace_endpoint is {endpoint!r}; expected http://HOST:PORT or https://HOST:PORT")
        self.settings = settings
        self._endpoint = endpoint
        self._sampler = ParentBased(TraceIdRatioBased(ratio))
        scope = InstrumentationScope("netweight", _own_version())
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        self.source = Source(_resource(), scope, epoch_ns, RandomIdGenerator())
        self._propagator = TraceContextTextMapPropagator()
        self._told = False
        self._exporter: Unfolding | None = None
        self._processor: BatchSpanProcessor | None = None

    def start(self) -> None:
        """Be ready to send. The receiver need not be there.

        Raises:
            StartError: a variable of OpenTelemetry has a value that is none.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its retries; `Unfolding` tells what matters
        at_once = None if OTEL_BSP_MAX_EXPORT_BATCH_SIZE in os.environ else REQUESTS_AT_ONCE
        try:
            self._exporter = Unfolding(OTLPSpanExporter(endpoint=self._endpoint), self._endpoint)
            self._processor = BatchSpanProcessor(self._exporter, max_export_batch_size=at_once)
        except Exception as error:
            raise StartError(f"tracing cannot start, mend the OTEL_ variables: {error}") from error

    def stop(self) -> None:
        """Send what is left, or give it up after `FLUSH_SECONDS`."""
        if self._processor is None or self._exporter is None:
            return
        giving_up = threading.Timer(FLUSH_SECONDS, self._exporter.shutdown)
        giving_up.start()
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        giving_up.cancel()

    def begin(self, model: str, request_id: str, context: TraceContext) -> Trace | None:
        """Return the trace of a request that has come; None: it is not traced."""
        try:
            return self._begin(model, request_id, context)
        except Exception as error:  # noqa: BLE001  whatever it is, the request goes on
            self.fail(error)
            return None

    def end(self, span: RequestSpan) -> None:
        """Take a request's span, to be sent."""
        if self._processor is not None:
            self._processor.on_end(span)

    def fail(self, error: Exception) -> None:
        """Log the first defect of ours; requests go on."""
        if not self._told:
            self._told = True
            log.error("a request could not be traced; further ones that cannot be are not logged", exc_info=error)

    def _begin(self, model: str, request_id: str, context: TraceContext) -> Trace | None:
        parent, around = None, None
        if context[0]:
            around = self._propagator.extract({"traceparent": [context[0]], "tracestate": [context[1]]})
            found = trace.get_current_span(around).get_span_context()
            parent = found if found.is_valid else None
        trace_id = parent.trace_id if parent else self.source.ids.generate_trace_id()
        sampled = self._sampler.should_sample(around, trace_id, NAME, SpanKind.SERVER)
        if sampled.decision is not Decision.RECORD_AND_SAMPLE or not self.settings.choose(
            model, parented=parent is not None
        ):
            return None
        own = self.source.context(trace_id, sampled.trace_state)
        return Trace(self, model, request_id, own, parent)


class Trace:
    """One request that is traced: what its span needs, until it has been answered."""

    __slots__ = ("_context", "_model", "_parent", "_request_id", "_tracing")

    def __init__(
        self, tracing: Tracing, model: str, request_id: str, context: SpanContext, parent: SpanContext | None
    ) -> None:
        self._tracing = tracing
        self._model = model
        self._request_id = request_id
        self._context = context
        self._parent = parent

    def end(
        self, code: grpc.StatusCode, details: str, version: str, arrived: float, entry: Entry[Any, Any] | None
    ) -> None:
        """Hand in the request's span: it was answered just now.

        Args:
            code: of the answer.
            details: of a failure.
            version: that ran, or was to run; empty if there is none.
            arrived: when the request came, in `time.perf_counter` seconds.
            entry: the request as it went through the queue; None: it was refused before.
        """
        try:
            self._tracing.end(self._span(code, details, version, arrived, entry))
        except Exception as error:  # noqa: BLE001  the others of its batch are still to be answered
            self._tracing.fail(error)

    def _span(
        self, code: grpc.StatusCode, details: str, version: str, arrived: float, entry: Entry[Any, Any] | None
    ) -> RequestSpan:
        ended = time.perf_counter()
        times = Times(arrived, 0.0, 0.0, 0.0, 0.0, ended)
        attributes: dict[str, str | int] = {
            **RPC,
            "rpc.grpc.status_code": code.value[0],
            "rpc.response.status_code": code.name,
            "netweight.model.name": self._model[:LONGEST_TEXT],
            "netweight.model.version": version[:LONGEST_TEXT],
        }
        if self._request_id:
            attributes["netweight.request.id"] = self._request_id[:LONGEST_TEXT]
        if entry is not None:
            times = Times(arrived, entry.queued, entry.started, entry.assembled, entry.ran, ended)
            attributes["netweight.request.samples"] = entry.size
            if entry.batch_size:
                attributes["netweight.batch.size"] = entry.batch_size
        status = OK
        if code.value[0]:
            status = Status(StatusCode.ERROR, details[:LONGEST_TEXT])
            attributes["error.type"] = code.name
        return RequestSpan(self._tracing.source, self._context, self._parent, attributes, status, times)


def _resource() -> Resource:
    """Return what sends the spans; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our own."""
    own = Resource.create({"service.name": "netweight", "service.version": _own_version()})
    return own.merge(OTELResourceDetector().detect())


def _own_version() -> str:
    try:
        return version("netweight")
    except PackageNotFoundError:
        return "unknown"

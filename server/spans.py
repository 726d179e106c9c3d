"""A request's span and those of its parts, and their way to an OTLP receiver.

The SDK's `Span`, which is begun, filled and ended, costs 14 to 18 us here; ours are complete when they are made, so they
are plain `ReadableSpan`s at 1 us each, and those of a request's parts are made by the thread that sends them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, TraceFlags, TraceState

log = logging.getLogger(__name__)
SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"
NAME = f"{SERVICE}/{METHOD}"
"""Of a request's span, as OpenTelemetry names the span of a remote call."""
RPC = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": METHOD}


@dataclass(frozen=True, slots=True)
class Times:
    """When a request reached each point of its way, in `time.perf_counter` seconds; 0: it did not."""

    arrived: float
    queued: float
    started: float
    assembled: float
    ran: float
    ended: float

    def parts(self) -> Iterator[tuple[str, float, float]]:
        """Yield each part of the request's time, one after the other, without a gap."""
        yield "decode", self.arrived, self.queued or self.ended
        if self.queued:
            yield "queue", self.queued, self.started or self.ended
        if self.ran:
            yield "assemble", self.started, self.assembled
            yield "compute", self.assembled, self.ran
            yield "output", self.ran, self.ended
        elif self.started:  # the run failed
            yield "compute", self.started, self.ended


@dataclass(frozen=True, eq=False)
class Source:
    """What all spans of a server have in common."""

    resource: Resource
    scope: InstrumentationScope
    epoch_ns: int
    """What `time.perf_counter` of 0 is, in nanoseconds since the epoch."""
    ids: RandomIdGenerator

    def epoch(self, seconds: float) -> int:
        """Return nanoseconds since the epoch of a time in `time.perf_counter` seconds."""
        return round(seconds * 1e9) + self.epoch_ns

    def context(self, trace_id: int, state: TraceState | None) -> SpanContext:
        """Return the context of a new span of this trace."""
        return SpanContext(
            trace_id,
            self.ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=state,
        )


class RequestSpan(ReadableSpan):
    """The span of a whole request, which knows its parts."""

    def __init__(
        self,
        source: Source,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, str | int],
        status: Status,
        times: Times,
    ) -> None:
        super().__init__(
            NAME,
            context,
            parent,
            source.resource,
            attributes,
            kind=SpanKind.SERVER,
            status=status,
            start_time=source.epoch(times.arrived),
            end_time=source.epoch(times.ended),
            instrumentation_scope=source.scope,
        )
        self._source = source
        self._times = times

    def parts(self) -> Iterator[ReadableSpan]:
        """Yield the spans inside this one."""
        source, own = self._source, self.context
        assert own is not None
        for name, start, end in self._times.parts():
            yield ReadableSpan(
                name,
                source.context(own.trace_id, own.trace_state),
                own,
                source.resource,
                {},
                start_time=source.epoch(start),
                end_time=source.epoch(end),
                instrumentation_scope=source.scope,
            )


class Unfolding(SpanExporter):
    """Sends each request's span with its parts, and tells once that this fails, and once that it works again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._failing = False
        self._closed = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; those that cannot be sent are lost."""
        unfolded: list[ReadableSpan] = []
        for span in spans:
            unfolded.append(span)
            if isinstance(span, RequestSpan):
                unfolded.extend(span.parts())
        result = self._exporter.export(unfolded)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            log.warning("no spans reach %s: they are dropped until it answers; requests are served", self._endpoint)
        elif self._failing and not failing:
            log.info("spans reach %s again", self._endpoint)
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Stop sending, at once; idempotent."""
        if self._closed.acquire(blocking=False):
            self._exporter.shutdown()

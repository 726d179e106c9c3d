"""A small OTLP receiver for tests: OpenTelemetry's own service, by gRPC, which keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Request:
    """A request's span and the spans inside it, in the order of their times."""

    span: Span
    parts: tuple[Span, ...]
    resource: dict[str, Any]

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return values(self.span.attributes)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.address = ""
        self._sent: list[tuple[Span, dict[str, Any]]] = []
        self._came = threading.Condition()

    def Export(self, request: Any, _: object) -> Any:  # noqa: N802  the protocol's name
        """Take spans."""
        with self._came:
            for each in request.resource_spans:
                spans = [span for scope in each.scope_spans for span in scope.spans]
                self._sent += [(span, values(each.resource.attributes)) for span in spans]
            self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def requests(self, wanted: Callable[[Request], bool] = lambda _: True) -> list[Request]:
        """Return the requests that have come and are wanted."""
        with self._came:
            return [each for each in self._unfolded() if wanted(each)]

    def wait(self, wanted: Callable[[Request], bool], count: int = 1) -> list[Request]:
        """Wait for so many requests, with all of their parts: those are sent with them."""
        found: list[Request] = []

        def there() -> bool:
            found[:] = [each for each in self._unfolded() if wanted(each)]
            return len(found) >= count

        with self._came:
            assert self._came.wait_for(there, 20), f"{len(found)} requests of {count} came"
        return found

    def _unfolded(self) -> Iterator[Request]:
        inside: dict[bytes, list[Span]] = {}
        for span, _ in self._sent:
            inside.setdefault(span.parent_span_id, []).append(span)
        for span, resource in self._sent:
            if span.kind == Span.SPAN_KIND_SERVER:
                parts = sorted(inside.get(span.span_id, ()), key=lambda part: part.start_time_unix_nano)
                yield Request(span, tuple(parts), resource)


@contextmanager
def receiving(address: str = "127.0.0.1:0") -> Iterator[Receiver]:
    """Serve a receiver."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    host, _, _ = address.partition(":")
    receiver.address = f"{host}:{server.add_insecure_port(address)}"
    server.start()
    yield receiver
    server.stop(0).wait()


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes by name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}

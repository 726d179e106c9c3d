"""Tracing: which contexts count, what a span holds, and that nothing of it reaches a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import pairwise

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from server.batcher import Entry
from server.errors import StartError
from server.spans import RequestSpan, Source, Times, Unfolding
from server.trace_context import NO_CONTEXT, context_of
from server.trace_settings import TraceSettings
from server.tracing import LONGEST_TEXT, Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


class Kept:
    """A tracing whose spans stay here."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.tracing = Tracing("http://localhost:1", ratio, TraceSettings(on=True))
        self._memory = InMemorySpanExporter()
        self.tracing._processor = SimpleSpanProcessor(self._memory)  # type: ignore[assignment]

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._memory.get_finished_spans()


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([], NO_CONTEXT),
        ([("user-agent", "x"), ("traceparent", SAMPLED)], (SAMPLED, "")),
        ([("tracestate", "a=1"), ("traceparent", SAMPLED), ("tracestate", "b=2")], (SAMPLED, "a=1,b=2")),
    ],
)
def test_the_context_is_read_off_the_metadata(metadata: list[tuple[str, str]], expected: tuple[str, str]) -> None:
    """The pair is traceparent, and tracestate from all of its entries in their order."""
    assert context_of(metadata) == expected


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        SAMPLED[:-3],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{SAMPLED}-more",
        "0" * 100_000,
        "\udc80",
    ],
)
def test_what_is_no_context_begins_a_trace(kept: Kept, parent: str) -> None:
    """A traceparent that breaks W3C's rules counts as none: the request begins a trace of its own."""
    trace = kept.tracing.begin("m", "", (parent, "a=b"))
    assert trace is not None
    trace.end(grpc.StatusCode.OK, "", "1", time.perf_counter(), None)
    (span,) = kept.spans
    assert span.parent is None
    assert span.context is not None
    assert span.context.is_valid
    assert format(span.context.trace_id, "032x") != TRACE


def test_a_ratio_keeps_a_share_of_traces_that_begin_here() -> None:
    """Ratio 0 keeps none, 0.5 about a half; what the caller keeps is kept, what it drops is dropped, at any ratio."""
    for ratio, low, high in ((0.0, 0, 0), (0.5, 400, 600), (1.0, 1000, 1000)):
        tracing = Kept(ratio).tracing
        assert low <= sum(tracing.begin("m", "", NO_CONTEXT) is not None for _ in range(1000)) <= high
        assert tracing.begin("m", "", (SAMPLED, "")) is not None
        assert tracing.begin("m", "", (f"00-{TRACE}-{SPAN}-00", "")) is None


def test_parts_follow_each_other() -> None:
    """However far a request came, its parts begin and end with it and leave no gap."""
    whole = Times(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert [name for name, _, _ in whole.parts()] == ["decode", "queue", "assemble", "compute", "output"]
    for times in (whole, Times(1.0, 2.0, 0.0, 0.0, 0.0, 6.0), Times(1.0, 0.0, 0.0, 0.0, 0.0, 6.0)):
        edges = [(start, end) for _, start, end in times.parts()]
        assert (edges[0][0], edges[-1][1]) == (1.0, 6.0)
        assert all(before[1] == after[0] for before, after in pairwise(edges))


def test_a_run_that_failed_has_its_parts(kept: Kept) -> None:
    """A request whose batch failed before it had run has its queue, and what was left as the run."""
    entry: Entry[None, None] = Entry(None, 2, None, None)
    entry.started = entry.queued + 0.001
    trace = kept.tracing.begin("m", "", NO_CONTEXT)
    assert trace is not None
    trace.end(grpc.StatusCode.INTERNAL, "the run failed", "3", entry.queued, entry)
    (span,) = kept.spans
    assert isinstance(span, RequestSpan)
    assert [part.name for part in span.parts()] == ["decode", "queue", "compute"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "the run failed"


def test_a_callers_text_is_cut(kept: Kept) -> None:
    """Names, ids and messages of any length take little room in a span."""
    trace = kept.tracing.begin("m" * 100_000, "i" * 100_000, NO_CONTEXT)
    assert trace is not None
    trace.end(grpc.StatusCode.NOT_FOUND, "d" * 100_000, "9" * 100_000, time.perf_counter(), None)
    (span,) = kept.spans
    assert span.attributes is not None
    assert span.status.description is not None
    texts = [span.status.description, *(each for each in span.attributes.values() if isinstance(each, str))]
    assert max(len(each) for each in texts) == LONGEST_TEXT


def test_a_defect_of_tracing_reaches_no_request(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails in tracing is logged once, and the request goes on untraced."""
    trace = kept.tracing.begin("m", "", NO_CONTEXT)
    assert trace is not None
    monkeypatch.setattr(Source, "epoch", lambda *_: 1 / 0)
    monkeypatch.setattr(kept.tracing.settings, "choose", lambda *_, **__: 1 / 0)
    for _ in range(3):
        trace.end(grpc.StatusCode.OK, "", "1", time.perf_counter(), None)
        assert kept.tracing.begin("m", "", NO_CONTEXT) is None
    assert len([each for each in caplog.records if "could not be traced" in each.message]) == 1


class Flaky(SpanExporter):
    """Fails as it is told."""

    def __init__(self, outcomes: list[bool]) -> None:
        self._outcomes = outcomes
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  the SDK's
        return SpanExportResult.SUCCESS if self._outcomes.pop(0) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.shutdowns += 1


def test_a_failing_receiver_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it begins to fail, one when it works again, however often it is tried."""
    caplog.set_level(logging.INFO)
    unfolding = Unfolding(Flaky([True, False, False, False, True, True, False]), "http://somewhere:4317")
    for _ in range(7):
        unfolding.export([])
    told = [each.message for each in caplog.records]
    down = "no spans reach http://somewhere:4317: they are dropped until it answers; requests are served"
    assert told == [down, "spans reach http://somewhere:4317 again", down]


def test_it_is_shut_down_once() -> None:
    """Who gives up and who ends in order may both shut it down."""
    flaky = Flaky([])
    unfolding = Unfolding(flaky, "")
    unfolding.shutdown()
    unfolding.shutdown()
    assert flaky.shutdowns == 1


@pytest.mark.parametrize("endpoint", ["collector:4317", "localhost", "http://", "grpc://host:1", "://"])
def test_an_endpoint_needs_scheme_and_host(endpoint: str) -> None:
    """What is no http or https address is refused when the server starts."""
    with pytest.raises(StartError, match="expected http://HOST:PORT or https://HOST:PORT"):
        Tracing(endpoint, 1.0, TraceSettings(on=True))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "3"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "bzip2"),
    ],
)
def test_a_wrong_variable_ends_the_start(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of OpenTelemetry's variables that cannot be is told in one line."""
    monkeypatch.setenv(variable, value)
    tracing = Tracing("http://localhost:1", 1.0, TraceSettings(on=True))
    with pytest.raises(StartError, match="tracing cannot start, mend the OTEL_ variables: "):
        tracing.start()
    tracing.stop()

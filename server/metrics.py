"""Every metric of the server, in one place, on a registry that is handed in.

Base units (seconds, bytes), ``_total`` on counters; labels are model, version and a few closed sets, never free text.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

STATES = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE")
OUTCOMES = ("ready", "failed")
MODEL = ("model", "version")
DURATIONS = {
    "request": "A ModelInfer call, from its message to its answer.",
    "input": "Of an answered call: its message decoded, its batch assembled.",
    "queue": "Of an answered call: its wait until its batch began.",
    "compute": "Of an answered call: the session's run of its batch.",
    "output": "Of an answered call: its outputs cut out of the batch and encoded.",
}
"""The histograms of seconds, by the attribute of `Statistics` that each shows."""


@dataclass(frozen=True)
class Load:
    """What it took to load a version."""

    seconds: float
    resident_bytes: int
    """That it added."""
    file_bytes: int
    provider: str
    fell_back: bool
    """A GPU's provider was wanted and the next one runs it."""


class Metrics:
    """The server's metrics; what is counted for each request is kept by `Statistics`, one for each version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.statistics: dict[tuple[str, str], Statistics] = {}
        registry.register(_Requests(self.statistics))
        self.pending = Gauge("netweight_pending_requests", "Requests that wait in the queue.", MODEL, registry=registry)
        self.state = Gauge(
            "netweight_model_state", "1 for the state that the version is in.", (*MODEL, "state"), registry=registry
        )
        self.file_bytes = _model_gauge("file_bytes", "The version's model files on disk.", registry)
        self.load_seconds = _model_gauge("load_seconds", "Opening the session and warming it up.", registry)
        self.resident_bytes = _model_gauge("resident_bytes", "Resident memory added by loading.", registry)
        self.provider = Gauge(
            "netweight_model_provider_info",
            "1, with the execution provider that runs the version.",
            (*MODEL, "provider"),
            registry=registry,
        )
        self._providers: dict[tuple[str, str], str] = {}
        self.loads = Counter(
            "netweight_model_loads", "Versions that were loaded, or not, by outcome.", ("outcome",), registry=registry
        )
        for outcome in OUTCOMES:
            self.loads.labels(outcome)
        self.fallbacks = Counter(
            "netweight_provider_fallbacks", "Loads that wanted CUDA and got the CPU.", registry=registry
        )
        self.frontend_restarts = Counter(
            "netweight_frontend_restarts", "Front-end processes that ended and were replaced.", registry=registry
        )

    def of(self, model: str, version: str) -> Statistics:
        """Return a version's statistics. Both names are empty for calls whose names are a caller's free text."""
        return self.statistics.setdefault((model, version), Statistics())

    def set_pending(self, model: str, version: str, pending: Callable[[], int]) -> None:
        """Ask ``pending`` for the length of the version's queue at each scrape."""
        self.pending.labels(model, version).set_function(pending)

    def loaded(self, model: str, version: str, load: Load) -> None:
        """Show what loading a version took; what an earlier load of it took goes."""
        self.unloaded(model, version)
        self.load_seconds.labels(model, version).set(load.seconds)
        self.resident_bytes.labels(model, version).set(load.resident_bytes)
        self.file_bytes.labels(model, version).set(load.file_bytes)
        self.provider.labels(model, version, load.provider).set(1)
        self._providers[model, version] = load.provider
        if load.fell_back:
            self.fallbacks.inc()

    def unloaded(self, model: str, version: str) -> None:
        """Show nothing more of what a version takes; what was counted stays."""
        for gauge in (self.pending, self.load_seconds, self.resident_bytes, self.file_bytes):
            _remove(gauge, model, version)
        _remove(self.provider, model, version, self._providers.pop((model, version), ""))

    def forget(self, model: str, version: str) -> None:
        """Show nothing more of a version."""
        self.unloaded(model, version)
        for state in STATES:
            _remove(self.state, model, version, state)
        self.statistics.pop((model, version), None)

    def set_state(self, model: str, version: str, state: str) -> None:
        """Show the state that a version is in."""
        for each in STATES:
            self.state.labels(model, version, each).set(each == state)


class _Requests(Collector):
    """The statistics as metric families, made at each scrape."""

    def __init__(self, statistics: dict[tuple[str, str], Statistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        requests = CounterMetricFamily(
            "netweight_requests", "ModelInfer calls by gRPC status code.", labels=(*MODEL, "code")
        )
        inferences = CounterMetricFamily("netweight_inferences", "Samples inferred.", labels=MODEL)
        executions = CounterMetricFamily("netweight_executions", "Session runs, one for each batch.", labels=MODEL)
        sizes = HistogramMetricFamily("netweight_batch_size", "Samples in one execution.", labels=MODEL)
        durations = {
            name: HistogramMetricFamily(f"netweight_{name}_duration_seconds", text, labels=MODEL)
            for name, text in DURATIONS.items()
        }
        for labels, figures in list(self._statistics.items()):
            with figures.lock:
                for code, count in figures.codes.items():
                    requests.add_metric((*labels, code), count)
                if not labels[0]:
                    continue
                inferences.add_metric(labels, sum(size * each.count for size, each in figures.executions.items()))
                executions.add_metric(labels, sum(each.count for each in figures.executions.values()))
                sizes.add_metric(labels, list(figures.batch_size.buckets()), figures.batch_size.sum)
                for name, family in durations.items():
                    histogram = getattr(figures, name)
                    family.add_metric(labels, list(histogram.buckets()), histogram.sum)
        yield from (requests, inferences, executions, sizes, *durations.values())


def _remove(gauge: Gauge, *labels: str) -> None:
    with contextlib.suppress(KeyError):  # it was never set
        gauge.remove(*labels)


def _model_gauge(what: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(f"netweight_model_{what}", text, MODEL, registry=registry)

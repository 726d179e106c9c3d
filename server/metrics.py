"""Every metric of the server, in one place, on a registry that is handed in.

Base units (seconds, bytes), ``_total`` on counters; labels are model, version and a few closed sets, never free text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from server.card_facts import NOTHING, Facts
from server.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.metrics_core import Metric

    from server.startup import Startup

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
MODEL_GAUGES = {
    "file_bytes": "The version's model files on disk.",
    "load_seconds": "Opening the session and warming it up, and the little around that.",
    "session_seconds": "Of loading: opening the graph.",
    "warm_up_seconds": "Of loading: running it before anybody asks.",
    "resident_bytes": "Resident memory added by loading.",
    "gpu_memory_bytes": "GPU memory of this process added by loading; absent on the CPU.",
    "parameters": "Weights, as the card tells.",
    "multiply_accumulates": "For one sample, as the card tells.",
    "heldout_accuracy": "Share of held-out images classified right (0 to 1), as the card tells.",
}
"""The gauges ``netweight_model_…``, which `Load.figures` sets."""


@dataclass(slots=True)
class Spent:
    """Seconds of a load, by what they were spent on."""

    session: float = 0.0
    """Opening the graph."""
    warm_up: float = 0.0
    """Running it before anybody asks."""

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the time until this ends as spent on a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class Load:
    """What it took to load a version, and what its card tells."""

    seconds: float
    spent: Spent
    resident_bytes: int
    """That it added."""
    file_bytes: int
    provider: str
    fell_back: bool
    """A GPU's provider was wanted and the next one runs it."""
    gpu_bytes: int | None = None
    """That it added on GPUs; None: it runs on the CPU, or nobody tells."""
    facts: Facts = NOTHING

    def figures(self) -> dict[str, float | None]:
        """Return the values of `MODEL_GAUGES`; None: not known."""
        return {
            "file_bytes": self.file_bytes,
            "load_seconds": self.seconds,
            "session_seconds": self.spent.session,
            "warm_up_seconds": self.spent.warm_up,
            "resident_bytes": self.resident_bytes,
            "gpu_memory_bytes": self.gpu_bytes,
            "parameters": self.facts.parameters,
            "multiply_accumulates": self.facts.multiply_accumulates,
            "heldout_accuracy": self.facts.heldout_accuracy,
        }


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
        self._gauges = {
            name: Gauge(f"netweight_model_{name}", text, MODEL, registry=registry)
            for name, text in MODEL_GAUGES.items()
        }
        self.provider = Gauge(
            "netweight_model_provider_info",
            "1, with the execution provider that runs the version.",
            (*MODEL, "provider"),
            registry=registry,
        )
        self.ready = Gauge("netweight_ready", "1 where ServerReady answers true, else 0.", registry=registry)
        self.held: dict[tuple[str, str], Load] = {}
        """What loading took, of the versions in memory."""
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
        self.startup = Gauge(
            "netweight_startup_seconds", "The start until the ready line, by phase.", ("phase",), registry=registry
        )

    def started(self, startup: Startup) -> None:
        """Show how long the start took."""
        for phase, seconds in dataclasses.asdict(startup).items():
            self.startup.labels(phase).set(seconds)

    def of(self, model: str, version: str) -> Statistics:
        """Return a version's statistics. Both names are empty for calls whose names are a caller's free text."""
        return self.statistics.setdefault((model, version), Statistics())

    def set_pending(self, model: str, version: str, pending: Callable[[], int]) -> None:
        """Ask ``pending`` for the length of the version's queue at each scrape."""
        self.pending.labels(model, version).set_function(pending)

    def loaded(self, model: str, version: str, load: Load) -> None:
        """Show what loading a version took; each figure takes the place of an earlier load's, without a gap."""
        before = self.held.get((model, version))
        self.held[model, version] = load
        for name, value in load.figures().items():
            if value is None:
                _remove(self._gauges[name], model, version)
            else:
                self._gauges[name].labels(model, version).set(value)
        self.provider.labels(model, version, load.provider).set(1)
        if before is not None and before.provider != load.provider:
            _remove(self.provider, model, version, before.provider)
        if load.fell_back:
            self.fallbacks.inc()

    def unloaded(self, model: str, version: str) -> None:
        """Show nothing more of what a version takes; what was counted stays."""
        for gauge in (self.pending, *self._gauges.values()):
            _remove(gauge, model, version)
        load = self.held.pop((model, version), None)
        if load is not None:
            _remove(self.provider, model, version, load.provider)

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
        seconds = CounterMetricFamily("netweight_execution_seconds", "Session runs altogether.", labels=MODEL)
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
                seconds.add_metric(labels, sum(each.compute for each in figures.executions.values()))
                sizes.add_metric(labels, list(figures.batch_size.buckets()), figures.batch_size.sum)
                for name, family in durations.items():
                    histogram = getattr(figures, name)
                    family.add_metric(labels, list(histogram.buckets()), histogram.sum)
        yield from (requests, inferences, executions, seconds, sizes, *durations.values())


def _remove(gauge: Gauge, *labels: str) -> None:
    with contextlib.suppress(KeyError):  # it was never set
        gauge.remove(*labels)

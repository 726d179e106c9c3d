"""Every metric of the server, in one place, on a registry that is handed in.

Base units (seconds, bytes), ``_total`` on counters; labels are model, version and a few closed sets, never free text.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bucket bounds of the duration histograms."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STATES = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE")
MODEL = ("model", "version")


class Metrics:
    """The server's metrics; `of` gives one loaded version's children, so that the hot path looks no label up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "netweight_requests", "ModelInfer calls by gRPC status code.", (*MODEL, "code"), registry=registry
        )
        self.inferences = Counter("netweight_inferences", "Samples inferred.", MODEL, registry=registry)
        self.executions = Counter("netweight_executions", "Session runs, one for each batch.", MODEL, registry=registry)
        self.request_seconds = _seconds("request", "A ModelInfer call, from its message to its answer.", registry)
        self.queue_seconds = _seconds("queue", "A request's wait until its batch began.", registry)
        self.compute_seconds = _seconds("compute", "One execution: batch assembled, run, split.", registry)
        self.batch_size = Histogram(
            "netweight_batch_size", "Samples in one execution.", MODEL, buckets=BATCHES, registry=registry
        )
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
        self.fallbacks = Counter(
            "netweight_provider_fallbacks", "Loads that wanted CUDA and got the CPU.", registry=registry
        )

    def of(self, model: str, version: str, pending: Callable[[], int]) -> ModelMetrics:
        """Return the children of one loaded version; ``pending`` is asked for the queue's length at each scrape."""
        self.pending.labels(model, version).set_function(pending)
        return ModelMetrics(self, model, version)

    def set_state(self, model: str, version: str, state: str) -> None:
        """Show the state that a version is in."""
        for each in STATES:
            self.state.labels(model, version, each).set(each == state)

    def count_refused(self, model: str, version: str, code: str) -> None:
        """Count a call that reached no loaded version; both names are empty where they are a caller's free text."""
        self.requests.labels(model, version, code).inc()


class ModelMetrics:
    """The metrics of one loaded version, with their labels looked up once."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        labels = (model, version)
        self._requests = metrics.requests
        self._labels = labels
        self._codes = {"OK": metrics.requests.labels(*labels, "OK")}
        self._request = metrics.request_seconds.labels(*labels)
        self._queue = metrics.queue_seconds.labels(*labels)
        self._compute = metrics.compute_seconds.labels(*labels)
        self._batch = metrics.batch_size.labels(*labels)
        self._inferences = metrics.inferences.labels(*labels)
        self._executions = metrics.executions.labels(*labels)

    def request(self, code: str, seconds: float) -> None:
        """Count one answered call."""
        if code not in self._codes:
            self._codes[code] = self._requests.labels(*self._labels, code)
        self._codes[code].inc()
        self._request.observe(seconds)

    def execution(self, size: int, compute_seconds: float, queue_seconds: list[float]) -> None:
        """Count one execution of ``size`` samples, and the wait of each request in it."""
        self._executions.inc()
        self._inferences.inc(size)
        self._batch.observe(size)
        self._compute.observe(compute_seconds)
        for seconds in queue_seconds:
            self._queue.observe(seconds)


def _seconds(what: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(f"netweight_{what}_duration_seconds", text, MODEL, buckets=SECONDS, registry=registry)


def _model_gauge(what: str, text: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(f"netweight_model_{what}", text, MODEL, registry=registry)

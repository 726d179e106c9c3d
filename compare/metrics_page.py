"""The server's metrics page, read as a user's Prometheus would: what each model took and was asked."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from models.spec import NetweightError

FIGURES = {
    "netweight_model_load_seconds": "load_seconds",
    "netweight_model_session_seconds": "session_seconds",
    "netweight_model_warm_up_seconds": "warm_up_seconds",
    "netweight_model_resident_bytes": "resident_bytes",
    "netweight_model_gpu_memory_bytes": "gpu_memory_bytes",
    "netweight_model_file_bytes": "file_bytes",
    "netweight_model_parameters": "parameters",
    "netweight_model_multiply_accumulates": "multiply_accumulates",
}


@dataclass(frozen=True)
class ModelFigures:
    """What the server says of one version of a model; None: it does not say."""

    load_seconds: float | None = None
    session_seconds: float | None = None
    warm_up_seconds: float | None = None
    resident_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    file_bytes: int | None = None
    parameters: int | None = None
    multiply_accumulates: int | None = None
    provider: str | None = None


@dataclass(frozen=True)
class ProcessFigures:
    """What the server says of its own process; None: it does not say.

    Attributes:
        startup_seconds: by phase (``process``, ``imports``, ``other``, ``total``).
        gpu_memory_bytes: that its process holds, of all GPUs together.
        cpu_seconds: that its process has used, user and system.
    """

    startup_seconds: dict[str, float] = field(default_factory=dict)
    gpu_memory_bytes: int | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Counts:
    """How often a model was asked, all its versions together: calls by gRPC status code, and samples that it inferred."""

    requests: dict[str, int] = field(default_factory=dict)
    inferences: int = 0

    def since(self, earlier: Counts) -> Counts:
        """Return by how much the counts grew."""
        grown = {code: count - earlier.requests.get(code, 0) for code, count in self.requests.items()}
        return Counts(grown, self.inferences - earlier.inferences)


def read_counts(url: str, model: str, timeout_seconds: float = 10.0) -> Counts:
    """Return the counts of a model at a metrics page's http address."""
    return parse_counts(read_page(url, timeout_seconds), model)


def read_page(url: str, timeout_seconds: float = 10.0) -> str:
    """Return the text of a metrics page."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise NetweightError(f"metrics page {url!r}: expected an address like http://127.0.0.1:8002/metrics")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path or "/metrics")
        reply = connection.getresponse()
        text = reply.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise NetweightError(f"metrics page {url}: {error}; is the server running with its metrics port on?") from error
    finally:
        connection.close()
    if reply.status != http.HTTPStatus.OK:
        raise NetweightError(f"metrics page {url}: expected status 200, got {reply.status}")
    return text


def parse_counts(text: str, model: str) -> Counts:
    """Return the counts of a model in a page of Prometheus's text format; calls with no model's name belong to each."""
    requests: dict[str, int] = {}
    inferences = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "netweight_requests_total" and sample.labels.get("model", "") in (model, ""):
                code = sample.labels["code"]
                requests[code] = requests.get(code, 0) + int(sample.value)
            elif sample.name == "netweight_inferences_total" and sample.labels.get("model") == model:
                inferences += int(sample.value)
    return Counts(requests, inferences)


def parse_process(text: str) -> ProcessFigures:
    """Return what a page of Prometheus's text format says of the server's process."""
    startup: dict[str, float] = {}
    gpu: list[float] = []
    cpu = None
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "netweight_startup_seconds":
                startup[sample.labels["phase"]] = sample.value
            elif sample.name == "netweight_gpu_process_memory_bytes":
                gpu.append(sample.value)
            elif sample.name == "process_cpu_seconds_total":
                cpu = sample.value
    return ProcessFigures(startup, int(sum(gpu)) if gpu else None, cpu)


def parse_figures(text: str) -> dict[tuple[str, str], ModelFigures]:
    """Return the figures of each (model name, version) in a page of Prometheus's text format."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.labels.get("model", ""), sample.labels.get("version", ""))
            if sample.name in FIGURES:
                figure = FIGURES[sample.name]
                value = sample.value if figure.endswith("_seconds") else int(sample.value)
                found.setdefault(key, {})[figure] = value
            elif sample.name == "netweight_model_provider_info" and sample.value == 1:
                found.setdefault(key, {})["provider"] = sample.labels.get("provider")
    return {key: ModelFigures(**values) for key, values in found.items()}

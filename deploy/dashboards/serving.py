"""The dashboard "Serving": for the person on call, who asks what is wrong and since when."""

from __future__ import annotations

from deploy.dashboards.panel import Board, Panel, Query, Unit
from deploy.dashboards.promql import (
    GPU,
    INSTANCE,
    INTERVAL,
    LOAD_FAILED,
    LOADED,
    MODEL,
    SHOWN,
    STARTED,
    mean,
    quantile,
    rate,
)

BOUND_SECONDS = 0.5
"""That p99 should keep: the alert NetweightLatencyHigh of deploy/alerts.yml has the same."""
BOUND_RATIO = 0.01
"""Of all calls, that may fail by our fault: the alert NetweightErrorRatio has the same."""
HERE = 'instance=~"$instance"'
SERVER = f'job="netweight",{HERE}'
MODELS = f'{HERE},model=~"$model"'
CALLS = f'{HERE},model=~"$model|"'
"""Of the chosen models, and for models that are not there: those are counted without a name."""
OURS = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED"'
"""Codes that are the server's fault, as NetweightErrorRatio counts them."""
ALERTS = f'ALERTS{{alertname=~"Netweight.+",alertstate="firing",{HERE}}}'
PARTS = ("input", "queue", "compute", "output")


def now() -> tuple[Panel, ...]:
    """Return one line of single figures: is all well at this moment?"""
    asked = rate("requests_total", "instance", CALLS)
    failed = f"({rate('requests_total', 'instance', f'{CALLS},{OURS}')} or 0 * {asked}) / {asked}"
    each = "{{instance}}"
    return (
        figure(
            "Up", f"up{{{SERVER}}}", each, Unit.COUNT, "1: the server answers Prometheus. 0: NetweightDown.", least=1
        ),
        figure(
            "Ready",
            f"netweight_ready{{{HERE}}}",
            each,
            Unit.COUNT,
            "1: every model that should be served is. 0: NetweightNotReady.",
            least=1,
        ),
        figure("Requests", asked, each, Unit.REQUESTS, "Calls by second, answered in whatever way."),
        figure(
            "Failed by our fault",
            failed,
            each,
            Unit.RATIO,
            "INTERNAL, UNAVAILABLE, DEADLINE_EXCEEDED and the like, of all calls. "
            f"Over {100 * BOUND_RATIO:g} %: NetweightErrorRatio.",
            bound=BOUND_RATIO,
        ),
        figure(
            "Latency p99",
            quantile(0.99, "request", "instance", MODELS),
            each,
            Unit.SECONDS,
            "Over all chosen models; the network comes on top. Over its bound by model: NetweightLatencyHigh.",
            bound=BOUND_SECONDS,
        ),
        figure(
            "Alerts firing",
            f"count({ALERTS}) or vector(0)",
            "alerts",
            Unit.COUNT,
            "docs/runbook.md has a paragraph for each.",
            bound=1,
        ),
    )


def wrong() -> tuple[Panel, ...]:
    """Return what is wrong, by name."""
    firing = f"max by (alertname, severity) ({ALERTS})"
    states = f"max by (model, version, state) (netweight_model_state{{{MODELS}}} == 1)"
    failed = f'increase(netweight_model_loads_total{{{HERE},outcome="failed"}}[{SHOWN}])'
    return (
        Panel(
            "names",
            "Alerts",
            (Query(firing, "{{alertname}} ({{severity}})"),),
            Unit.COUNT,
            "What fires now. Empty: nothing does.",
        ),
        Panel(
            "names",
            "States",
            (Query(states, "{{model}} {{version}}: {{state}}"),),
            Unit.COUNT,
            "UNAVAILABLE: unloaded, or it could not be loaded; the log has the reason.",
        ),
        Panel(
            "bars",
            "Failed loads, fallbacks, restarts",
            (
                Query(failed, "{{instance}} failed loads"),
                Query(f"netweight_provider_fallbacks_total{{{HERE}}}", "{{instance}} fallbacks to the CPU"),
                Query(f"netweight_frontend_restarts_total{{{HERE}}}", "{{instance}} front-end restarts"),
            ),
            Unit.COUNT,
            "Failed loads in the time shown; the others since the server started. A load that failed before the first "
            "scrape is in the alert, not here.",
        ),
    )


def callers() -> tuple[Panel, ...]:
    """Return what callers get."""
    errors = rate("requests_total", "code", f'{CALLS},code!="OK"')
    everything = rate("requests_total", "", CALLS)
    ratio = f"{errors} / ignoring (code) group_left () {everything}"
    return (
        Panel(
            "lines",
            "Requests",
            (Query(rate("requests_total", "code", CALLS), "{{code}}"),),
            Unit.REQUESTS,
            "Calls by second, by the gRPC code of their answer.",
        ),
        Panel(
            "lines",
            "Error ratio",
            (Query(ratio, "{{code}}"),),
            Unit.RATIO,
            "Of all calls, by code. INVALID_ARGUMENT and NOT_FOUND are the caller's mistakes. No line: every call was answered OK.",
        ),
        Panel(
            "lines",
            "Latency",
            (
                Query(quantile(0.5, "request", "model", MODELS), "{{model}} p50"),
                Query(quantile(0.99, "request", "model", MODELS), "{{model}} p99"),
            ),
            Unit.SECONDS,
            "A call from its message to its answer. The line is the bound that the alert holds p99 against.",
            bound=BOUND_SECONDS,
        ),
    )


def queues() -> tuple[Panel, ...]:
    """Return where the time goes between a request's arrival and its answer."""
    pending = f"sum by (model) (netweight_pending_requests{{{MODELS}}})"
    parts = tuple(Query(mean(f"{part}_duration_seconds", "", MODELS), part) for part in PARTS)
    waits = (
        Query(quantile(0.5, "queue", "model", MODELS), "{{model}} p50"),
        Query(quantile(0.99, "queue", "model", MODELS), "{{model}} p99"),
    )
    return (
        Panel("lines", "Queue wait", waits, Unit.SECONDS, "Until a request's batch began.", width=6),
        Panel("lines", "Pending", (Query(pending, "{{model}}"),), Unit.COUNT, "Requests that wait.", width=6),
        Panel(
            "lines",
            "Batch size",
            (Query(mean("batch_size", "model", MODELS), "{{model}}"),),
            Unit.COUNT,
            "Samples in one execution, on the mean: larger when more is asked than one run can answer.",
            width=6,
        ),
        Panel(
            "lines",
            "Where the time goes",
            parts,
            Unit.SECONDS,
            "Means of the four parts of an answered call: decoding, waiting, running, encoding. The one that grew is it.",
            width=6,
        ),
    )


def machine() -> tuple[Panel, ...]:
    """Return what the server takes of the machine."""
    each, on_top = "{{instance}}", "front ends (--frontends) come on top."
    cpu = f"rate(process_cpu_seconds_total{{{SERVER}}}[{INTERVAL}])"
    memory = (
        Query(f"netweight_gpu_memory_used_bytes{{{HERE}}}", "{{gpu_uuid}} used", empty_without=GPU),
        Query(f"netweight_gpu_process_memory_bytes{{{HERE}}}", "{{gpu_uuid}} by this server", empty_without=GPU),
        Query(f"netweight_gpu_memory_total_bytes{{{HERE}}}", "{{gpu_uuid}} total", empty_without=GPU),
    )
    utilization = (Query(f"netweight_gpu_utilization_ratio{{{HERE}}}", "{{gpu_uuid}}", empty_without=GPU),)
    power = (Query(f"netweight_gpu_power_watts{{{HERE}}}", "{{gpu_uuid}}", empty_without=GPU),)
    return (
        Panel(
            "lines",
            "CPUs in use",
            (Query(cpu, each),),
            Unit.COUNT,
            f"CPU seconds by second of the process that holds the models; {on_top}",
        ),
        Panel(
            "lines",
            "Resident memory",
            (Query(f"process_resident_memory_bytes{{{SERVER}}}", each),),
            Unit.MEMORY,
            f"Of the process that holds the models, with buffers and the runtime itself; {on_top}",
        ),
        Panel(
            "bars",
            "Start, by phase",
            (Query(f"netweight_startup_seconds{{{HERE}}}", "{{instance}} {{phase}}"),),
            Unit.SECONDS,
            "From the process's start to the ready line: starting Python, imports, the rest; total has the loads too.",
        ),
        Panel("lines", "GPU memory", memory, Unit.MEMORY, "Near its total: NetweightGpuMemory."),
        Panel("lines", "GPU in use", utilization, Unit.RATIO, "The share of time that it ran."),
        Panel("lines", "GPU power", power, Unit.WATTS, "Of the whole board."),
    )


def figure(
    title: str,
    expression: str,
    legend: str,
    unit: Unit,
    description: str,
    *,
    bound: float | None = None,
    least: float | None = None,
) -> Panel:
    """Return a panel of one present value for each server."""
    return Panel("figure", title, (Query(expression, legend),), unit, description, width=4, bound=bound, least=least)


BOARD = Board(
    "serving",
    "Serving",
    "For the person on call: is it up, what do callers get, where does the time go, what was loaded when.",
    (INSTANCE, MODEL),
    (STARTED, LOADED, LOAD_FAILED),
    (
        ("Now", now()),
        ("What is wrong", wrong()),
        ("What callers get", callers()),
        ("Where the time goes", queues()),
        ("The machine", machine()),
    ),
)

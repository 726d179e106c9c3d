"""The dashboard "What each model costs": every model beside the others, from live traffic."""

from __future__ import annotations

from deploy.dashboards.panel import Board, Panel, Query, Unit
from deploy.dashboards.promql import (
    GPU,
    LOADED,
    MODEL,
    STARTED,
    by_version,
    mean,
    of_all_servers,
    of_version,
    quantile,
    rate,
)
from deploy.dashboards.promql import times_the_lightest as times

FILES, RESIDENT = of_version("file_bytes"), of_version("resident_bytes")
PARAMETERS, OPERATIONS = of_version("parameters"), of_version("multiply_accumulates")
LOAD, SESSION, WARM_UP = of_version("load_seconds"), of_version("session_seconds"), of_version("warm_up_seconds")
ACCURACY, GPU_MEMORY = of_version("heldout_accuracy"), of_version("gpu_memory_bytes")
P50, P90, P99 = (quantile(share, "request") for share in (0.5, 0.9, 0.99))
INFERENCES = rate("inferences_total")
BATCH = mean("batch_size")
COMPUTE = f"{rate('execution_seconds_total')} / {INFERENCES}"
"""Seconds of runs over samples, whatever the batches. What calls saw would count a run for each call in its batch."""

BY_RUNS = "Seconds of session runs, over the samples in them; by the clock, however many threads ran: not CPU seconds."
BY_TRAFFIC = "Of all servers, over the traffic that there is, not that there could be: an idle model looks dear."


def table() -> Panel:
    """Return all figures in one table, a row for each version."""
    columns = (
        Query(FILES, "On disk", Unit.BYTES),
        Query(RESIDENT, "Resident", Unit.MEMORY),
        Query(PARAMETERS, "Parameters", Unit.COUNT),
        Query(OPERATIONS, "MACs", Unit.COUNT),
        Query(ACCURACY, "Accuracy", Unit.RATIO),
        Query(GPU_MEMORY, "GPU memory", Unit.MEMORY, GPU),
        Query(LOAD, "Load", Unit.SECONDS),
        Query(SESSION, "Session", Unit.SECONDS),
        Query(WARM_UP, "Warm-up", Unit.SECONDS),
        Query(P50, "p50", Unit.SECONDS),
        Query(P90, "p90", Unit.SECONDS),
        Query(P99, "p99", Unit.SECONDS),
        Query(INFERENCES, "Inferences/s", Unit.COUNT),
        Query(COMPUTE, "Compute each", Unit.SECONDS),
        Query(BATCH, "Batch", Unit.COUNT),
    )
    text = (
        "Latency is what the server sees, from a call's message to its answer; resident memory is what loading added. "
        "A dash: not measured, or not known."
    )
    return Panel("table", "All figures", columns, Unit.COUNT, text, width=24)


def bars(title: str, expression: str, unit: Unit, description: str, *, empty_without: str = "") -> Panel:
    """Return a panel with a bar for each version."""
    queries = by_version(expression, empty_without=empty_without)
    return Panel("bars", title, queries, unit, description, width=6)


def lines(title: str, expression: str, unit: Unit, description: str) -> Panel:
    """Return a panel with a line for each version."""
    return Panel("lines", title, by_version(expression), unit, description)


def to_ship_and_hold() -> tuple[Panel, ...]:
    """Return what each loaded version weighs before its first request."""
    provider = Query(of_version("provider_info", "model, version, provider"), "{{model}} {{version}}: {{provider}}")
    known = "As its card tells; a version without a card, or whose card tells none, is not shown."
    return (
        bars("On disk", FILES, Unit.BYTES, "The version's model files: graph and weights."),
        bars("Resident memory", RESIDENT, Unit.MEMORY, "What loading and warming the version up added to the process."),
        bars("GPU memory", GPU_MEMORY, Unit.MEMORY, "What loading added on the device.", empty_without=GPU),
        bars("Held-out accuracy", ACCURACY, Unit.RATIO, f"Measured after training on images held out. {known}"),
        bars("Parameters", PARAMETERS, Unit.COUNT, known),
        bars("Multiply-accumulates", OPERATIONS, Unit.COUNT, f"For one image. {known}"),
        Panel(
            "names",
            "Runs on",
            (provider,),
            Unit.COUNT,
            "ONNX Runtime's execution provider. CPUExecutionProvider on a GPU server: CUDA could not be used.",
            width=6,
        ),
        bars("Mean batch", BATCH, Unit.COUNT, "Samples in one execution."),
    )


def to_start() -> tuple[Panel, ...]:
    """Return what loading takes, and of what it consists."""
    parts = (*by_version(SESSION, "session"), *by_version(WARM_UP, "warm-up"))
    text = (
        "Opening the session (reading, optimizing the graph), and the first runs; what is missing to the sum is checks."
    )
    return (
        Panel("bars", "Time to load", by_version(LOAD), Unit.SECONDS, "From the file to READY.", width=12),
        Panel("bars", "Session and warm-up", parts, Unit.SECONDS, text, width=12),
    )


def to_call() -> tuple[Panel, ...]:
    """Return what each call takes, under the traffic that there is."""
    seen = "A call from its message to its answer, inside the server."
    return (
        lines("Latency p50", P50, Unit.SECONDS, seen),
        lines("Latency p90", P90, Unit.SECONDS, seen),
        lines("Latency p99", P99, Unit.SECONDS, f"{seen} Cut from a histogram: exact to a bucket's width."),
        lines("Inferences", INFERENCES, Unit.SAMPLES, "Samples by second."),
        lines("Compute for each inference", COMPUTE, Unit.SECONDS, BY_RUNS),
        lines("Batch size", BATCH, Unit.COUNT, "Samples in one execution, on the mean."),
        Panel(
            "bars",
            "Bytes on disk for each inference by second",
            by_version(f"{of_all_servers('file_bytes')} / {INFERENCES}"),
            Unit.BYTES,
            BY_TRAFFIC,
            width=12,
        ),
        Panel(
            "bars",
            "Resident memory for each inference by second",
            by_version(f"{of_all_servers('resident_bytes')} / {INFERENCES}"),
            Unit.MEMORY,
            BY_TRAFFIC,
            width=12,
        ),
    )


def beside_the_lightest() -> tuple[Panel, ...]:
    """Return each cost as a multiple of the least among the chosen models."""
    kinds = {
        "Bytes on disk": FILES,
        "Resident memory": RESIDENT,
        "Multiply-accumulates": OPERATIONS,
        "Time to load": LOAD,
        "Latency p50": P50,
        "Compute for each inference": COMPUTE,
    }
    text = "How many times that of the lightest of the chosen models, which is 1."
    return tuple(
        Panel("bars", f"{title}, times the lightest", by_version(times(expression)), Unit.TIMES, text)
        for title, expression in kinds.items()
    )


BOARD = Board(
    "costs",
    "What each model costs",
    "What each model costs to ship, to hold, to start and to call, beside the others, from live traffic.",
    (MODEL,),
    (STARTED, LOADED),
    (
        ("Side by side", (table(),)),
        ("To ship and to hold", to_ship_and_hold()),
        ("To start", to_start()),
        ("To call", to_call()),
        ("Beside the lightest", beside_the_lightest()),
    ),
)

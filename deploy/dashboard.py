"""Grafana's dashboard, written as code: `python -m deploy.dashboard` generates deploy/grafana/dashboards/netweight.json.

With ``--check`` nothing is written; the exit code is 1 where the file is not what this code generates.
"""

from __future__ import annotations

import argparse
import sys
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

PATH = Path(__file__).parent / "grafana" / "dashboards" / "netweight.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
"""As deploy/grafana/provisioning/datasources/prometheus.yml provisions it."""
CHOSEN = 'model=~"$model"'
"""The models that the variable above the dashboard chooses."""
CHOSEN_OR_UNKNOWN = 'model=~"$model|"'
"""Those, and calls for models that are not there: they are counted without a name."""
BYTES = "decbytes"
"""Grafana's unit for MB = 10^6 bytes."""

Query = tuple[str, str]
"""A PromQL expression and the legend of its series."""
Panel = stat.Panel | bargauge.Panel | timeseries.Panel


def quantile(share: float, histogram: str) -> str:
    """Return the expression for a quantile (0..1) of a ``netweight_*_seconds`` histogram by model, in seconds."""
    buckets = f"rate(netweight_{histogram}_duration_seconds_bucket{{{CHOSEN}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (model, le) ({buckets}))"


def rate(metric: str, by: str = "model", matchers: str = CHOSEN) -> str:
    """Return the expression for a counter's increase by second."""
    return f"sum by ({by}) (rate(netweight_{metric}{{{matchers}}}[$__rate_interval]))"


def now_panels() -> list[Panel]:
    """Return one line of single figures: is all well at this moment?"""
    requests = f"rate(netweight_requests_total{{{CHOSEN_OR_UNKNOWN}}}[$__rate_interval])"
    failed = f'rate(netweight_requests_total{{{CHOSEN_OR_UNKNOWN},code!="OK"}}[$__rate_interval])'
    return [
        figure("Models ready", f'sum(netweight_model_state{{{CHOSEN},state="READY"}})', "short", "Versions in READY."),
        figure("Requests", f"sum({requests})", "reqps", "ModelInfer calls by second, answered in whatever way."),
        figure(
            "Requests that failed",
            f"(sum({failed}) or vector(0)) / sum({requests})",
            "percentunit",
            "Calls answered with another code than OK, calls for unknown models among them.",
        ),
        figure(
            "Latency p99",
            f"histogram_quantile(0.99, sum by (le) (rate(netweight_request_duration_seconds_bucket{{{CHOSEN}}}"
            "[$__rate_interval])))",
            "s",
            "Over all chosen models, as the server sees it: the network and the client come on top.",
        ),
        figure("Pending requests", f"sum(netweight_pending_requests{{{CHOSEN}}})", "short", "Waiting in the queues."),
        figure(
            "Resident memory",
            'process_resident_memory_bytes{job="netweight"}',
            BYTES,
            "Of the whole server process: all models, buffers and the runtime itself.",
        ),
    ]


def cost_panels() -> list[Panel]:
    """Return what each loaded version costs before its first request."""
    legend = "{{model}} {{version}}"
    each = "max by (model, version)"
    return [
        bars(
            "On disk", (f"{each} (netweight_model_file_bytes{{{CHOSEN}}})", legend), BYTES, "The version's model files."
        ),
        bars(
            "In memory",
            (f"{each} (netweight_model_resident_bytes{{{CHOSEN}}})", legend),
            BYTES,
            "Resident memory that loading and warming the version up added to the process.",
        ),
        bars(
            "Time to load",
            (f"{each} (netweight_model_load_seconds{{{CHOSEN}}})", legend),
            "s",
            "Opening the session and warming it up.",
        ),
        providers(),
    ]


def traffic_panels() -> list[Panel]:
    """Return what callers see."""
    return [
        lines("Requests", [(rate("requests_total"), "{{model}}")], "reqps", "ModelInfer calls by second, by model."),
        lines(
            "Latency",
            [(quantile(0.5, "request"), "{{model}} p50"), (quantile(0.99, "request"), "{{model}} p99")],
            "s",
            "A call from its message to its answer, inside the server.",
        ),
        lines(
            "Errors",
            [(rate("requests_total", "code", f'{CHOSEN_OR_UNKNOWN},code!="OK"'), "{{code}}")],
            "reqps",
            "Calls by second that were answered with another code than OK. No line: there was none.",
        ),
    ]


def batching_panels() -> list[Panel]:
    """Return what happens between a request's arrival and its execution."""
    mean = f"{rate('batch_size_sum')} / {rate('batch_size_count')}"
    return [
        lines("Inferences", [(rate("inferences_total"), "{{model}}")], "ops", "Samples by second, by model."),
        lines("Batch size", [(mean, "{{model}}")], "short", "Samples in one execution, on the mean."),
        lines(
            "Queue wait p99",
            [(quantile(0.99, "queue"), "{{model}}")],
            "s",
            "From a request's arrival to the start of its batch.",
        ),
        lines(
            "Pending requests",
            [(f"sum by (model) (netweight_pending_requests{{{CHOSEN}}})", "{{model}}")],
            "short",
            "Waiting in each model's queue.",
        ),
        lines("Execution p99", [(quantile(0.99, "compute"), "{{model}}")], "s", "One batch: assembled, run, split."),
        lines(
            "CPUs in use",
            [('rate(process_cpu_seconds_total{job="netweight"}[$__rate_interval])', "{{instance}}")],
            "short",
            "CPU seconds by second of the whole server process.",
        ),
    ]


def figure(title: str, expression: str, unit: str, description: str) -> Panel:
    """Return a panel that shows one present value, with its course behind it."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target(0, (expression, title)))
    )


def bars(title: str, query: Query, unit: str, description: str) -> Panel:
    """Return a panel with one bar for each model's present value, so that their lengths compare."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(6)
        .height(8)
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target(0, query))
    )


def lines(title: str, queries: list[Query], unit: str, description: str) -> Panel:
    """Return a panel with a line for each series over time, and their last and greatest values below."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(8)
        .height(9)
        .legend(legend.show_legend(True).calcs(["lastNotNull", "max"]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for position, query in enumerate(queries):
        panel.with_target(target(position, query))
    return panel


def providers() -> Panel:
    """Return a panel that names the execution provider of each version: the label is the news, the value is always 1."""
    query = (
        f"max by (model, version, provider) (netweight_model_provider_info{{{CHOSEN}}})",
        "{{model}} {{version}}: {{provider}}",
    )
    return (
        stat.Panel()
        .title("Runs on")
        .description("ONNX Runtime's execution provider. CPUExecutionProvider on a GPU server: CUDA could not be used.")
        .datasource(SOURCE)
        .span(6)
        .height(8)
        .orientation(VizOrientation.HORIZONTAL)
        .text_mode(BigValueTextMode.NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target(0, query))
    )


def target(position: int, query: Query) -> prometheus.Dataquery:
    """Return a panel's query; the first has the reference A."""
    expression, legend = query
    return (
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend)
        .ref_id("ABCDEFGH"[position])
        .datasource(SOURCE)
        .range()
    )


def generate() -> str:
    """Return the dashboard as Grafana's JSON, with a newline at its end."""
    board = (
        dashboard.Dashboard("netweight")
        .uid("netweight")
        .description("What each model costs, on disk, in memory and in time; what callers get; how batches form.")
        .tags(["netweight"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("5s")
        .timezone("browser")
        .with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(netweight_model_state, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    )
    rows = {
        "Now": now_panels(),
        "What each model costs": cost_panels(),
        "What callers get": traffic_panels(),
        "How batches form": batching_panels(),
    }
    ids = count(1)
    for title, panels in rows.items():
        board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            board.with_panel(panel.id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def main() -> int:
    """Write the dashboard, or compare it with the file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dashboard", description="Generate Grafana's dashboard.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the file is another")
    wanted = generate()
    if parser.parse_args().check:
        if PATH.is_file() and PATH.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PATH} is not what deploy/dashboard.py generates: python -m deploy.dashboard", file=sys.stderr)
        return 1
    PATH.parent.mkdir(parents=True, exist_ok=True)
    fresh = PATH.with_name(f".{PATH.name}")
    fresh.write_text(wanted, encoding="utf-8")
    fresh.replace(PATH)
    return 0


if __name__ == "__main__":
    sys.exit(main())

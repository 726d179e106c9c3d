"""A board as Grafana's JSON, made with Grafana's own SDK."""

from __future__ import annotations

from itertools import count

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.dashboards.panel import Annotation, Board, Panel, Query, Variable

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
"""As deploy/grafana/provisioning/datasources/prometheus.yml provisions it."""
LAST = ["lastNotNull"]
DASH = "–"  # noqa: RUF001  it stands for what was not measured

Drawn = stat.Panel | bargauge.Panel | timeseries.Panel | table.Panel


def as_json(board: Board) -> str:
    """Return a board as Grafana's JSON, with a newline at its end."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"netweight-{board.name}")
        .description(board.description)
        .tags(["netweight"])
        .link(
            dashboard.DashboardLink("netweight").type(DashboardLinkType.DASHBOARDS).tags(["netweight"]).keep_time(True)
        )
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("5s")
        .timezone("browser")
    )
    for variable in board.variables:
        made.with_variable(choice(variable))
    for mark in board.annotations:
        made.annotation(annotation(mark))
    ids = count(1)
    for title, panels in board.rows:
        made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made.with_panel(drawn(panel).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def choice(variable: Variable) -> dashboard.QueryVariable:
    """Return a variable that offers each value of a label, several at once, all at first."""
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(f"label_values({variable.metric}, {variable.name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def annotation(mark: Annotation) -> dashboard.AnnotationQuery:
    """Return marks on every graph, where the expression has a value."""
    return (
        dashboard.AnnotationQuery()
        .name(mark.title)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(mark.colour)
        .expr(mark.expression)
    )


def drawn(panel: Panel) -> Drawn:
    """Return a panel as Grafana draws its kind, with all that the kinds have in common."""
    made = {"figure": figure, "bars": bars, "lines": lines, "names": names, "table": together}[panel.kind](panel)
    made.title(panel.title).description(panel.explanation).datasource(SOURCE).unit(panel.unit.value).span(panel.width)
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours(panel)))
    for position, query in enumerate(panel.queries):
        made.with_target(target(panel, position, query))
    return made


def colours(panel: Panel) -> list[Threshold]:
    """Return the colours of values: red where something is wrong. Without any, Grafana paints all from 80 on red."""
    steps = [Threshold(value=None, color="blue" if panel.least is None else "red")]
    if panel.least is not None:
        steps.append(Threshold(value=panel.least, color="green"))
    if panel.bound is not None:
        steps.append(Threshold(value=panel.bound, color="red"))
    return steps


def figure(_: Panel) -> Drawn:
    """Return one present value for each series: of a server that died there is none, rather than its last one."""
    options = common.ReduceDataOptions().calcs(LAST)
    return stat.Panel().height(4).no_value(DASH).graph_mode(BigValueGraphMode.NONE).reduce_options(options)


def names(_: Panel) -> Drawn:
    """Return the series' legends: the labels are the news, the value is always 1."""
    return (
        stat.Panel()
        .height(8)
        .orientation(VizOrientation.HORIZONTAL)
        .text_mode(BigValueTextMode.NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .no_value("none")
        .reduce_options(common.ReduceDataOptions().calcs(LAST))
    )


def bars(_: Panel) -> Drawn:
    """Return a bar for each series' present value, so that their lengths compare."""
    return (
        bargauge.Panel()
        .height(8)
        .min(0)
        .no_value(DASH)
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(LAST))
    )


def lines(panel: Panel) -> Drawn:
    """Return a line for each series over time, their last and greatest values below, the bound as a dashed line."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    made = (
        timeseries.Panel()
        .height(9)
        .no_value("none")
        .min(0)
        .legend(legend.show_legend(True).calcs([*LAST, "max"]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.bound is not None:
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return made


def together(panel: Panel) -> Drawn:
    """Return all queries in one table: a row for each version, a column with its own unit for each query."""
    columns = {f"Value #{reference(position)}": query for position, query in enumerate(panel.queries)}
    order = {name: position for position, name in enumerate(("model", "version", *columns))}
    titles = {"model": "Model", "version": "Version", **{name: query.legend for name, query in columns.items()}}
    made = table.Panel().height(8).no_value(DASH)
    made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    options = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": titles}
    made.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    for query in panel.queries:
        unit = (query.unit or panel.unit).value
        made.override_by_name(query.legend, [DynamicConfigValue(id_val="unit", value=unit)])
    return made


def target(panel: Panel, position: int, query: Query) -> prometheus.Dataquery:
    """Return a panel's query: of this moment, unless it is drawn over time."""
    made = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(reference(position))
    made.datasource(SOURCE)
    if panel.kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    return made.range() if panel.kind == "lines" else made.instant()


def reference(position: int) -> str:
    """Return the letter that Grafana calls a panel's query by; the first is A."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[position]

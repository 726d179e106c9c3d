"""What a dashboard is, whoever draws it: boards of rows of panels, each of which asks Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Unit(Enum):
    """A figure's unit, by Grafana's name for it."""

    BYTES = "decbytes"
    """On disk: in kB, MB, GB, powers of ten."""
    MEMORY = "bytes"
    """In KiB, MiB, GiB, powers of 2^10."""
    SECONDS = "s"
    COUNT = "short"
    RATIO = "percentunit"
    """0..1, shown as a percentage."""
    TIMES = "suffix:\u00d7"
    REQUESTS = "reqps"
    """By second."""
    SAMPLES = "ops"
    """Inferences by second."""
    WATTS = "watt"


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called."""

    expression: str
    """With Grafana's variables: $model, $instance, $__rate_interval, $__range."""
    legend: str
    """``{{label}}`` stands for a label's value. In a table: the column's title."""
    unit: Unit | None = None
    """Where it is another than the panel's: in a table."""
    empty_without: str = ""
    """What a machine must have for this to have data; empty: it always has some under load."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    kind: Literal["figure", "bars", "lines", "names", "table"]
    """One value; a bar for each series now; a line for each over time; the legends of what is 1; figures by model."""
    title: str
    queries: tuple[Query, ...]
    unit: Unit
    description: str
    """A sentence or two: what is shown, and what to know before believing it."""
    width: int = 8
    """Of the 24 columns."""
    bound: float | None = None
    """From here on something is wrong, in the panel's unit: a line, or red."""
    least: float | None = None
    """Below this something is wrong."""

    @property
    def explanation(self) -> str:
        """The description, and why there may be nothing to see."""
        lacks = {query.empty_without for query in self.queries}
        return self.description if "" in lacks else f"{self.description} No data without {' or '.join(sorted(lacks))}."


@dataclass(frozen=True)
class Variable:
    """A choice above the dashboard."""

    name: str
    label: str
    metric: str
    """The series whose label ``name`` is offered."""


@dataclass(frozen=True)
class Annotation:
    """A mark on every graph, at the moments when a query has a value."""

    title: str
    expression: str
    colour: str


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    name: str
    """In file names and in the address, after "netweight-"."""
    title: str
    description: str
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for _, panels in self.rows for panel in panels)

    @property
    def expressions(self) -> tuple[str, ...]:
        """Every expression of the board: its panels', its variables', its annotations'."""
        asked = [query.expression for panel in self.panels for query in panel.queries]
        return (*asked, *(each.metric for each in self.variables), *(each.expression for each in self.annotations))

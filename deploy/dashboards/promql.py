"""PromQL's expressions over the server's metrics (docs/metrics.md), and the marks that both dashboards bear."""

from __future__ import annotations

from deploy.dashboards.panel import Annotation, Query, Variable

CHOSEN = 'model=~"$model"'
"""The models that the variable above the dashboard chooses."""
EACH = "model, version"
NAMED = "{{model}} {{version}}"
"""The legend of what is told by version."""
INTERVAL = "$__rate_interval"
SHOWN = "$__range"
"""The time that the dashboard shows."""
GPU = "a GPU"
"""What a machine must have for some queries to have data."""

MODEL = Variable("model", "Model", "netweight_model_state")
INSTANCE = Variable("instance", "Server", 'up{job="netweight"}')

STARTED = Annotation("Server started", 'changes(process_start_time_seconds{job="netweight"}[1m]) > 0', "blue")
LOADED = Annotation("Version loaded", 'increase(netweight_model_loads_total{outcome="ready"}[1m]) > 0', "green")
LOAD_FAILED = Annotation("Load failed", 'increase(netweight_model_loads_total{outcome="failed"}[1m]) > 0', "red")
"""Grafana asks for annotations at steps of a minute: each change is in one of them."""


def filled(expression: str, interval: str, shown: str) -> str:
    """Return an expression as Prometheus takes it: of all models and servers, with durations for Grafana's variables.

    Args:
        expression: with Grafana's variables.
        interval: what rates are taken over, such as ``1m``; at least two scrapes.
        shown: the time that is looked at, such as ``15m``.
    """
    values = {"$model": ".+", "$instance": ".+", INTERVAL: interval, SHOWN: shown}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


def of_version(what: str, by: str = EACH, matchers: str = CHOSEN) -> str:
    """Return the expression for a gauge ``netweight_model_...``; servers that serve the same model show the largest."""
    return f"max by ({by}) (netweight_model_{what}{{{matchers}}})"


def of_all_servers(what: str) -> str:
    """Return the expression for a gauge ``netweight_model_...`` of each version, summed over the servers."""
    return f"sum by ({EACH}) (netweight_model_{what}{{{CHOSEN}}})"


def rate(metric: str, by: str = EACH, matchers: str = CHOSEN) -> str:
    """Return the expression for a counter's increase by second."""
    return f"sum by ({by}) (rate(netweight_{metric}{{{matchers}}}[{INTERVAL}]))"


def quantile(share: float, part: str, by: str = EACH, matchers: str = CHOSEN) -> str:
    """Return the expression for a quantile (0..1) of ``netweight_PART_duration_seconds``, in seconds."""
    labels = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({share}, {rate(f'{part}_duration_seconds_bucket', labels, matchers)})"


def mean(histogram: str, by: str = EACH, matchers: str = CHOSEN) -> str:
    """Return the expression for the mean of what a histogram ``netweight_...`` counted."""
    return f"{rate(f'{histogram}_sum', by, matchers)} / {rate(f'{histogram}_count', by, matchers)}"


def times_the_lightest(expression: str) -> str:
    """Return the expression for how many times the least of an expression's series, but for zeros, each of them is."""
    return f"({expression}) / scalar(min(({expression}) > 0))"


def by_version(expression: str, label: str = "", *, empty_without: str = "") -> tuple[Query, ...]:
    """Return one query whose series are called by model and version, and by what else they are."""
    return (Query(expression, f"{NAMED} {label}".strip(), empty_without=empty_without),)

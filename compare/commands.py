"""The commands of stage 4: compare, choose, demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from compare.comparison import Comparison
    from compare.plan import Plan

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

repository_option = click.option(
    "--repository",
    type=PATH,
    default=Path("model_repository"),
    show_default=True,
    envvar="NETWEIGHT_REPOSITORY",
    help="The model repository.",
)


@click.command()
@click.argument("models", nargs=-1)
@repository_option
@click.option("--address", help="A running server's gRPC port, HOST:PORT.  [default: start one for each model]")
@click.option("--metrics-url", help="A running server's metrics page, for the memory of its models.")
@click.option("--heldout", help="Where each model's held-out images are, e.g. out/demo/runs/{model}/heldout.npz")
@click.option("--quick", "plan", flag_value="quick", help="Two short rounds: under two minutes for three models.")
@click.option("--full", "plan", flag_value="full", help="Five long rounds: minutes for each model.")
@click.option(
    "--p99-ms",
    default=100.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The p99 that the highest Poisson rate must keep.",
)
@click.option(
    "--hourly-price", type=click.FloatRange(min=0), help="Of this machine: adds the price of a million inferences."
)
@click.option("--callers", type=click.IntRange(min=1), help="At saturation.  [default: up to 32, by the model]")
@click.option("--seconds", type=click.FloatRange(min=0.05), help="Of each window.  [default: by the plan]")
@click.option("--rounds", type=click.IntRange(min=1), help="Each through all models in turn.  [default: by the plan]")
@click.option("--output", type=PATH, help="Write JSON, CSV, Markdown, a page and a picture into this directory.")
@click.option("--name", default="comparison", show_default=True, help="Of the files there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--diff", nargs=2, type=FILE, metavar="OLD NEW", help="Measure nothing: what became better or worse?")
@click.option(
    "--fail-over",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="With --diff: exit code 1 if a figure is worse by more than this, beyond the noise.",
)
def compare(
    diff: tuple[Path, Path] | None, fail_over: float | None, output: Path | None, name: str, as_json: bool, **given: Any
) -> None:
    """Weigh models side by side through a real server: bytes, memory, cold start, latency, throughput, accuracy.

    MODELS are names or patterns ('vgg*'); none: every model of the repository.
    """
    if diff:
        if given["models"]:
            raise click.UsageError("--diff compares all models of both files: name none")
        from compare.diff import run as show_difference

        raise SystemExit(show_difference(*diff, fail_over, as_json=as_json))
    if fail_over is not None:
        raise click.UsageError("--fail-over is for --diff OLD NEW")
    if given["metrics_url"] and not given["address"]:
        raise click.UsageError("--metrics-url is of a running server: give its --address too")
    from compare.process import INTERRUPTED
    from compare.run import UnfinishedError

    try:
        comparison = _measure(as_json=as_json, **given)
    except UnfinishedError as unfinished:
        if unfinished.comparison.cards:
            _give(unfinished.comparison, output, name, as_json=as_json)
        if unfinished.interrupted:
            click.echo(str(unfinished), err=True)
            raise SystemExit(INTERRUPTED) from None
        raise
    _give(comparison, output, name, as_json=as_json)


@click.command()
@click.argument("models", nargs=-1)
@click.option("--results", type=FILE, help="A comparison's JSON.  [default: the newest comparison.json]")
@click.option("--max-mb", type=float, help="Of the ONNX file, in MB (1,000,000 bytes).")
@click.option("--max-memory-mib", type=float, help="Of the server's process at its peak, in MiB (1,048,576 bytes).")
@click.option("--p99-ms", type=float, help="Of one caller, batch 1.")
@click.option("--min-rate", type=float, help="Inferences for each second: Poisson under --p99-ms, else at saturation.")
@click.option("--min-accuracy", type=float, help="Of the held-out images, 0..1.")
@click.option("--max-price", type=float, help="Of a million inferences, in the money of --hourly-price.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def choose(models: tuple[str, ...], results: Path | None, as_json: bool, **bounds: float | None) -> None:
    """Name the model to deploy from measured cards, and say why each other fell out.

    MODELS are names or patterns ('vgg*'); none: all that were measured.
    """
    from compare.bounds import Bounds
    from compare.choose import run

    raise SystemExit(run(results, Bounds(**bounds), models, as_json=as_json))


@click.command()
@click.option(
    "--directory",
    type=PATH,
    default=Path("out/demo"),
    show_default=True,
    help="Where everything is kept; what is there already is used again.",
)
def demo(directory: Path) -> None:
    """Train four networks on the built-in digits, export, serve and compare them: what does VGG cost?"""
    from compare.demo import demo as run

    run(directory, report=click.echo)


def _measure(
    *,
    plan: str | None,
    callers: int | None,
    seconds: float | None,
    rounds: int | None,
    p99_ms: float,
    as_json: bool,
    **options: Any,
) -> Comparison:
    """Measure; progress goes to stderr where JSON is printed."""
    from compare.plan import PLANS
    from compare.run import compare as run

    chosen = _changed(PLANS[plan or "standard"], callers, seconds, rounds)
    return run(plan=chosen, bound_seconds=p99_ms / 1000, report=lambda line: click.echo(line, err=as_json), **options)


def _changed(plan: Plan, callers: int | None, seconds: float | None, rounds: int | None) -> Plan:
    """Return the plan with what the user wants otherwise; callers that are named are kept for every model."""
    if callers is not None:
        plan = replace(plan, callers=callers, fewest_callers=callers)
    if seconds is not None:
        plan = replace(plan, seconds=seconds, offline_seconds=seconds)
    return plan if rounds is None else replace(plan, rounds=rounds)


def _give(comparison: Comparison, output: Path | None, name: str, *, as_json: bool) -> None:
    """Write the files and show the table."""
    from rich.console import Console

    from compare.comparison import as_json as written
    from compare.results import write_all
    from compare.table import show

    if as_json:
        click.echo(written(comparison), nl=False)
    else:
        show(comparison, Console())
    if output:
        paths = write_all(output, comparison, name=name)
        click.echo(f"written: {', '.join(str(path) for path in paths)}", err=as_json)

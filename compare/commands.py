"""The commands of stage 4: compare, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    envvar="NETWEIGHT_REPOSITORY",
    help="The model repository.",
)


@click.command()
@click.argument("models", nargs=-1)
@repository_option
@click.option("--address", help="A running server's gRPC port, HOST:PORT.  [default: start one]")
@click.option("--metrics-url", help="A running server's metrics page, for load seconds and memory.")
@click.option("--heldout", help="Where each model's held-out images are, e.g. out/demo/runs/{model}/heldout.npz")
@click.option(
    "--callers", multiple=True, type=click.IntRange(min=1), default=(32,), help="Callers at once.  [default: 32]"
)
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(min=0.1), help="Of each measurement.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write results.json and results.md into this directory."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(as_json: bool, output: Path | None, **options: Any) -> None:
    """Weigh models side by side: bytes, memory, milliseconds, throughput, accuracy, through a real server."""
    from rich.console import Console

    from compare import report
    from compare.run import compare as run
    from models.environment import environment

    rows = run(report=lambda line: click.echo(line, err=as_json), **options)
    if output:
        report.write_results(output / "results.json", rows, environment())
        report.write_text(output / "results.md", report.as_markdown(rows))
    if as_json:
        click.echo(report.as_json(rows, environment()))
    else:
        report.show(rows, Console())


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Where everything is kept; what is there already is used again.",
)
def demo(directory: Path) -> None:
    """Train four networks on the built-in digits, export, serve and compare them: what does VGG cost?"""
    from compare.demo import demo as run

    run(directory, report=click.echo)

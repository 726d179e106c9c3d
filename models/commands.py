"""The commands of stage 1: models, train. Torch is imported when something is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.options import hint, network_argument

if TYPE_CHECKING:
    from models.spec import Architecture, Recipe


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the networks of the catalogue, or show one."""
    if context.invoked_subcommand is None:
        context.invoke(list_models, as_json=as_json)


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List every network: family, year, parameters, bytes, published accuracy."""
    from models import catalog, listing

    click.echo(listing.as_json(catalog.architectures()) if as_json else listing.as_table(catalog.architectures()))


@models.command("show")
@network_argument
@json_option
def show_model(network: str, as_json: bool) -> None:
    """Show one network: what it takes, what it weighs, how it is trained, what was published of it."""
    from models import catalog, listing

    architecture = catalog.get(network)
    click.echo(listing.as_json([architecture]) if as_json else listing.describe(architecture))


@click.command()
@network_argument
@click.option("--data", default="digits", show_default=True, help="The data set: digits are built in.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the run is written.  [default: out/runs/NETWORK]"
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.  [default: the network's recipe]")
@click.option("--learning-rate", type=float, help="The schedule's peak.  [default: the network's recipe]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in a step.  [default: the network's recipe]")
@click.option("--seed", default=0, show_default=True, help="Of weights, order and dropout.")
@click.option("--fresh", is_flag=True, help="Begin anew, even where a run stands that could be resumed or reused.")
def train(network: str, data: str, output: Path | None, seed: int, fresh: bool, **changes: Any) -> None:
    """Train a network of the catalogue.

    A run that was cut off goes on where it was; a finished one is not trained again. The best epoch's weights are in
    best.pt, each epoch's figures in history.csv, what was reached in run.json.
    """
    from models import catalog
    from models.train import train as run

    architecture = catalog.get(network)
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = _recipe(architecture, given)
    directory = output or Path("out/runs") / network
    trained = run(architecture, data=data, recipe=recipe, directory=directory, seed=seed, resume=not fresh)
    click.echo(f"{directory / 'best.pt'}: held-out accuracy {trained.accuracy:.2%}")
    hint(f"next: netweight export {network} --weights {directory / 'best.pt'}")


def _recipe(architecture: Architecture, given: dict[str, Any]) -> Recipe | None:
    """Return the network's recipe with what was given in its place; None: the network's own, if it has one."""
    from models.spec import Recipe

    if architecture.recipe is not None:
        return dataclasses.replace(architecture.recipe, **given)
    return Recipe(**given) if {"epochs", "learning_rate"} <= given.keys() else None

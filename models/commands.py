"""The commands of stage 1: models, train. Torch is imported when something is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from models.options import builder_arguments, builder_options, hint, network_argument
from models.recipe_options import recipe, recipe_fields, recipe_options

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
    """List every network: family, year, parameters, GMACs, bytes, published errors."""
    from models import catalog, listing

    click.echo(listing.as_json(catalog.architectures()) if as_json else listing.as_table(catalog.architectures()))


@models.command("show")
@network_argument
@click.argument("shapes", nargs=-1)
@click.option(
    "--stride", type=int, help="Of conv (1) and pool (the window's height): pixels from one place to the next."
)
@click.option("--padding", type=int, help="Of conv and pool: pixels added on each side.  [default: 0]")
@click.option("--dilation", type=int, help="Of conv and pool: distance between a kernel's values.  [default: 1]")
@click.option(
    "--groups", type=int, help="Of conv: each output sees the input's channels divided by this.  [default: 1]"
)
@click.option(
    "--bias/--no-bias", default=None, help="Of conv and linear: one for each output channel.  [default: bias]"
)
@builder_options
@json_option
def show_model(
    network: str,
    shapes: tuple[str, ...],
    as_json: bool,
    builder: str | None,
    builder_option: tuple[str, ...],
    **options: Any,
) -> None:
    r"""Show one network: what it takes, its layers, where its weight sits, what was published of it.

    Or work out a layer: conv IMAGE KERNEL..., pool IMAGE WINDOW..., linear FEATURES FEATURES...

    \b
    netweight models show vgg16
    netweight models show efficientnet_b0                 any other of torchvision's
    netweight models show mine --builder my.nets:mine     or your own
    netweight models show conv 64x64x3 3x3x16
    netweight models show conv 62x62x32 1x1x8 3x3x64      one after the other
    netweight models show pool 224x224x64 2x2 --stride 2
    netweight models show linear 25088 4096
    """
    from models import lookup, show
    from models.spec import NetweightError

    if network in show.KINDS:
        click.echo(show.layer_page(network, shapes, as_json=as_json, **options))
        return
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if shapes or given:
        raise NetweightError(
            f"{network} takes no {' '.join([*shapes, *given])}: shapes and their options belong to {', '.join(show.KINDS)}"
        )
    architecture = lookup.find(network, builder, builder_arguments(builder_option))
    click.echo(show.network_page(architecture, as_json=as_json))


@click.command()
@network_argument
@builder_options
@click.option(
    "--data", default="digits", show_default=True, help="digits, some of them (digits:0-4), or a directory of pictures."
)
@click.option(
    "--size", type=click.IntRange(min=1), help="An image's side in pixels.  [default: the data's or network's]"
)
@click.option("--train-images", type=click.IntRange(min=1), help="How many to train on.  [default: all]")
@click.option(
    "--unreadable", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True, help="Pictures."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the run is written.  [default: out/runs/NETWORK]"
)
@recipe_options
@click.option("--init-from", metavar="CHECKPOINT", help="Another network's best.pt: layers are taken where they match.")
@click.option("--transfer", metavar="WEIGHTS", help="A checkpoint or published weights: all is taken but the head.")
@click.option("--seed", default=0, show_default=True, help="Of weights, order and dropout.")
@click.option(
    "--keep",
    type=click.Choice(["best", "last", "all"]),
    default="best",
    show_default=True,
    help="What stays: best.pt alone, last.ckpt too, or epoch-NNN.pt of every epoch too.",
)
@click.option("--fresh", is_flag=True, help="Begin anew, even where a run stands that could be resumed or reused.")
def train(
    network: str,
    builder: str | None,
    builder_option: tuple[str, ...],
    output: Path | None,
    init_from: str | None,
    transfer: str | None,
    fresh: bool,
    **options: Any,
) -> None:
    """Train a network.

    What is not given of the recipe (--epochs to --precision) is as the network's own recipe has it.
    A run that was cut off goes on where it was; a finished one is not trained again. The best epoch's weights are in
    best.pt, each epoch's figures in history.csv and history.png, what was reached in run.json.
    """
    from models import lookup
    from models.train import train as run

    architecture = lookup.find(network, builder, builder_arguments(builder_option))
    given = {name: options.pop(name) for name in recipe_fields()}
    directory = output or Path("out/runs") / network
    trained = run(
        architecture,
        recipe=recipe(architecture, given),
        directory=directory,
        init_from=init_from,
        transfer=transfer,
        resume=not fresh,
        **options,
    )
    click.echo(f"{directory / 'best.pt'}: {trained.split.partition(',')[0]} accuracy {trained.accuracy:.2%}")
    own = f" --builder {builder}" if builder else ""
    hint(f"next: netweight export {network} --weights {directory / 'best.pt'}{own}")

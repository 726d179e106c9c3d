"""The commands of stage 2: export. Torch is imported when something is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from models.options import hint, network_argument

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    envvar="NETWEIGHT_REPOSITORY",
    help="The model repository.",
)


@click.command()
@network_argument
@click.option(
    "--weights",
    default="random",
    show_default=True,
    help="random (untrained), a checkpoint file, or the name of torchvision's published ones: IMAGENET1K_V1, DEFAULT.",
)
@repository_option
@click.option("--name", help="The model's name in the repository.  [default: the network's]")
@click.option("--classes", type=click.IntRange(min=1), help="Classes, with random weights.  [default: the network's]")
@click.option(
    "--input",
    type=click.Choice(["uint8", "float32"]),
    default="uint8",
    show_default=True,
    help="uint8 takes pixels and preprocesses in the graph; float32 takes the normalised NCHW tensor.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="The version of ONNX's operators.")
@click.option(
    "--external-data-above",
    type=click.FloatRange(min=0),
    default=50.0,
    show_default=True,
    help="Megabytes (10^6) of weights from which on they lie beside the graph, so that the server maps them.",
)
def export(network: str, weights: str, external_data_above: float, **options: Any) -> None:
    """Export a network to ONNX, prove it against torch, and publish it as the model's next version."""
    from export.pipeline import export as run
    from models import catalog
    from models.weights import parse

    published = run(
        catalog.get(network),
        parse(weights),
        options.pop("repository"),
        external_data_above=external_data_above * 1e6,
        report=click.echo,
        **options,
    )
    click.echo(f"published {published.path}")
    hint(f"next: netweight serve --repository {published.path.parents[1]}")

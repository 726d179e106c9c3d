"""The commands of stage 2: export. Torch is imported when something is exported."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from models.options import builder_arguments, builder_options, hint, network_argument

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
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="Also publish this variant of it, as NAME.VARIANT: fp16, int8, int8-weights, int4-weights or fp16-weights; repeatable.",
)
@click.option(
    "--calibration",
    metavar="DATA",
    help="Images that int8 takes its ranges from: digits, a directory with train/CLASS/*, or a FILE.npz.",
)
@click.option(
    "--calibration-images", type=click.IntRange(min=1), default=128, show_default=True, help="How many of them at most."
)
@click.option(
    "--calibration-method",
    type=click.Choice(["minmax", "percentile", "entropy"]),
    default="minmax",
    show_default=True,
    help="How an activation's range follows from its values: all, all but the rarest, or what loses least information.",
)
@click.option(
    "--calibration-percentile",
    type=click.FloatRange(min=0, max=100, min_open=True),
    default=99.99,
    show_default=True,
    help="Percent of the values inside the range, with that method.",
)
@click.option(
    "--heldout",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Held-out images (.npz) to measure accuracy on.  [default: heldout.npz beside the checkpoint]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-4,
    show_default=True,
    help="The largest difference to torch, as a share of the outputs' scale; each variant has its own.",
)
@click.option("--accept-parity", is_flag=True, help="Publish what is out of tolerance too; its card then says so.")
@click.option("--fresh", is_flag=True, help="Export fp32 again even where only variants are missing.")
@click.option(
    "--head",
    type=click.Choice(["pool", "svd"]),
    help="For VGG and AlexNet, as NAME.HEAD: pool averages each map, one layer follows; svd splits each full layer in two.",
)
@click.option("--energy", type=float, help="Of --head svd: the share of squared singular values to keep, 0 to 1.")
@click.option("--rank", type=int, help="Of --head svd: how many singular values to keep in each layer.")
@click.option(
    "--head-epochs",
    type=click.IntRange(min=0),
    help="Fine-tuning: a quarter of them the head alone, then all.  [default: 4 for pool, 0 for svd]",
)
@click.option("--head-data", metavar="DATA", help="To fine-tune on.  [default: what the checkpoint was trained on]")
@builder_options
def export(network: str, weights: str, external_data_above: float, calibration: str | None, **options: Any) -> None:
    """Export a network to ONNX, prove it against torch, and publish it as the model's next version."""
    from export import heads, pipeline
    from export.calibration import Calibration
    from models import lookup
    from models.weights import parse

    builder, arguments = options.pop("builder"), builder_arguments(options.pop("builder_option"))
    images, method, percentile = (options.pop(f"calibration_{each}") for each in ("images", "method", "percentile"))
    if calibration is not None:
        options["calibration"] = Calibration(calibration, images=images, method=method, percentile=percentile)
    lighter = {each: options.pop(each) for each in ("head", "energy", "rank", "head_epochs", "head_data")}
    asked = heads.asked(lighter.pop("head"), lighter)
    exported = (functools.partial(heads.export, asked=asked) if asked else pipeline.export)(
        lookup.find(network, builder, arguments),
        parse(weights),
        options.pop("repository"),
        external_data_above=external_data_above * 1e6,
        report=click.echo,
        **options,
    )
    for published in (*([] if exported.reused else [exported.fp32]), *exported.variants):
        click.echo(f"published {published.path}")
    if exported.failures:
        raise click.ClickException("; ".join(exported.failures))
    hint(f"next: netweight serve --repository {exported.fp32.path.parents[1]}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@repository_option
@click.option("--name", help="The model's name in the repository.  [default: the file's, or its directory's]")
@click.option("--labels", type=click.Path(path_type=Path), help="A text file with one class name in each line.")
def adopt(source: Path, repository: Path, **options: Any) -> None:
    """Publish an ONNX file from elsewhere, or the one in a directory, as a model's next version.

    It is checked, upgraded where its opset is old, given a dynamic batch where that is safe, run on random input and
    weighed; its card says what is not known of it.
    """
    from export.adopt import adopt as run

    published = run(source, repository, report=click.echo, **options)
    click.echo(f"published {published.path}")
    hint(f"next: netweight serve --repository {repository}")


@click.command()
@click.argument("what", required=False)
@repository_option
@click.option("--all", "every", is_flag=True, help="Every network of the catalogue, a line each: some minutes.")
@click.option("--rank", type=click.IntRange(min=1), help="Of the svd heads that are shown.  [default: 256]")
@click.option("--heads/--no-heads", default=True, show_default=True, help="Whether lighter heads are counted too.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write it as FILE.svg, .png or .html.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@builder_options
def weigh(what: str | None, repository: Path, every: bool, picture: Path | None, as_json: bool, **options: Any) -> None:
    """Weigh a network before it is exported: the bytes of each layer, and of each variant and head that it could have.

    WHAT is a network, a model of the repository, or an ONNX file. Nothing is written, and no weights are read.
    """
    import json

    from export import subject, weigh_page

    if every or what is None:
        _weigh_all(what, every, picture, as_json)
        return
    weighed = subject.weigh(
        what,
        repository,
        rank=options["rank"],
        lighter_heads=options["heads"],
        builder=options["builder"],
        options=builder_arguments(options["builder_option"]),
    )
    if picture is not None:
        from export.picture import draw

        draw(weighed, picture)
    click.echo(json.dumps(weighed.to_dict(), indent=2) if as_json else weigh_page.page(weighed))


def _weigh_all(what: str | None, every: bool, picture: Path | None, as_json: bool) -> None:
    """Weigh the catalogue."""
    import json

    from export import every_network, weigh_page
    from models.spec import NetweightError

    if not every:
        raise NetweightError(
            "weigh needs a network, a model of the repository or an ONNX file; or --all for the catalogue"
        )
    if what is not None or picture is not None:
        raise NetweightError("--all weighs the catalogue: leave out --picture and the network")
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in every_network.weigh()], indent=2))
        return
    names = every_network.VARIANTS
    click.echo(weigh_page.all_pages([weigh_page.line(each, names) for each in every_network.weigh()], names))

"""The command line: one command, a subcommand for each stage.

A stage is imported when its subcommand is called, so that `netweight serve` needs no torch and starts at once.
Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.spec import Architecture, Recipe

Command = typing.TypeVar("Command", bound="Callable[..., Any]")
ENVIRONMENT = "NETWEIGHT"
EXTRAS = {"onnxruntime": "cpu", "rich": "compare", "psutil": "compare"}
"""Which extra of the package brings a module; others come with [train]."""
INTERRUPTED = 130

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime 1.32 would otherwise keep a device's id on disk


class Lines(click.Group):
    """A group whose commands fail with one line, and which lists its commands in the order of the stages."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the commands' names."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our own failures become one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra = {
                "torch": "train",
                "torchvision": "train",
                "onnx": "train",
                "lightning": "train",
                "sklearn": "train",
            }
            name = str(error.name).partition(".")[0]
            cure = f"pip install 'netweight[{extra.get(name, 'compare')}]'"
            raise click.ClickException(f"this needs the package {name}, which is not installed: {cure}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("server", "models", "export", "compare"):
                raise click.ClickException(str(error)) from error  # ours: its message is one line for the user
            raise


@click.group(cls=Lines, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="netweight")
def main() -> None:
    r"""What does a network weigh in production?

    \b
    netweight demo                                  all of it, on built-in data
    netweight models                                which networks there are
    netweight train lenet5 --output runs/lenet5     train one on the built-in digits
    netweight export lenet5 --weights runs/lenet5/best.pt
    netweight serve                                 serve what was exported, by gRPC
    netweight infer lenet5 digit.png                ask the server
    netweight compare                               weigh all that is exported, side by side
    """


def settings_options(record: type[Any]) -> Callable[[Command], Command]:
    """Make an option of each field of a settings record; its default, text and type are the field's."""
    types = typing.get_type_hints(record)

    def decorate(command: Command) -> Command:
        for field in reversed(dataclasses.fields(record)):
            kind = types[field.name]
            many = typing.get_origin(kind) is tuple
            flag = f"--{field.name.removesuffix('s') if many else field.name}".replace("_", "-")
            command = click.option(
                flag,
                field.name,
                type=_parameter_type(typing.get_args(kind)[0] if many else kind),
                is_flag=kind is bool,
                multiple=many,
                default=field.default,
                show_default=not many,
                envvar=[f"{ENVIRONMENT}_{field.name.upper()}", *field.metadata.get("environment", ())],
                show_envvar=True,
                help=field.metadata["help"],
            )(command)
        return command

    return decorate


def _parameter_type(kind: Any) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        return click.Choice(typing.get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind


class ServeCommand(click.Command):
    """`serve`, whose options are read off the server's settings record when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options, made at the first call."""
        if len(self.params) == 0:
            from server.config import Settings

            collected = click.command()(settings_options(Settings)(lambda: None))
            self.params = list(collected.params)
        return super().get_params(ctx)


@main.command(cls=ServeCommand)
def serve(**settings: Any) -> None:
    """Serve a model repository by gRPC, with metrics by HTTP.

    Prints one line when every model is loaded and warmed. SIGTERM (or Ctrl-C) drains: requests in flight finish, new
    ones are refused, and the exit code is 0; a second signal quits at once.
    """
    from server.app import serve as run
    from server.config import Settings

    run(Settings(**settings), click.echo)


def access_options(command: Command) -> Command:
    """Give a command that calls a server the options of `server.access.Access`."""
    for name, text in (
        ("token", "The bearer token that the server asks for; better in the environment, where no list shows it."),
        ("tls-key", "The key of --tls-cert, PEM."),
        ("tls-cert", "A certificate to show, PEM, where the server asks for one."),
        ("tls-ca", "Speak TLS, and trust servers whose certificate one of these, PEM, has signed."),
    ):
        variable = f"{ENVIRONMENT}_CLIENT_{name.upper().replace('-', '_')}"
        command = click.option(f"--{name}", default="", envvar=variable, show_envvar=True, help=text)(command)
    return command


@main.command()
@click.option("--address", default="127.0.0.1:8001", show_default=True, help="The server's gRPC port.")
@access_options
def health(address: str, **access: str) -> None:
    """Ask a server's health: exit code 0 when it serves every model, else 1. For health checks of containers."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from server.access import Access

    with Access(**access).channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            raise click.ClickException(
                f"no healthy server at {address} ({error.code().name}); start one: netweight serve --repository DIR"
            ) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(status)
    sys.exit(0 if status == "SERVING" else 1)


@main.command()
@click.argument("role", type=click.Choice(["infer", "control"]))
def token(role: str) -> None:
    """Make a bearer token: infer may run models and read; control may also load, unload and set.

    The token is for the caller and shown once; the line is for the server's file (serve --tokens FILE), and no secret.
    """
    from server.tokens import make

    made = make(typing.cast("Any", role))
    click.echo(f"token  {made.token}")
    click.echo(f"line   {made.line}")


def _complete_network(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from models import catalog

    return [name for name in catalog.names() if name.startswith(incomplete)]


def _hint(text: str) -> None:
    """Say what a person would type next; `demo`, which types it itself, turns this off."""
    if os.environ.get("NETWEIGHT_HINTS") != "off":
        click.echo(text)


network_argument = click.argument("network", shell_complete=_complete_network)
repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    envvar="NETWEIGHT_REPOSITORY",
    help="The model repository.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.group(invoke_without_command=True)
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


@main.command()
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
    _hint(f"next: netweight export {network} --weights {directory / 'best.pt'}")


def _recipe(architecture: Architecture, given: dict[str, Any]) -> Recipe | None:
    """Return the network's recipe with what was given in its place; None: the network's own, if it has one."""
    from models.spec import Recipe

    if architecture.recipe is not None:
        return dataclasses.replace(architecture.recipe, **given)
    return Recipe(**given) if {"epochs", "learning_rate"} <= given.keys() else None


@main.command()
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
    from export.weights import parse
    from models import catalog

    published = run(
        catalog.get(network),
        parse(weights),
        options.pop("repository"),
        external_data_above=external_data_above * 1e6,
        report=click.echo,
        **options,
    )
    click.echo(f"published {published.path}")
    _hint(f"next: netweight serve --repository {published.path.parents[1]}")


@main.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:8001", show_default=True, help="The server's gRPC port.")
@click.option("--version", "model_version", default="", help="The model's version.  [default: the newest]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many labels.")
@access_options
@json_option
def infer(model: str, file: Path, address: str, model_version: str, top: int, as_json: bool, **access: str) -> None:
    """Ask a running server what FILE shows: a picture (PNG, JPEG, ...) or an array (.npy).

    JPEG and PNG files go to the server as they are, and it preprocesses them as the model's card says. Other pictures,
    and all of them where the model has no card, are brought to the model's own size here: the shorter side is scaled,
    the middle cut out. An array is sent as it is, with or without the batch dimension.
    """
    import json

    from server.access import Access
    from server.ask import ask
    from server.client import Client

    with Client(address, access=Access(**access)) as client:
        answers = ask(client, model, file, version=model_version, top=top)
    if as_json:
        click.echo(json.dumps([[dataclasses.asdict(each) for each in sample] for sample in answers], indent=2))
        return
    for number, sample in enumerate(answers):
        if len(answers) > 1:
            click.echo(f"image {number}")
        for each in sample:
            click.echo(f"{each.score:>10.4f}  {each.label}")


@main.command()
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
@json_option
def compare(as_json: bool, output: Path | None, **options: Any) -> None:
    """Weigh models side by side: bytes, memory, milliseconds, throughput, accuracy, through a real server."""
    from rich.console import Console

    from compare import report
    from compare.environment import environment
    from compare.run import compare as run

    rows = run(report=lambda line: click.echo(line, err=as_json), **options)
    if output:
        report.write_results(output / "results.json", rows, environment())
        report.write_text(output / "results.md", report.as_markdown(rows))
    if as_json:
        click.echo(report.as_json(rows, environment()))
    else:
        report.show(rows, Console())


@main.command()
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


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes netweight's commands: eval "$(netweight completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "netweight", "_NETWEIGHT_COMPLETE").source())


if __name__ == "__main__":
    main()

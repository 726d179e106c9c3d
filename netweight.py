"""The command line: one command, a subcommand for each stage.

A stage is imported when its subcommand is called, so that `netweight serve` needs no torch and starts at once.
Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

Command = typing.TypeVar("Command", bound="Callable[..., Any]")
ENVIRONMENT = "NETWEIGHT"


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
                multiple=many,
                default=field.default,
                show_default=not many,
                envvar=f"{ENVIRONMENT}_{field.name.upper()}",
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


@main.command()
@click.option("--address", default="127.0.0.1:8001", show_default=True, help="The server's gRPC port.")
def health(address: str) -> None:
    """Ask a server's health: exit code 0 when it serves every model, else 1. For health checks of containers."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            raise click.ClickException(
                f"no healthy server at {address} ({error.code().name}); start one: netweight serve --repository DIR"
            ) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(status)
    sys.exit(0 if status == "SERVING" else 1)


if __name__ == "__main__":
    main()

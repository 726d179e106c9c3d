"""The commands that run a server or call one: serve, health, token, infer, cards. A server is imported when it is started."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.client import Client
    from server.pb import netweight_pb2 as pb

Command = typing.TypeVar("Command", bound="Callable[..., Any]")
ENVIRONMENT = "NETWEIGHT"
INTERRUPTED = 130


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


@click.command(cls=ServeCommand)
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


@click.command()
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


@click.command()
@click.argument("role", type=click.Choice(["infer", "control"]))
def token(role: str) -> None:
    """Make a bearer token: infer may run models and read; control may also load, unload and set.

    The token is for the caller and shown once; the line is for the server's file (serve --tokens FILE), and no secret.
    """
    from server.tokens import make

    made = make(typing.cast("Any", role))
    click.echo(f"token  {made.token}")
    click.echo(f"line   {made.line}")


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:8001", show_default=True, help="The server's gRPC port.")
@click.option("--version", "model_version", default="", help="The model's version.  [default: the newest]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many labels.")
@access_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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


@click.command()
@click.argument("model", default="")
@click.option("--address", default="127.0.0.1:8001", show_default=True, help="The server's gRPC port.")
@click.option("--watch", is_flag=True, help="Go on: print the cards again whenever some have changed.")
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, 60),
    help="With --watch: print no sooner than so many seconds after the last time.",
)
@access_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, every field; with --watch a line for each change.")
def cards(model: str, address: str, watch: bool, interval: float, as_json: bool, **access: str) -> None:
    """Show what each model costs on a running server: bytes, memory, loading, requests, latency. MODEL: only that one.

    MB are 10^6 bytes, MiB 2^20. Latency is the server's own, since it started, estimated within the buckets of its histogram.
    A dash: not known.
    """
    from server import card_table
    from server.access import Access
    from server.client import Client

    with Client(address, access=Access(**access)) as client:
        if not watch:
            listed = client.list_cards(model)
            click.echo(card_table.as_json(listed) if as_json else card_table.table(listed))
            return
        try:
            for shown in _watched(client, model, round(interval * 1000), as_json=as_json):
                click.echo(shown)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _watched(client: Client, model: str, interval_ms: int, *, as_json: bool) -> Iterator[str]:
    """Yield what to print at each change."""
    from server import card_table

    known: dict[tuple[str, str], pb.Card] = {}
    for message in client.watch_cards(model, interval_ms=interval_ms):
        known |= {(each.model, each.version): each for each in message.cards}
        for gone in message.forgotten:
            known.pop((gone.model, gone.version), None)
        yield card_table.as_line(message) if as_json else card_table.table(known.values()) + "\n"

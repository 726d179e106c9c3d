"""What commands of several stages share: the network's name with its completion, and hints of what to type next."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from typing import Any

import click

from models.spec import NetweightError


def _complete_network(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from models import catalog

    return [name for name in catalog.names() if name.startswith(incomplete)]


def hint(text: str) -> None:
    """Say what a person would type next; `demo`, which types it itself, turns this off."""
    if os.environ.get("NETWEIGHT_HINTS") != "off":
        click.echo(text)


network_argument = click.argument("network", shell_complete=_complete_network)


def builder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `builder` and `builder_option`, with which networks outside the catalogue are built."""
    command = click.option(
        "--builder-option",
        multiple=True,
        metavar="NAME=VALUE",
        help="Keyword argument of the builder; repeat for more.",
    )(command)
    return click.option(
        "--builder", metavar="MODULE:FUNCTION", help="Your own: takes num_classes, returns a torch.nn.Module."
    )(command)


def builder_arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE; a value is a Python literal, or else a text.

    Raises:
        NetweightError: no ``=``, or no name before it.
    """
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise NetweightError(f"--builder-option {text!r}: expected NAME=VALUE, such as width=0.25")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments

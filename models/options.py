"""What commands of several stages share: the network's name with its completion, and hints of what to type next."""

from __future__ import annotations

import os

import click


def _complete_network(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from models import catalog

    return [name for name in catalog.names() if name.startswith(incomplete)]


def hint(text: str) -> None:
    """Say what a person would type next; `demo`, which types it itself, turns this off."""
    if os.environ.get("NETWEIGHT_HINTS") != "off":
        click.echo(text)


network_argument = click.argument("network", shell_complete=_complete_network)

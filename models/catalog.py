"""Every network that netweight knows, by its name. Imports no torch, so that listing them is quick."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from models.records import RECORDS
from models.spec import Architecture, NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_NAME = {architecture.name: architecture for architecture in RECORDS}


def names() -> tuple[str, ...]:
    """Return every network's name, oldest family first."""
    return tuple(_BY_NAME)


def architectures() -> Iterator[Architecture]:
    """Iterate over the records in the order of `names`."""
    return iter(RECORDS)


def get(name: str) -> Architecture:
    """Return the record of the network `name`.

    Raises:
        NetweightError: no such network; the message names the closest ones.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    close = get_close_matches(name.lower().replace("-", ""), names(), n=3, cutoff=0.5)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise NetweightError(f"unknown network {name!r}{meant}: `netweight models` lists those that there are")

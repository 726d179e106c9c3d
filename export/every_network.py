"""The whole catalogue, weighed: each network in a process of its own, as many at once as there are cores."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from models import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from export.subject import Subject

VARIANTS = ("fp32", "fp16", "fp16-weights", "int8", "int8-weights", "int4-weights")
"""In the order of `export.what_if.sizes`."""


def weigh() -> Iterator[Subject]:
    """Weigh every network as it is, without lighter heads, in the catalogue's order."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as workers:
        yield from workers.map(one, catalog.names())


def one(name: str) -> Subject:
    """Weigh one network, with one thread."""
    import torch

    from export.subject import network_by

    torch.set_num_threads(1)
    return network_by(catalog.get(name), lighter_heads=False)

"""Starting the server: seconds to its ready line and to its first answer, and the memory that it then holds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import grpc

from compare import process_tree
from compare.images import input_tensor, random_images
from compare.load import CHANNEL_OPTIONS, METHOD, serialise
from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compare.process_tree import TreeMemory

ANSWER_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Startup:
    """Several starts of a server of one model: medians, with the single values beside the first.

    Attributes:
        ready_seconds: process start to ready line, each start.
        first_answer_seconds: process start to the first answer, its request sent as soon as the server was ready.
        memory: of the last start, right after the ready line, before any request.
        second_process_bytes: what a second server on the same model adds (proportional set sizes of both, less the
            first one's alone); None where the kernel does not tell.
    """

    ready_seconds: tuple[float, ...]
    first_answer_seconds: tuple[float, ...]
    memory: TreeMemory
    second_process_bytes: int | None

    @property
    def start_to_ready_seconds(self) -> float:
        """The median."""
        return median(self.ready_seconds)

    @property
    def start_to_first_answer_seconds(self) -> float:
        """The median."""
        return median(self.first_answer_seconds)


def sample_request(repository: Path, model: str) -> bytes:
    """Return a serialised request with one random image; a server is started for the model's metadata.

    It also brings the files into the page cache, so that each start measured after it is a warm one.
    """
    with ServerProcess(repository, models=[model]) as server, Client(server.address) as client:
        tensor = input_tensor(model, client.metadata(model).inputs)
    return serialise(model, random_images(tensor, 1), input_name=tensor.name, datatype=tensor.datatype)[0]


def measure_startup(
    repository: Path, model: str, request: bytes, *, starts: int, options: Sequence[str] = ()
) -> Startup:
    """Start a server of one model several times, one after the other, and a second one beside the last.

    Args:
        repository: what is served.
        model: its name.
        request: a serialised request for it, with one sample.
        starts: how often, 1 or more.
        options: for ``netweight serve``, beside the ports and the model.
    """
    ready, first = [], []
    memory, second = None, None
    for number in range(starts):
        with ServerProcess(repository, models=[model], options=options) as server:
            memory = process_tree.memory(server.pid)
            _answer(server.address, request)
            first.append(time.monotonic() - server.started)
            ready.append(server.ready_seconds)
            if number == starts - 1:
                second = _second_process(repository, model, server, options)
    assert memory is not None, "at least one start"
    return Startup(tuple(ready), tuple(first), memory, second)


def _answer(address: str, request: bytes) -> None:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            channel.unary_unary(METHOD, None, None)(request, timeout=ANSWER_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise NetweightError(f"server at {address}: {error.code().name}: {error.details()}") from error


def _second_process(repository: Path, model: str, first: ServerProcess, options: Sequence[str]) -> int | None:
    alone = process_tree.memory(first.pid).proportional
    with ServerProcess(repository, models=[model], options=options) as second:
        both = [process_tree.memory(each.pid).proportional for each in (first, second)]
    if alone is None or None in both:
        return None
    return sum(each for each in both if each is not None) - alone

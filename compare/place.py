"""Where a model is served while it is measured: a server of its own, started for it alone, or one that runs already."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from compare.load import CHANNEL_OPTIONS
from compare.process import NETWEIGHT
from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import ClientError
from server.pb import inference_pb2 as pb
from server.pb import inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

EXPLICIT = ("--model-control", "explicit")
"""So that the model is loaded at the start and can be unloaded."""
CALL_TIMEOUT_SECONDS = 60.0
UNLOAD_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Place:
    """A server as a comparison sees it.

    Attributes:
        address: of its gRPC port, HOST:PORT.
        metrics_url: of its metrics page; None: not told.
        server: its process; None: it ran before, is not ours to load and unload, and may be on another machine.
    """

    address: str
    metrics_url: str | None
    server: ServerProcess | None = None


@dataclass(frozen=True)
class Places:
    """How to come by a server of a model.

    Attributes:
        repository: what servers that are started serve.
        address: of the running server; None: one is started for each model.
        metrics_url: of the running server.
        command: how netweight is called.
    """

    repository: Path
    address: str | None = None
    metrics_url: str | None = None
    command: Sequence[str] = NETWEIGHT

    def serve(self, model: str) -> AbstractContextManager[Place]:
        """Give a server of this model, for the time of a with statement."""
        if self.address is not None:
            return nullcontext(Place(self.address, self.metrics_url))
        return self._start(model)

    @contextmanager
    def _start(self, model: str) -> Iterator[Place]:
        with ServerProcess(self.repository, models=[model], command=self.command, options=EXPLICIT) as server:
            yield Place(server.address, server.metrics_url, server)


def index(address: str) -> list[tuple[str, str, str]]:
    """Return (name, version, state) of every version that a server knows of.

    Raises:
        ClientError: it does not tell, or is not there.
    """
    answer = _call(address, lambda stub: stub.RepositoryIndex, pb.RepositoryIndexRequest())
    return [(each.name, each.version, each.state) for each in answer.models]


def max_batch_size(address: str, model: str) -> int | None:
    """Return how many samples a model takes at once, 0 where it does not batch; None: the server does not tell."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            answer = stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=CALL_TIMEOUT_SECONDS)
        except grpc.RpcError:
            return None
    return int(answer.config.max_batch_size)


def unload(address: str, model: str) -> None:
    """Unload a model, and return when none of its versions is served any more."""
    _call(address, lambda stub: stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=model))
    deadline = time.monotonic() + UNLOAD_TIMEOUT_SECONDS
    while states := {state for name, _, state in index(address) if name == model} - {"UNAVAILABLE", ""}:
        if time.monotonic() > deadline:
            raise NetweightError(
                f"{model}: expected UNAVAILABLE within {UNLOAD_TIMEOUT_SECONDS:g} seconds of RepositoryModelUnload,"
                f" got {', '.join(sorted(states))}"
            )
        time.sleep(POLL_SECONDS)


def _call(address: str, method: Callable[[Any], Any], request: Any) -> Any:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        try:
            return method(stub)(request, timeout=CALL_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            code = error.code()
            raise ClientError(code, f"server at {address}: {code.name}: {error.details()}") from error

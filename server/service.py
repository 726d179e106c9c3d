"""GRPCInferenceService: one short method for each call; ModelInfer, which waits for a batch, is a call object."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeAlias

import grpc

from server import wire
from server.errors import ServerError
from server.pb import inference_pb2 as pb

if TYPE_CHECKING:
    from server.metrics import Metrics
    from server.model import Model, Tensors, Waiting
    from server.repository import Repository
    from server.tensors import TensorSpec

log = logging.getLogger(__name__)
EXTENSIONS = ("classification", "model_configuration")
"""What this server does beyond the Open Inference Protocol."""
INTERNAL = "internal error; the server's log has its cause"

Respond: TypeAlias = Callable[[grpc.StatusCode, str, "pb.ModelInferResponse | None"], None]


class InferenceService:
    """Answers the calls. Methods are named as in the protocol; failures are `ServerError`."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self.repository = repository
        self.metrics = metrics
        self.draining = False

    def ready(self) -> bool:
        """Whether every model that should be loaded is READY and the server is not draining."""
        return not self.draining and self.repository.ready()

    def infer(self, message: pb.ModelInferRequest, respond: Respond) -> InferCall:
        """Begin a ModelInfer; ``respond`` is called once, at once or from another thread, unless it is cancelled."""
        call = InferCall(self, message, respond)
        call.start(message)
        return call

    def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready())

    def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        status = self.repository.status(request.name, request.version)
        return pb.ModelReadyResponse(ready=status.state == "READY" and not self.draining)

    def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="netweight", version=_own_version(), extensions=EXTENSIONS)

    def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self.repository.get(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=self.repository.ready_versions(model.name),
            platform=model.config.platform,
            inputs=[_metadata(spec) for spec in model.inputs],
            outputs=[_metadata(spec) for spec in model.outputs],
        )

    def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self.repository.get(request.name, request.version).config)


class InferCall:
    """One ModelInfer from its message to its answer; counted and timed once, whatever comes of it."""

    __slots__ = ("_answered", "_began", "_entry", "_labels", "_lock", "_model", "_request_id", "_respond", "_service")

    def __init__(self, service: InferenceService, message: pb.ModelInferRequest, respond: Respond) -> None:
        self._began = time.perf_counter()
        self._service = service
        self._respond = respond
        self._labels = (message.model_name, message.model_version)
        self._request_id = message.id
        self._model: Model | None = None
        self._entry: Waiting | None = None
        self._answered = False
        self._lock = threading.Lock()

    def start(self, message: pb.ModelInferRequest) -> None:
        """Decode the message and queue it, or answer with what is wrong with it."""
        try:
            self._model = self._service.repository.get(message.model_name, message.model_version)
            self._entry = self._model.submit(wire.decode(message), self._done)
        except Exception as error:  # noqa: BLE001  every failure is an answer
            self._done(error)

    def cancel(self, code: grpc.StatusCode) -> bool:
        """The caller went away, by itself (CANCELLED) or because its deadline passed: count it, and do not run it.

        Returns:
            Whether it was not answered before; `respond` is then never called.
        """
        if self._model is not None and self._entry is not None:
            self._model.withdraw(self._entry)
        return self._once(code)

    def _done(self, outcome: Tensors | BaseException | None) -> None:
        response = None
        if isinstance(outcome, dict):
            assert self._model is not None
            response = wire.encode(self._model.name, self._model.version, self._request_id, outcome)
            code, details = grpc.StatusCode.OK, ""
        elif isinstance(outcome, ServerError):
            code, details = outcome.code, str(outcome)
        else:
            log.error("ModelInfer failed", exc_info=outcome)
            code, details = grpc.StatusCode.INTERNAL, INTERNAL
        if self._once(code):
            self._respond(code, details, response)

    def _once(self, code: grpc.StatusCode) -> bool:
        """Count the call, the first time; return whether it was that."""
        with self._lock:
            if self._answered:
                return False
            self._answered = True
        if self._model is not None:
            self._model.metrics.request(code.name, time.perf_counter() - self._began)
            return True
        try:
            status = self._service.repository.status(*self._labels)
        except ServerError:
            self._service.metrics.count_refused("", "", code.name)
        else:
            self._service.metrics.count_refused(status.name, status.version, code.name)
        return True


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _own_version() -> str:
    try:
        return version("netweight")
    except PackageNotFoundError:
        return "unknown"

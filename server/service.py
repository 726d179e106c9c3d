"""GRPCInferenceService: one short method for each call, registered under both of the service's names."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory

from server import wire
from server.errors import ServerError
from server.pb import inference_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from server.metrics import Metrics
    from server.model import Model
    from server.repository import Repository
    from server.tensors import TensorSpec

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NAMES = ("inference.GRPCInferenceService", SERVICE.full_name)
"""The protocol's name and ours."""
EXTENSIONS = ("classification", "model_configuration")
"""What this server does beyond the Open Inference Protocol."""
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService:
    """Answers the calls. Methods are named as in the protocol; failures are `ServerError`."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics
        self.draining = False

    def ready(self) -> bool:
        """Whether every model that should be loaded is READY and the server is not draining."""
        return not self.draining and self._repository.ready()

    async def ServerLive(self, _: pb.ServerLiveRequest, __: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest, __: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, _: Context) -> pb.ModelReadyResponse:
        status = self._repository.status(request.name, request.version)
        return pb.ModelReadyResponse(ready=status.state == "READY" and not self.draining)

    async def ServerMetadata(self, _: pb.ServerMetadataRequest, __: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="netweight", version=_own_version(), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, _: Context) -> pb.ModelMetadataResponse:
        model = self._repository.get(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=self._repository.ready_versions(model.name),
            platform=model.config.platform,
            inputs=[_metadata(spec) for spec in model.inputs],
            outputs=[_metadata(spec) for spec in model.outputs],
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, _: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self._repository.get(request.name, request.version).config)

    async def ModelInfer(self, message: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Run a model once; counted and timed here, whatever comes of it."""
        began = time.perf_counter()
        code = grpc.StatusCode.INTERNAL
        model: Model | None = None
        try:
            model = self._repository.get(message.model_name, message.model_version)
            request = wire.decode(message)
            outputs = await model.infer(request)
            response = wire.encode(model.name, model.version, request.id, outputs)
            code = grpc.StatusCode.OK
        except ServerError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = _why_cancelled(context)
            raise
        else:
            return response
        finally:
            self._count(message, model, code.name, time.perf_counter() - began)

    def _count(self, message: pb.ModelInferRequest, model: Model | None, code: str, seconds: float) -> None:
        if model is not None:
            model.metrics.request(code, seconds)
            return
        try:
            status = self._repository.status(message.model_name, message.model_version)
        except ServerError:
            self._metrics.requests.labels("", "", code).inc()
        else:
            self._metrics.requests.labels(status.name, status.version, code).inc()


def handlers(service: InferenceService) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Return the service's handlers, one set for each of its names, read off the proto file."""
    methods = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _answer(getattr(service, method.name)),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        for method in SERVICE.methods
    }
    return [grpc.method_handlers_generic_handler(name, methods) for name in NAMES]


def _answer(method: Callable[[Any, Context], Awaitable[Message]]) -> Callable[[Any, Context], Awaitable[Message]]:
    """Turn a method's failures into gRPC statuses."""

    async def answer(request: Message, context: Context) -> Message:
        try:
            return await method(request, context)
        except ServerError as error:
            await context.abort(error.code, str(error))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s failed", method.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has its cause")

    return answer


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _why_cancelled(context: Context) -> grpc.StatusCode:
    remaining = context.time_remaining()
    return grpc.StatusCode.CANCELLED if remaining is None or remaining > 0 else grpc.StatusCode.DEADLINE_EXCEEDED


def _own_version() -> str:
    try:
        return version("netweight")
    except PackageNotFoundError:
        return "unknown"

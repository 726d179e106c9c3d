"""GRPCInferenceService: one short method for each call; ModelInfer, which waits for a batch, is a call object."""

from __future__ import annotations

import logging
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from server import overrides, weighbridge, wire
from server.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from server.infer_call import Encode, InferCall, Reply, Respond
from server.log_settings import LogSettings
from server.pb import inference_pb2 as pb
from server.pb import netweight_pb2 as own
from server.shared_memory import NO_CUDA, SharedMemory
from server.trace_context import NO_CONTEXT, TraceContext
from server.trace_settings import TraceSettings

if TYPE_CHECKING:
    from server.control import Control
    from server.limits import Limits
    from server.metrics import Metrics
    from server.model import Model
    from server.repository import Repository
    from server.tensors import TensorSpec
    from server.tracing import Tracing

log = logging.getLogger(__name__)
EXTENSIONS = ("classification", "logging", "model_configuration", "model_repository", "schedule_policy", "statistics")
"""What this server does beyond the Open Inference Protocol."""
PARAMETERS: dict[type, str] = {bool: "bool_param", int: "uint32_param", str: "string_param"}
"""The field that carries each type of a log setting."""


class InferenceService:
    """Answers the calls. Methods are named as in the protocol; failures are `ServerError`."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        log_settings: LogSettings,
        tracing: Tracing | None = None,
        memory: SharedMemory = wire.NO_MEMORY,
        *,
        control: Control,
        limits: Limits = wire.LIMITS,
    ) -> None:
        self.repository = repository
        self.metrics = metrics
        self.memory = memory
        self.limits = limits
        self.control = control
        self.log_settings = log_settings
        self.tracing = tracing
        self.trace_settings = tracing.settings if tracing else TraceSettings(on=False)
        self.draining = False
        self._unflushed: set[Model] = set()

    def ready(self) -> bool:
        """Whether every model that should be loaded is READY and the server is not draining."""
        return not self.draining and self.repository.ready()

    @property
    def traced(self) -> bool:
        """Whether a call's trace context is of use."""
        return self.tracing is not None

    def infer(
        self,
        message: pb.ModelInferRequest,
        respond: Respond,
        contents: wire.Contents | None = None,
        context: TraceContext = NO_CONTEXT,
        arrived: float | None = None,
    ) -> InferCall:
        """Begin a ModelInfer.

        Args:
            message: the request.
            respond: called once, at once or from another thread, unless the call is cancelled before it runs.
            contents: the raw contents of the request, if they are not in it.
            context: of the caller's trace.
            arrived: when it came, in `time.perf_counter` seconds; None: now.
        """
        reply = Reply(message.id)
        arrived = time.perf_counter() if arrived is None else arrived
        call = InferCall(self, message.model_name, message.model_version, arrived, reply.encode, respond)
        call.begin(lambda: reply.to(wire.decode(message, contents, self.memory, self.limits)), message.id, context)
        return call

    def infer_decoded(
        self,
        request: wire.InferRequest,
        arrived: float,
        encode: Encode,
        respond: Respond,
        context: TraceContext = NO_CONTEXT,
    ) -> InferCall:
        """Begin a ModelInfer that was decoded elsewhere.

        Args:
            request: the request.
            arrived: when it came, in `time.perf_counter` seconds.
            encode: makes the answer of the model and its outputs.
            respond: as of `infer`; its third argument is what ``encode`` returned.
            context: of the caller's trace.
        """
        call = InferCall(self, request.model, request.version, arrived, encode, respond)
        call.begin(lambda: request, request.id, context)
        return call

    @property
    def unflushed(self) -> bool:
        """Whether requests wait for `flush`."""
        return bool(self._unflushed)

    def run_inline(self, model: Model) -> None:
        """Have the next `flush` run what this model has queued."""
        self._unflushed.add(model)

    def flush(self) -> None:
        """Run what the tiny models have queued, in this thread.

        Whoever began calls does this when no other is at hand: requests that came together run together, and the
        thread that read them answers them, without waking another.
        """
        while self._unflushed:
            try:
                model = self._unflushed.pop()
            except KeyError:  # another thread was faster
                return
            model.flush()

    def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready())

    def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        status = self.repository.status(request.name, request.version)
        return pb.ModelReadyResponse(ready=status.state == "READY" and not self.draining)

    def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        extensions = (*EXTENSIONS, "trace") if self.traced else EXTENSIONS
        if self.memory.enabled:
            extensions = (*extensions, "system_shared_memory")
        return pb.ServerMetadataResponse(name="netweight", version=_own_version(), extensions=extensions)

    def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self.repository.get(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=self.repository.ready_versions(model.name),
            platform=model.config.platform,
            inputs=[_metadata(spec) for spec in model.inputs],
            outputs=[_metadata(spec) for spec in model.outputs],
        )

    def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        chosen = [each for each in self.repository.index() if request.name in ("", each.name)]
        if request.name:
            try:
                named = self.repository.status(request.name, request.version)
            except NotFoundError as error:
                raise InvalidArgumentError(str(error)) from error
            chosen = [named] if request.version else chosen
        models = [each.model for each in chosen if each.model is not None]
        return pb.ModelStatisticsResponse(model_stats=[_statistics(model) for model in models])

    def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self.repository.get(request.name, request.version).config)

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        index = [each for each in self.control.index() if each.state == "READY" or not request.ready]
        model = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[model(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in index]
        )

    def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        self.control.load(request.model_name, overrides.read(request.parameters))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        self.control.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self.memory.status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self.memory.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self.memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(self, _: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        raise UnimplementedError(NO_CUDA)

    def CudaSharedMemoryRegister(self, _: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        raise UnimplementedError(NO_CUDA)

    def CudaSharedMemoryUnregister(
        self, _: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        raise UnimplementedError(NO_CUDA)

    def TraceSetting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        if request.model_name:
            try:
                self.repository.status(request.model_name, "")
            except NotFoundError as error:
                raise InvalidArgumentError(str(error)) from error
        changes = {name: tuple(given.value) for name, given in request.settings.items()}
        self.trace_settings.update(request.model_name, changes)
        shown = self.trace_settings.show(request.model_name)
        setting = pb.TraceSettingResponse.SettingValue
        return pb.TraceSettingResponse(settings={name: setting(value=value) for name, value in shown.items()})

    def LogSettings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        given = {name: each.WhichOneof("parameter_choice") for name, each in request.settings.items()}
        self.log_settings.update(
            {name: getattr(request.settings[name], kind) if kind else None for name, kind in given.items()}
        )
        answer = pb.LogSettingsResponse()
        for name, value in self.log_settings.show().items():
            setattr(answer.settings[name], PARAMETERS[type(value)], value)
        return answer

    def ListCards(self, request: own.ListCardsRequest) -> own.ListCardsResponse:
        return own.ListCardsResponse(cards=weighbridge.cards(self.repository, self.metrics, request.model))

    def GetCard(self, request: own.GetCardRequest) -> own.GetCardResponse:
        self.repository.get(request.model, request.version)
        status = self.repository.status(request.model, request.version)
        return own.GetCardResponse(card=weighbridge.card(status, self.metrics))


def _check_repository(name: str) -> None:
    if name:
        raise UnimplementedError(
            f"repository_name is {name!r}: there is one repository, without a name; leave it empty"
        )


def _statistics(model: Model) -> pb.ModelStatistics:
    """Return a version's statistics as the protocol has them; durations in nanoseconds, altogether."""
    figures = model.statistics
    with figures.lock:
        ok = figures.codes.get("OK", 0)
        failed = sum(figures.codes.values()) - ok
        parts = {
            "queue": figures.queue.sum,
            "compute_input": figures.input.sum,
            "compute_infer": figures.compute.sum,
            "compute_output": figures.output.sum,
        }
        return pb.ModelStatistics(
            name=model.name,
            version=model.version,
            last_inference=int(figures.last_inference * 1000),
            inference_count=sum(size * each.count for size, each in figures.executions.items()),
            execution_count=sum(each.count for each in figures.executions.values()),
            inference_stats=pb.InferStatistics(
                success=_duration(ok, sum(parts.values())),
                fail=_duration(failed, figures.failed_seconds),
                **{name: _duration(ok, seconds) for name, seconds in parts.items()},
            ),
            batch_stats=[
                pb.InferBatchStatistics(
                    batch_size=size,
                    compute_input=_duration(each.count, each.input),
                    compute_infer=_duration(each.count, each.compute),
                    compute_output=_duration(each.count, each.output),
                )
                for size, each in sorted(figures.executions.items())
            ],
        )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _own_version() -> str:
    try:
        return version("netweight")
    except PackageNotFoundError:
        return "unknown"

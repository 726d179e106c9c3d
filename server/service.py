"""GRPCInferenceService: one short method for each call; ModelInfer, which waits for a batch, is a call object."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from server import wire
from server.errors import InvalidArgumentError, NotFoundError, ServerError
from server.pb import inference_pb2 as pb

if TYPE_CHECKING:
    from server.metrics import Metrics
    from server.model import Model, Tensors, Waiting
    from server.repository import Repository
    from server.statistics import Statistics
    from server.tensors import TensorSpec

log = logging.getLogger(__name__)
EXTENSIONS = ("classification", "model_configuration", "schedule_policy", "statistics")
"""What this server does beyond the Open Inference Protocol."""
INTERNAL = "internal error; the server's log has its cause"

Respond: TypeAlias = Callable[[grpc.StatusCode, str, Any], None]
"""Takes the status, its details, and what an `Encode` made (None unless the status is OK)."""
Encode: TypeAlias = "Callable[[Model, Tensors], Any]"
"""Makes the answer that `Respond` sends."""


class InferenceService:
    """Answers the calls. Methods are named as in the protocol; failures are `ServerError`."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self.repository = repository
        self.metrics = metrics
        self.draining = False
        self._unflushed: set[Model] = set()

    def ready(self) -> bool:
        """Whether every model that should be loaded is READY and the server is not draining."""
        return not self.draining and self.repository.ready()

    def infer(
        self, message: pb.ModelInferRequest, respond: Respond, contents: wire.Contents | None = None
    ) -> InferCall:
        """Begin a ModelInfer.

        Args:
            message: the request.
            respond: called once, at once or from another thread, unless the call is cancelled before it runs.
            contents: the raw contents of the request, if they are not in it.
        """
        call = InferCall(
            self, message.model_name, message.model_version, time.perf_counter(), _encoder(message.id), respond
        )
        call.begin(lambda: wire.decode(message, contents))
        return call

    def infer_decoded(self, request: wire.InferRequest, arrived: float, encode: Encode, respond: Respond) -> InferCall:
        """Begin a ModelInfer that was decoded elsewhere.

        Args:
            request: the request.
            arrived: when it came, in `time.perf_counter` seconds.
            encode: makes the answer of the model and its outputs.
            respond: as of `infer`; its third argument is what ``encode`` returned.
        """
        call = InferCall(self, request.model, request.version, arrived, encode, respond)
        call.begin(lambda: request)
        return call

    @property
    def unflushed(self) -> bool:
        """Whether requests wait for `flush`."""
        return bool(self._unflushed)

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


class InferCall:
    """One ModelInfer from its request to its answer; counted and timed once, whatever comes of it."""

    __slots__ = (
        "_answer",
        "_code_gone",
        "_encode",
        "_entry",
        "_name",
        "_respond",
        "_service",
        "_version",
        "arrived",
        "model",
    )

    def __init__(
        self, service: InferenceService, name: str, version: str, arrived: float, encode: Encode, respond: Respond
    ) -> None:
        self.arrived = arrived
        self.model: Model | None = None
        self._service = service
        self._name, self._version = name, version
        self._encode = encode
        self._respond = respond
        self._entry: Waiting | None = None
        self._code_gone: grpc.StatusCode | None = None
        self._answer: tuple[grpc.StatusCode, str, Any] = (grpc.StatusCode.UNKNOWN, "", None)

    def begin(self, read: Callable[[], wire.InferRequest]) -> None:
        """Read the request and queue it, or answer with what is wrong with it."""
        service = self._service
        try:
            self.model = model = service.repository.get(self._name, self._version)
            self._entry = model.submit(read(), self)
            if model.inline:
                service._unflushed.add(model)  # noqa: SLF001  the call is the service's own
        except Exception as error:  # noqa: BLE001  every failure is an answer
            self.fail(error)

    @property
    def waits(self) -> bool:
        """Whether the answer takes so long that it is worth watching for a caller who goes away."""
        return self._entry is not None and self.model is not None and not self.model.inline

    def cancel(self, code: grpc.StatusCode) -> bool:
        """The caller went away, by itself (CANCELLED) or because its deadline passed: do not run it, if it still waits.

        Returns:
            Whether it was still waiting: `respond` is then never called. What runs already is counted as gone.
        """
        self._code_gone = code
        entry = self._entry
        if self.model is None or entry is None or not self.model.withdraw(entry):
            return False
        self._entry = None  # it knows this call: neither may keep the other alive
        self.model.statistics.failed(code.name, time.perf_counter() - self.arrived)
        return True

    def fail(self, error: Exception) -> None:
        """Answer a call that was not queued."""
        code = self.prepare(error)
        self._refusals().failed(code, time.perf_counter() - self.arrived)
        self.answer()

    def prepare(self, outcome: Tensors | BaseException) -> str:
        """Make the answer of the outputs or the failure; return the name of its status code."""
        if isinstance(outcome, dict):
            try:
                assert self.model is not None
                self._answer = (grpc.StatusCode.OK, "", self._encode(self.model, outcome))
            except Exception as error:  # noqa: BLE001  the others of the batch must be answered
                outcome = error
        if isinstance(outcome, ServerError):
            self._answer = (outcome.code, str(outcome), None)
        elif isinstance(outcome, BaseException):
            log.error("ModelInfer failed", exc_info=outcome)
            self._answer = (grpc.StatusCode.INTERNAL, INTERNAL, None)
        return (self._code_gone or self._answer[0]).name

    def answer(self) -> None:
        """Send what `prepare` made."""
        self._respond(*self._answer)

    def _refusals(self) -> Statistics:
        """Return where a call is counted that was not queued; a caller's free text never becomes a label."""
        if self.model is not None:
            return self.model.statistics
        try:
            status = self._service.repository.status(self._name, self._version)
        except ServerError:
            return self._service.metrics.of("", "")
        return self._service.metrics.of(status.name, status.version)


def _encoder(request_id: str) -> Encode:
    return lambda model, outputs: wire.encode(model.name, model.version, request_id, outputs)


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

"""One ModelInfer, whichever way it came: from its request to its answer, counted and timed once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc

from server import wire
from server.errors import ClosedError, ServerError
from server.trace_context import NO_CONTEXT, TraceContext

if TYPE_CHECKING:
    from server.metrics import Metrics
    from server.model import Model, Tensors, Waiting
    from server.pb import inference_pb2 as pb
    from server.repository import Repository
    from server.statistics import Statistics
    from server.tracing import Trace, Tracing

log = logging.getLogger(__name__)
INTERNAL = "internal error; the server's log has its cause"

Respond: TypeAlias = Callable[[grpc.StatusCode, str, Any], None]
"""Takes the status, its details, and what an `Encode` made (None unless the status is OK)."""
Encode: TypeAlias = "Callable[[Model, Tensors], Any]"
"""Makes the answer that `Respond` sends."""


class Service(Protocol):
    """What a call needs of the service."""

    repository: Repository
    metrics: Metrics
    tracing: Tracing | None

    def run_inline(self, model: Model) -> None:
        """Have the next `flush` run what this model has queued."""


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
        "_trace",
        "_version",
        "arrived",
        "model",
    )

    def __init__(
        self, service: Service, name: str, version: str, arrived: float, encode: Encode, respond: Respond
    ) -> None:
        self.arrived = arrived
        self.model: Model | None = None
        self._service = service
        self._name, self._version = name, version
        self._encode = encode
        self._respond = respond
        self._entry: Waiting | None = None
        self._trace: Trace | None = None
        self._code_gone: grpc.StatusCode | None = None
        self._answer: tuple[grpc.StatusCode, str, Any] = (grpc.StatusCode.UNKNOWN, "", None)

    def begin(
        self, read: Callable[[], wire.InferRequest], request_id: str = "", context: TraceContext = NO_CONTEXT
    ) -> None:
        """Read the request and queue it, or answer with what is wrong with it."""
        service = self._service
        if service.tracing is not None:
            self._trace = service.tracing.begin(self._name, request_id, context)
        try:
            model = self._queue(read)
            if model.inline:
                service.run_inline(model)
        except Exception as error:  # noqa: BLE001  every failure is an answer
            self.fail(error)

    def _queue(self, read: Callable[[], wire.InferRequest]) -> Model:
        """Queue the request at the version that serves now, and return that."""
        repository = self._service.repository
        self.model = model = repository.get(self._name, self._version)
        request = read()
        while True:
            try:
                self._entry = model.submit(request, self)
            except ClosedError:  # it was swapped out after it had been looked up
                if (other := repository.get(self._name, self._version)) is model:
                    raise
                self.model = model = other
            else:
                return model

    @property
    def waits(self) -> bool:
        """Whether the answer takes so long that it is worth watching for a caller who goes away."""
        return self._entry is not None and self.model is not None and self.model.waits(self._entry)

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
        if self._trace is not None:
            self._trace.end(code, "the caller went away", self.model.version, self.arrived, entry)
        return True

    def fail(self, error: Exception) -> None:
        """Answer a call that was not queued."""
        code = self.prepare(error)
        self._refusals().failed(code, time.perf_counter() - self.arrived)
        self.answer(None)

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

    def answer(self, entry: Waiting | None) -> None:
        """Send what `prepare` made.

        Args:
            entry: the request as it went through the queue; None: it was not queued.
        """
        self._respond(*self._answer)
        if self._trace is not None:
            code, details, _ = self._answer
            version = self._version if self.model is None else self.model.version
            self._trace.end(self._code_gone or code, details, version, self.arrived, entry)

    def _refusals(self) -> Statistics:
        """Return where a call is counted that was not queued; a caller's free text never becomes a label."""
        if self.model is not None:
            return self.model.statistics
        try:
            status = self._service.repository.status(self._name, self._version)
        except ServerError:
            return self._service.metrics.of("", "")
        return self._service.metrics.of(status.name, status.version)


class Reply:
    """Makes the message that answers a request."""

    __slots__ = ("_asked", "_id")

    def __init__(self, request_id: str) -> None:
        self._id = request_id
        self._asked: tuple[wire.RequestedOutput, ...] = ()

    def to(self, request: wire.InferRequest) -> wire.InferRequest:
        """Note what a request asks for, and return it."""
        self._asked = request.outputs
        return request

    def encode(self, model: Model, outputs: Tensors) -> pb.ModelInferResponse:
        """Return the answer."""
        return wire.encode(model.name, model.version, self._id, outputs, self._asked)

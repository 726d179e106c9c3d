"""One loaded version of a model: checks requests, lets them wait, runs them in batches."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from server import model_config
from server.batch_size import LearnedBatchSize
from server.batcher import Batch, Batcher, Entry
from server.decoders import Decoding
from server.errors import ExecutionError, InvalidArgumentError, ServerError, UnavailableError
from server.providers import CPU
from server.reshape import Reshape, reshapes
from server.statistics import Stamps
from server.tensors import DATATYPES, Array, TensorSpec, show
from server.wire import InferRequest, RequestedOutput, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from server.batcher import Scheduling
    from server.decoders import ImageFiles
    from server.pb import model_config_pb2 as pb
    from server.session import Session
    from server.statistics import Statistics
    from server.timeouts import Timeouts

Tensors: TypeAlias = "dict[str, Array]"
Waiting: TypeAlias = "Entry[Tensors, Tensors]"
Given: TypeAlias = "tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]"
"""The name, type and shape of each input."""
Fitting: TypeAlias = "tuple[int, Hashable, tuple[str, ...]]"
"""The batch size, the key of what can be stacked with it, and the names of the inputs that are files."""
MOST_FITTING = 1024
"""Shapes that are remembered to fit; all are forgotten when there are more."""
UNORDERED = ("BYTES", "BF16")
"""Datatypes of which nobody here can tell the highest."""


class Caller(Protocol):
    """Who waits for a request's answer. Both methods are called once each, in this order, and must not raise."""

    arrived: float
    """When the request came, in `time.perf_counter` seconds."""

    def prepare(self, outcome: Tensors | BaseException) -> str:
        """Make the answer of the outputs, in the order asked for, or of a failure; return its status code's name."""

    def answer(self, entry: Waiting, /) -> None:
        """Send it; the entry has the times of the request's way."""


class Model:
    """A version that serves: its session, its queue, its figures."""

    def __init__(
        self,
        version: int,
        config: pb.ModelConfig,
        session: Session,
        labels: Mapping[str, tuple[str, ...]],
        scheduling: Scheduling,
        statistics: Statistics,
        timeouts: Timeouts,
        *,
        files: ImageFiles,
    ) -> None:
        """Put a version together.

        Args:
            version: its number.
            config: filled in.
            session: its graph.
            labels: by output.
            scheduling: how its batches are made.
            statistics: where its requests are counted.
            timeouts: calls back when a request waited too long.
            files: whether images may come as files.
        """
        self.name = config.name
        self.version = str(version)
        self.config = config
        self.session = session
        self.statistics = statistics
        self.batches = config.max_batch_size > 0
        self.inputs = model_config.specs(config.input, self.batches)
        self.outputs = model_config.specs(config.output, self.batches)
        self.inline = scheduling.instances == 0
        """Its batches run in the thread that calls `flush`."""
        self._labels = labels
        self._scheduling = scheduling
        self._timeouts = timeouts
        self._decoders = files.decoders
        self._images = files.how
        learns = session.provider == CPU and not self.inline and not scheduling.waits_for_more
        self._batcher: Batcher[Tensors, Tensors] = Batcher(
            self._run,
            _join,
            self._deliver,
            scheduling,
            learned=LearnedBatchSize(scheduling.max_batch_size) if learns else None,
            name=f"{self.name}-{self.version}",
        )
        self._fitting: dict[Given, Fitting] = {}
        self._optional = {each.name for each in config.input if each.optional}
        self._to_graph = reshapes(config.input, batches=self.batches)
        self._to_caller = reshapes(config.output, batches=self.batches)
        self._takes_text = any(spec.datatype == "BYTES" for spec in self.inputs)
        self._all_outputs = tuple(RequestedOutput(spec.name) for spec in self.outputs)
        self._where = f"model {self.name} version {self.version}"

    def start(self) -> None:
        """Start to serve."""
        self._batcher.start()

    def close(self) -> None:
        """Finish what waits, then stop. Blocks until then."""
        self._decoders.finish(self)
        self._batcher.close()

    def release(self) -> None:
        """Let go of the graph, once `close` has returned: whoever still knows the model keeps no weights in memory."""
        with self.session.gate():
            del self.session

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return self._batcher.pending + self._decoders.unfinished(self)

    def submit(self, request: InferRequest, caller: Caller) -> Waiting:
        """Queue one request; the caller is answered once, from the thread that ran it, refused it, or that of the timeouts.

        Files are decoded first, by other threads. A caller who no longer waits hands the entry to `withdraw`.

        Raises:
            InvalidArgumentError: the request does not fit the model.
            UnavailableError: the queue is full.
        """
        inputs = request.inputs
        given = tuple([(name, array.dtype, array.shape) for name, array in inputs.items()])
        size, key, files = self._fitting.get(given) or self._check(given)
        wanted = self._wanted(request.outputs)
        if self._takes_text:
            inputs = {name: each if name in files else self._as_text(name, each) for name, each in inputs.items()}
        scheduling = self._scheduling
        level = scheduling.level(request.priority)
        policy = scheduling.policies.get(level, scheduling.policy)
        seconds = policy.timeout(request.timeout_seconds)
        entry: Waiting = Entry(inputs, size, key, (wanted, caller), level)
        if seconds and policy.timeout_delays:
            entry.late_at = entry.queued + seconds
        if files:
            self._decode(entry, files)
        else:
            self._batcher.submit(entry)
        if seconds and not policy.timeout_delays:
            self._timeouts.after(seconds, lambda: self._expire(entry, seconds))
        return entry

    def rehearse(self, inputs: Tensors) -> None:
        """Run one request in this thread, beside the queue and not counted, on every session that the model has.

        Raises:
            InvalidArgumentError: it does not fit the model.
            ExecutionError: ONNX Runtime failed.
        """
        size, _, files = self._check(tuple([(name, array.dtype, array.shape) for name, array in inputs.items()]))
        if files:
            raise InvalidArgumentError(f"{self._where}: got input {files[0]!r} as BYTES; expected its pixels")
        if self._takes_text:
            inputs = {name: self._as_text(name, array) for name, array in inputs.items()}
        for alone in (False, True) if self.session.wide else (False,):
            self._execute([inputs], size, alone=alone)

    def flush(self) -> None:
        """Run what waits, in this thread, if the model is `inline`."""
        self._batcher.flush()

    def waits(self, entry: Waiting) -> bool:
        """Whether an answer takes so long that it is worth watching for a caller who goes away."""
        return not self.inline or entry.before is not None

    def withdraw(self, entry: Waiting) -> bool:
        """Forget a request unless its batch has begun; return whether it is forgotten, and its caller not called."""
        before: Decoding | None = entry.before
        withdrawn = before is not None and self._decoders.withdraw(before)
        if before is None or before.queued:
            withdrawn = self._batcher.withdraw(entry)
        if withdrawn:
            entry.item = {}  # a timeout may know the entry for long
        return withdrawn

    def _decode(self, entry: Waiting, files: tuple[str, ...]) -> None:
        """Have files decoded, then queue the request: until then its time counts as input."""
        assert not isinstance(self._images, str)

        def queue(inputs: Tensors) -> None:
            entry.item = inputs
            entry.queued = time.perf_counter()
            self._batcher.submit(entry)

        def refuse(error: Exception) -> None:
            self._refuse(entry, error)

        entry.before = decoding = Decoding(self, self._where, entry.item, files, self._images, queue, refuse)
        entry.item = {}
        self._decoders.submit(decoding)

    def _check(self, given: Given) -> Fitting:
        """Hold the inputs against the model.

        What fits is remembered: requests are much alike.
        """
        by_name = {name: (DATATYPES[dtype], shape) for name, dtype, shape in given}
        present = [spec for spec in self.inputs if spec.name in by_name or spec.name not in self._optional]
        if by_name.keys() != {spec.name for spec in present}:
            expected = ", ".join(f"{spec}{' (optional)' * (spec.name in self._optional)}" for spec in self.inputs)
            raise InvalidArgumentError(f"{self._where}: got inputs {sorted(by_name)}; expected exactly {expected}")
        sent = [spec for spec in present if spec.datatype == "UINT8" and by_name[spec.name][0] == "BYTES"]
        told = by_name
        by_name = told | {spec.name: ("UINT8", self._as_pixels(spec, told[spec.name][1])) for spec in sent}
        files = tuple(spec.name for spec in sent)
        for spec in present:
            datatype, shape = by_name[spec.name]
            if datatype != spec.datatype or not spec.accepts(shape):
                got = f"{told[spec.name][0]} {show(told[spec.name][1])}"
                raise InvalidArgumentError(f"{self._where}: got input {spec.name!r} as {got}; expected {spec}")
        size: int = 1
        key: Hashable = None
        if self.batches:
            sizes = sorted({shape[0] for _, shape in by_name.values()})
            if len(sizes) > 1:
                raise InvalidArgumentError(f"{self._where}: inputs of batch sizes {sizes}; they must agree")
            if not 1 <= sizes[0] <= self.config.max_batch_size:
                raise InvalidArgumentError(
                    f"{self._where}: got batch size {sizes[0]}; "
                    f"expected 1 to max_batch_size {self.config.max_batch_size}"
                )
            size, key = sizes[0], tuple(by_name[spec.name][1][1:] for spec in self.inputs)
        if len(self._fitting) >= MOST_FITTING:
            self._fitting.clear()
        self._fitting[given] = size, key, files
        return size, key, files

    def _as_pixels(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an input of files has once they are decoded."""
        got = f"{self._where}: got input {spec.name!r} as BYTES {show(shape)}; expected {spec}"
        if isinstance(self._images, str):
            raise InvalidArgumentError(f"{got}; JPEG and PNG files are not taken: {self._images}")
        pixels = self._images.shape
        if not replace(spec, shape=spec.shape[1:]).accepts(pixels):
            raise InvalidArgumentError(
                f"{got}; JPEG and PNG files are not taken: card.json is of images {show(pixels)}"
            )
        if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
            raise InvalidArgumentError(f"{got}, or JPEG and PNG files: BYTES [-1] or [-1,1]")
        return shape[0], *pixels

    def _as_text(self, name: str, array: Array) -> Array:
        """Return BYTES as ONNX Runtime takes strings: str, each of them UTF-8. Other arrays pass."""
        if array.dtype != np.object_:
            return array
        try:
            return np.array([item.decode() for item in array.ravel()], np.object_).reshape(array.shape)
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"{self._where}: input {name!r}: expected UTF-8 text: {error}") from error

    def _wanted(self, asked: tuple[RequestedOutput, ...]) -> tuple[RequestedOutput, ...]:
        if not asked:
            return self._all_outputs
        names = [spec.name for spec in self.outputs]
        for each in asked:
            if each.name not in names:
                raise InvalidArgumentError(f"{self._where}: got output {each.name!r}; expected one of {names}")
            if each.classification and self._datatype(each.name) in UNORDERED:
                raise InvalidArgumentError(
                    f"{self._where}: output {each.name!r} is {self._datatype(each.name)}; expected numbers to classify"
                )
        return asked

    def _datatype(self, output: str) -> str:
        return next(spec.datatype for spec in self.outputs if spec.name == output)

    def _render(self, output: Array, wanted: RequestedOutput) -> Array:
        if not wanted.classification:
            return output
        return classify(output, wanted.classification, self._labels.get(wanted.name, ()))

    def _run(self, batch: Batch[Tensors, Tensors]) -> list[Tensors]:
        """Run one batch."""
        items = [
            part.entry.item if part.whole else {name: a[part.start : part.stop] for name, a in part.entry.item.items()}
            for part in batch.parts
        ]
        batch.assembled = batch.started

        def assembled() -> None:
            batch.assembled = time.perf_counter()

        try:
            outputs = self._execute(items, batch.size, alone=batch.alone, assembled=assembled)
        except ExecutionError as error:
            raise ExecutionError(f"{self._where}: {error}") from error
        batch.ran = time.perf_counter()
        if len(items) == 1:
            return [outputs]
        results, start = [], 0
        for part in batch.parts:
            stop = start + part.stop - part.start
            results.append({name: array[start:stop] for name, array in outputs.items()})
            start = stop
        return results

    def _execute(
        self, items: list[Tensors], size: int, *, alone: bool, assembled: Callable[[], None] = lambda: None
    ) -> Tensors:
        """Run requests as one batch, between the shapes that callers see and those that the graph has."""
        if self._to_graph:
            items = [_turned(each, self._to_graph, Reshape.to_graph) for each in items]
        outputs = self.session.run_batch(items, size, alone=alone, assembled=assembled)
        return _turned(outputs, self._to_caller, Reshape.to_caller) if self._to_caller else outputs

    def _deliver(self, finished: list[Waiting], batch: Batch[Tensors, Tensors]) -> None:
        """Make the answers, count, then send them: who has an answer finds it counted."""
        statistics = self.statistics
        answered = batch.ran
        for entry in finished:
            caller = entry.waiter[1]
            code = caller.prepare(self._outcome(entry))
            answered = time.perf_counter()
            if code == "OK":
                at = Stamps(caller.arrived, entry.queued, entry.started, entry.assembled, entry.ran, answered)
                statistics.answered(at)
            else:
                statistics.failed(code, answered - caller.arrived)
        if batch.ran:
            statistics.executed(batch.size, batch.started, batch.assembled, batch.ran, answered)
        for entry in finished:
            entry.waiter[1].answer(entry)

    def _outcome(self, entry: Waiting) -> Tensors | BaseException:
        """Return the outputs that were asked for, or the failure."""
        if entry.result is None:
            return entry.error or ServerError("no result")
        try:
            return {each.name: self._render(entry.result[each.name], each) for each in entry.waiter[0]}
        except Exception as error:  # noqa: BLE001  the other requests of the batch must be answered
            return error

    def _expire(self, entry: Waiting, seconds: float) -> None:
        """Answer a request that waited too long; one whose batch has begun runs to its end."""
        if self.withdraw(entry):
            self._refuse(entry, UnavailableError(f"{self._where}: waited {seconds:g} s in the queue: try again later"))

    def _refuse(self, entry: Waiting, error: Exception) -> None:
        """Answer a request that will not run."""
        caller = entry.waiter[1]
        entry.waiter = None  # a timeout may know the entry for long
        code = caller.prepare(error)
        self.statistics.failed(code, time.perf_counter() - caller.arrived)
        caller.answer(entry)


def _join(results: list[Tensors]) -> Tensors:
    """Put the parts of a split request together again."""
    return {name: np.concatenate([each[name] for each in results]) for name in results[0]}


def _turned(tensors: Tensors, reshape: dict[str, Reshape], turn: Callable[[Reshape, Array], Array]) -> Tensors:
    """Return the tensors, those that have a reshape turned by it."""
    return {name: turn(reshape[name], array) if name in reshape else array for name, array in tensors.items()}

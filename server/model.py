"""One loaded version of a model: checks requests, lets them wait, runs them in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from server import model_config
from server.batcher import Batcher, Entry
from server.errors import InvalidArgumentError, UnavailableError
from server.tensors import DATATYPES, Array, TensorSpec, show
from server.wire import InferRequest, RequestedOutput, classify

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from server.metrics import Metrics
    from server.pb import model_config_pb2 as pb
    from server.session import Session
    from server.timeouts import Timeouts

Tensors: TypeAlias = "dict[str, Array]"
Waiting: TypeAlias = "Entry[Tensors, Tensors]"
Done: TypeAlias = "Callable[[Tensors | BaseException | None], None]"


@dataclass(frozen=True)
class Limits:
    """What a model's queue bears, where its configuration says nothing."""

    max_queue_size: int
    queue_timeout_seconds: float


class Model:
    """A version that serves: its session, its queue, its figures."""

    def __init__(
        self,
        version: int,
        config: pb.ModelConfig,
        session: Session,
        labels: Mapping[str, tuple[str, ...]],
        limits: Limits,
        metrics: Metrics,
        timeouts: Timeouts,
    ) -> None:
        self.name = config.name
        self.version = str(version)
        self.config = config
        self.session = session
        self.batches = config.max_batch_size > 0
        self.inputs = model_config.specs(config.input, self.batches)
        self.outputs = model_config.specs(config.output, self.batches)
        self._labels = labels
        self._timeouts = timeouts
        policy = config.dynamic_batching.default_queue_policy
        self._timeout_seconds = policy.default_timeout_microseconds / 1e6 or limits.queue_timeout_seconds
        self._batcher: Batcher[Tensors, Tensors] = Batcher(
            self._run,
            self._deliver,
            max_batch_size=max(1, config.max_batch_size),
            max_queue_size=policy.max_queue_size or limits.max_queue_size,
            instances=sum(group.count or 1 for group in config.instance_group),
            name=f"{self.name}-{self.version}",
        )
        self.metrics = metrics.of(self.name, self.version, lambda: self._batcher.pending)
        self._by_name = {spec.name: spec for spec in self.inputs}
        self._where = f"model {self.name} version {self.version}"

    def start(self) -> None:
        """Start to serve."""
        self._batcher.start()

    def close(self) -> None:
        """Finish what waits, then stop. Blocks until then."""
        self._batcher.close()

    def submit(self, request: InferRequest, done: Done) -> Waiting:
        """Queue one request; ``done`` is called once, with its outputs in the order asked for or with its failure.

        That call comes from an instance's thread, or from the thread of the timeouts. A caller who no longer
        waits hands the entry to `withdraw`.

        Raises:
            InvalidArgumentError: the request does not fit the model.
            UnavailableError: the queue is full.
        """
        size, key = self._check(request.inputs)
        wanted = self._wanted(request.outputs)
        inputs = {name: self._as_text(name, array) for name, array in request.inputs.items()}
        entry: Waiting = Entry(inputs, size, key, (wanted, done))
        self._batcher.submit(entry)
        if seconds := request.timeout_seconds or self._timeout_seconds:
            self._timeouts.after(seconds, lambda: self._expire(entry, seconds))
        return entry

    def withdraw(self, entry: Waiting) -> bool:
        """Forget a request unless its batch has begun; return whether it is forgotten, and ``done`` never called."""
        return self._batcher.withdraw(entry)

    def _check(self, inputs: Tensors) -> tuple[int, Hashable]:
        """Hold the inputs against the model; return the batch size and the key of what can be stacked with it."""
        if inputs.keys() != self._by_name.keys():
            expected = ", ".join(str(spec) for spec in self.inputs)
            raise InvalidArgumentError(f"{self._where}: got inputs {sorted(inputs)}; expected exactly {expected}")
        for name, array in inputs.items():
            spec = self._by_name[name]
            if DATATYPES[array.dtype] != spec.datatype or not spec.accepts(array.shape):
                got = f"{DATATYPES[array.dtype]} {show(array.shape)}"
                raise InvalidArgumentError(f"{self._where}: got input {name!r} as {got}; expected {spec}")
        if not self.batches:
            return 1, None
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) > 1:
            raise InvalidArgumentError(f"{self._where}: inputs of batch sizes {sorted(sizes)}; they must agree")
        size = sizes.pop()
        if not 1 <= size <= self.config.max_batch_size:
            raise InvalidArgumentError(
                f"{self._where}: got batch size {size}; expected 1 to max_batch_size {self.config.max_batch_size}"
            )
        return size, tuple(array.shape[1:] for array in inputs.values())

    def _as_text(self, name: str, array: Array) -> Array:
        """Return BYTES as ONNX Runtime takes strings: str, each of them UTF-8. Other arrays pass."""
        if array.dtype != np.object_:
            return array
        try:
            return np.array([item.decode() for item in array.ravel()], np.object_).reshape(array.shape)
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"{self._where}: input {name!r}: expected UTF-8 text: {error}") from error

    def _wanted(self, asked: tuple[RequestedOutput, ...]) -> tuple[RequestedOutput, ...]:
        names = [spec.name for spec in self.outputs]
        for each in asked:
            if each.name not in names:
                raise InvalidArgumentError(f"{self._where}: got output {each.name!r}; expected one of {names}")
        return asked or tuple(RequestedOutput(name) for name in names)

    def _render(self, output: Array, wanted: RequestedOutput) -> Array:
        if not wanted.classification:
            return output
        return classify(output, wanted.classification, self._labels.get(wanted.name, ()))

    def _run(self, items: list[Tensors]) -> list[Tensors]:
        """Run one batch, in an instance's thread."""
        if not self.batches:
            return [self.session.run(item) for item in items]
        sizes = [len(next(iter(item.values()))) for item in items]
        feeds = items[0] if len(items) == 1 else _stack(items, self.inputs)
        outputs = self.session.run_padded(feeds, sum(sizes))
        ends = np.cumsum(sizes).tolist()
        return [
            {name: array[end - size : end] for name, array in outputs.items()}
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _deliver(self, batch: list[Waiting]) -> None:
        """Count a finished batch and answer each of its requests, in the instance's thread."""
        first = batch[0]
        waits = [entry.started - entry.queued for entry in batch]
        self.metrics.execution(sum(entry.size for entry in batch), first.finished - first.started, waits)
        for entry in batch:
            wanted, done = entry.waiter
            if entry.result is None:
                done(entry.error)
            else:
                done({each.name: self._render(entry.result[each.name], each) for each in wanted})

    def _expire(self, entry: Waiting, seconds: float) -> None:
        """Answer a request that waited too long; one whose batch has begun runs to its end."""
        if self._batcher.withdraw(entry):
            entry.waiter[1](UnavailableError(f"{self._where}: waited {seconds:g} s in the queue: try again later"))


def _stack(items: list[Tensors], inputs: tuple[TensorSpec, ...]) -> Tensors:
    return {spec.name: np.concatenate([item[spec.name] for item in items]) for spec in inputs}

"""ONNX Runtime: one session over one model file, on the provider that was asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from server import bfloat16, providers
from server.cuda import GATE, Bound, CudaDevice, bindable, warm_up_order
from server.errors import ExecutionError, ModelLoadError
from server.provider_options import Tuning
from server.providers import CPU, CUDA, TENSORRT, SessionOptions
from server.tensors import NUMPY, ONNX, Array, TensorSpec

log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What is used of `onnxruntime.InferenceSession` once it is open."""

    def run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        """Return the named outputs, in that order."""


def _nothing() -> None:
    """Do nothing: nobody asked to be told."""


@dataclass(frozen=True)
class Session:
    """A graph that is ready to run. Sessions are thread-safe: instances of a model share one."""

    runtime: Runtime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str
    fell_back: bool
    """A GPU's provider was wanted and the next one runs it."""
    buckets: tuple[int, ...] = field(default=())
    """Batch sizes that are run; others are padded up. Empty: every batch runs at its own size."""
    maps_weights: bool = False
    """The weights lie beside the graph and are mapped from there."""
    wide: Runtime | None = None
    """The same graph with more threads, for a batch that has the machine to itself; None: there is no other."""
    bound: Bound | None = None
    """Page-locked buffers on a GPU, one of a bucket's size for each batch; None: arrays are handed over as they are."""
    captures: bool = False
    """The runtime was opened to capture CUDA graphs: it runs bound batches only."""
    overridable: tuple[TensorSpec, ...] = ()
    """Weights that a request may replace, if the model's configuration lists them as inputs."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: one array for each input, batch first where the model batches.

        Returns:
            One array for each output.

        Raises:
            ExecutionError: ONNX Runtime failed; the cause is logged.
        """
        if self.bound is not None:
            return self.run_batch([feeds], len(next(iter(feeds.values()))))
        return self._run(self.runtime, feeds)

    def run_batch(
        self, items: list[dict[str, Array]], size: int, *, alone: bool = False, assembled: Callable[[], None] = _nothing
    ) -> dict[str, Array]:
        """Run requests as one batch.

        Args:
            items: each request's inputs, which can be stacked; a model that does not batch gets one.
            size: their samples altogether.
            alone: nothing else of this model runs or waits now.
            assembled: called when the samples stand beside each other, before the graph runs.

        Returns:
            One array for each output, of exactly ``size`` samples, the requests' one after the other.

        Raises:
            ExecutionError: ONNX Runtime failed; the cause is logged.
        """
        if self.bound is not None:
            return self._run_bound(self.bound, items, size, assembled)
        feeds = items[0] if len(items) == 1 else _stack(items)
        assembled()
        runtime = self.wide if alone and self.wide is not None else self.runtime
        bucket = bucket_of(self.buckets, size)
        if bucket == size:
            return self._run(runtime, feeds)
        outputs = self._run(runtime, {name: _pad(array, bucket) for name, array in feeds.items()})
        return {name: array[:size] for name, array in outputs.items()}

    def _run(self, runtime: Runtime, feeds: dict[str, Array]) -> dict[str, Array]:
        names = [output.name for output in self.outputs]
        try:
            with self.gate():
                return dict(zip(names, runtime.run(names, feeds), strict=True))
        except Exception as error:
            log.exception("execution failed")
            raise ExecutionError(f"execution failed: {_first_line(error)}") from error

    def _run_bound(
        self, bound: Bound, items: list[dict[str, Array]], size: int, assembled: Callable[[], None]
    ) -> dict[str, Array]:
        try:
            return bound.run(items, size, assembled)
        except Exception as error:
            log.exception("execution failed")
            raise ExecutionError(f"execution failed: {_first_line(error)}") from error

    def gate(self) -> contextlib.AbstractContextManager[None]:
        """Return what to enter for whatever uses the GPU: then nobody captures a CUDA graph meanwhile."""
        return contextlib.nullcontext() if self.provider == CPU else GATE.shared()

    def with_buckets(self, buckets: tuple[int, ...]) -> Session:
        """Return this session with these buckets."""
        return replace(self, buckets=buckets)


def open_session(path: Path, options: SessionOptions) -> Session:
    """Open ``path`` on the provider that the options name.

    What fails on a GPU is tried again with less where the options allow it: without CUDA graphs, then on the CPU.

    Raises:
        ModelLoadError: the file is broken, has a tensor of a type that the protocol lacks, or the provider is not there.
    """
    want = providers.wanted(options)
    absence = providers.absence(want)
    first, failures = _present(want, absence), []
    for provider, captures in _attempts(options, first):
        try:
            runtime = _create(path, options, provider, captures=captures)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no common base
            failures.append(_first_line(error))
            continue
        break
    else:
        raise ModelLoadError(f"{path.name} cannot be opened by ONNX Runtime: {failures[-1]}")
    got = runtime.get_providers()[0]
    if got == CUDA and options.captures and not captures:
        log.warning("CUDA graphs are not used for %s: %s", path, failures[-1])
    why = absence or (failures[-1] if failures and got != first else "")
    try:
        inputs = tuple(_spec(path, node) for node in runtime.get_inputs())
        outputs = tuple(_spec(path, node) for node in runtime.get_outputs())
        overridable = [_spec(path, node) for node in runtime.get_overridable_initializers() if node.type in ONNX]
    except UnicodeDecodeError as error:
        raise ModelLoadError(
            f"{path.name}: the name of a tensor or of an extent is no UTF-8: {error.object!r}"
        ) from error
    return Session(
        runtime=bfloat16.carry(runtime),
        inputs=inputs,
        outputs=outputs,
        provider=got,
        fell_back=providers.check_provider(options.provider, want, got, why),
        captures=captures and got == CUDA,
        maps_weights=maps_weights(path),
        overridable=tuple(overridable),
    )


def make_ready(path: Path, options: SessionOptions, session: Session, max_batch_size: int, instances: int) -> Session:
    """Return a session that has run every size that will be run first; on a GPU, through bound buffers where it can.

    Args:
        path: the model's file, opened anew where a CUDA graph cannot be captured.
        options: that it was opened with.
        session: what `open_session` gave.
        max_batch_size: of the model; 0: it does not batch.
        instances: batches that may run side by side.

    Raises:
        ModelLoadError: the model cannot be run.
    """
    session = session.with_buckets(bucket_sizes(session.provider, max_batch_size))
    try:
        ready = _bind(session, options, instances)
        warm_up(ready, max_batch_size)
    except Exception as error:
        if not session.captures:
            raise ModelLoadError(f"{path.name} cannot be run: {_first_line(error)}") from error
        log.warning("CUDA graphs are not used for %s: %s", path, _first_line(error))
        plain = replace(options, tuning=replace(options.tuning, cuda_graphs=False))
        del session  # its stream, which may be left capturing, goes with it
        return make_ready(path, plain, open_session(path, plain), max_batch_size, instances)
    return ready


def warm_up(session: Session, max_batch_size: int) -> None:
    """Run zeros at every size that will be run first: each bucket, or a batch of one.

    Beside a wide session, which a first caller gets, one whose weights are mapped is not warmed: it would map, and count
    as resident, the same pages again.
    """
    if session.bound is not None:
        session.bound.warm_up()
        return
    if (
        session.wide is not None
        and run_zeros(replace(session, runtime=session.wide), 1, max_batch_size)
        and session.maps_weights
    ):
        return
    for size in warm_up_order(session.buckets) or (1,):
        run_zeros(session, size, max_batch_size)


def run_zeros(session: Session, size: int, max_batch_size: int) -> bool:
    """Run a batch of zeros; return whether that can be: inputs of unknown extents, and BYTES, have no obvious value."""
    feeds: dict[str, Array] = {}
    for spec in session.inputs:
        shape = ((size, *spec.shape[1:]) if max_batch_size else spec.shape) if spec.shape else ()
        if -1 in shape or spec.datatype == "BYTES":
            return False
        feeds[spec.name] = np.zeros(shape, NUMPY[spec.datatype])
    session.run(feeds)
    return True


def bucket_sizes(provider: str, max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes to run: on a GPU, where each new shape costs seconds, the powers of two and the largest."""
    if provider == CPU or max_batch_size < 1:
        return ()
    powers = [2**n for n in range(max_batch_size.bit_length()) if 2**n < max_batch_size]
    return (*powers, max_batch_size)


def _bind(session: Session, options: SessionOptions, instances: int) -> Session:
    """Return the session with buffers bound for each bucket; as it is where its tensors cannot be bound."""
    tensors = (*session.inputs, *session.outputs)
    if session.provider == CPU or not session.buckets or not bindable(session.runtime, tensors):
        if session.captures:
            raise ModelLoadError("the batch is no input's only open dimension, or an input is read on the CPU")
        return session
    given = dict(providers.arguments(options, session.provider, captures=False))[CUDA]
    bound = Bound(
        session.runtime,
        CudaDevice(int(given.get("device_id", "0"))),
        session.inputs,
        session.outputs,
        session.buckets,
        count=instances,
        captures=session.captures,
        pinned=(options.tuning.input_pinned, options.tuning.output_pinned),
    )
    return replace(session, bound=bound)


def _present(want: str, absence: str) -> str:
    """Return the provider to ask ONNX Runtime for: the wanted one, or the next that nothing is known to prevent."""
    if not absence:
        return want
    return CUDA if want == TENSORRT and not providers.cuda_absence() else CPU


def _attempts(options: SessionOptions, first: str) -> list[tuple[str, bool]]:
    """Return what to try in order: the provider, and whether CUDA graphs are captured."""
    order = (TENSORRT, CUDA, CPU)
    last = {"tensorrt": TENSORRT, "cuda": CUDA}.get(options.provider, CPU)
    attempts = []
    for provider in order[order.index(first) : max(order.index(first), order.index(last)) + 1]:
        if provider == CUDA and options.captures:
            attempts.append((provider, True))
        attempts.append((provider, False))
    return attempts


def _create(path: Path, options: SessionOptions, provider: str, *, captures: bool) -> Any:
    config = ort.SessionOptions()
    config.intra_op_num_threads = options.threads
    config.inter_op_num_threads = 1
    config.log_severity_level = 3
    config.add_session_config_entry("session.intra_op.allow_spinning", "0")
    config.enable_mem_pattern = provider != CPU  # there each batch size would keep memory of its own
    if maps_weights(path):
        # The weights lie beside the graph and are mapped: a prepacked copy would cost their size in memory and the
        # time to make it, and gains little (docs/behaviour.md has the figures).
        config.add_session_config_entry("session.disable_prepacking", "1")
    if provider != CPU:
        providers.preload_cuda()
        config.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    _tune(config, options.tuning)
    chosen = providers.arguments(options, provider, captures=captures)
    with contextlib.nullcontext() if provider == CPU else GATE.shared():
        # Its own fallback would print, and move a session to the CPU in the middle of serving.
        return ort.InferenceSession(str(path), config, chosen, enable_fallback=0)


def _tune(config: Any, tuning: Tuning) -> None:
    """Set what the model's configuration says of the session."""
    levels = ort.GraphOptimizationLevel
    config.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }.get(tuning.graph_level, levels.ORT_ENABLE_ALL)
    for name, value in tuning.session.items():
        if name in ("intra_op_thread_count", "inter_op_thread_count") and int(value):
            setattr(config, name.replace("thread_count", "num_threads"), int(value))
        elif name == "execution_mode":
            config.execution_mode = ort.ExecutionMode.ORT_PARALLEL if int(value) else ort.ExecutionMode.ORT_SEQUENTIAL
        elif name == "enable_mem_arena":
            config.enable_cpu_mem_arena = bool(int(value))
        elif name == "enable_mem_pattern":
            config.enable_mem_pattern = bool(int(value))
        elif name == "session.use_device_allocator_for_initializers":
            config.add_session_config_entry(name, value)


def maps_weights(path: Path) -> bool:
    """Whether the weights lie beside the graph: they are then mapped from the file."""
    return path.with_name(path.name + ".data").exists()


def _spec(path: Path, node: Any) -> TensorSpec:
    if node.type not in ONNX:
        raise ModelLoadError(f"{path.name}: tensor {node.name} is a {node.type}, which the protocol cannot carry")
    return TensorSpec(node.name, ONNX[node.type], tuple(d if isinstance(d, int) else -1 for d in node.shape))


def bucket_of(buckets: tuple[int, ...], size: int) -> int:
    """Return the smallest bucket (they are sorted) that holds ``size`` samples; ``size`` where there is none."""
    return next((each for each in buckets if each >= size), size)


def _stack(items: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def _pad(array: Array, size: int) -> Array:
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

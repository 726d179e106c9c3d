"""ONNX Runtime: one session over one model file, on the provider that was asked for."""

from __future__ import annotations

import ctypes
import functools
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from server.config import Provider
from server.errors import ExecutionError, ModelLoadError
from server.tensors import NUMPY, ONNX, Array, TensorSpec

log = logging.getLogger(__name__)
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class SessionOptions:
    """How a session is opened."""

    provider: Provider
    threads: int
    """ONNX Runtime's intra-op threads."""
    gpu_memory_limit_bytes: int = 0
    """Of the CUDA arena; 0: none."""


class Runtime(Protocol):
    """What is used of `onnxruntime.InferenceSession` once it is open."""

    def run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        """Return the named outputs, in that order."""


@dataclass(frozen=True)
class Session:
    """A graph that is ready to run. Sessions are thread-safe: instances of a model share one."""

    runtime: Runtime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str
    fell_back: bool
    """CUDA was wanted (auto) and the CPU runs it."""
    buckets: tuple[int, ...] = field(default=())
    """Batch sizes that are run; others are padded up. Empty: every batch runs at its own size."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: one array for each input, batch first where the model batches.

        Returns:
            One array for each output.

        Raises:
            ExecutionError: ONNX Runtime failed; the cause is logged.
        """
        names = [output.name for output in self.outputs]
        try:
            return dict(zip(names, self.runtime.run(names, feeds), strict=True))
        except Exception as error:
            log.exception("execution failed")
            raise ExecutionError(f"execution failed: {_first_line(error)}") from error

    def with_buckets(self, buckets: tuple[int, ...]) -> Session:
        """Return this session with these buckets."""
        return replace(self, buckets=buckets)

    def run_padded(self, feeds: dict[str, Array], size: int) -> dict[str, Array]:
        """Run one batch of ``size`` samples at the next bucket's size; padding (zeros) never reaches the answer."""
        bucket = next((each for each in self.buckets if each >= size), size)
        if bucket == size:
            return self.run(feeds)
        outputs = self.run({name: _pad(array, bucket) for name, array in feeds.items()})
        return {name: array[:size] for name, array in outputs.items()}


def open_session(path: Path, options: SessionOptions) -> Session:
    """Open ``path`` on the provider that the options name.

    Raises:
        ModelLoadError: the file is broken, has a tensor of a type that the protocol lacks, or the provider is not there.
    """
    wants_cuda = _wants_cuda(options.provider)
    try:
        runtime = _create(path, options, wants_cuda)
    except Exception as error:
        raise ModelLoadError(f"{path.name} cannot be opened by ONNX Runtime: {_first_line(error)}") from error
    provider = runtime.get_providers()[0]
    fell_back = check_provider(options.provider, provider, tried_cuda=wants_cuda, absence=cuda_absence())
    return Session(
        runtime=runtime,
        inputs=tuple(_spec(path, node) for node in runtime.get_inputs()),
        outputs=tuple(_spec(path, node) for node in runtime.get_outputs()),
        provider=provider,
        fell_back=fell_back,
    )


def check_provider(wanted: Provider, got: str, *, tried_cuda: bool, absence: str = "") -> bool:
    """Catch ONNX Runtime's silent fall back to the CPU.

    Args:
        wanted: the setting.
        got: the first provider of the session.
        tried_cuda: whether CUDA was wanted of this installation.
        absence: why CUDA is not there, as far as is known.

    Returns:
        Whether it fell back although the setting (auto) allows it.

    Raises:
        ModelLoadError: the setting insists on CUDA; the message names the cause.
    """
    if got == CUDA or not tried_cuda:
        return False
    why = absence or "the CUDA provider did not load; ONNX Runtime's lines above name the library that it misses"
    if wanted == "cuda":
        raise ModelLoadError(f"provider is cuda, but the model would run on {got}: {why}")
    log.warning("CUDA is not used, the model runs on %s: %s", got, why)
    return True


@functools.cache
def cuda_absence() -> str:
    """Say why CUDA cannot be there; empty where nothing that can be seen from here prevents it."""
    if CUDA not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider; install netweight[gpu] instead of netweight[cpu]"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1); start on a machine, or in a container, that has one"
    return ""


@functools.cache
def _preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that came as wheels, once, before the first session."""
    ort.preload_dlls()


def warm_up(session: Session, max_batch_size: int) -> None:
    """Run zeros at every size that will be run first: each bucket, or a batch of one.

    Inputs of unknown extents have no obvious size: such a model is not warmed.
    """
    for size in session.buckets or (1,):
        feeds: dict[str, Array] = {}
        for spec in session.inputs:
            shape = ((size, *spec.shape[1:]) if max_batch_size else spec.shape) if spec.shape else ()
            if -1 in shape or spec.datatype == "BYTES":
                return
            feeds[spec.name] = np.zeros(shape, NUMPY[spec.datatype])
        session.run(feeds)


def bucket_sizes(provider: str, max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes to run: on CUDA, where each new shape costs seconds, the powers of two and the largest."""
    if provider != CUDA or max_batch_size < 1:
        return ()
    powers = [2**n for n in range(max_batch_size.bit_length()) if 2**n < max_batch_size]
    return (*powers, max_batch_size)


def _wants_cuda(provider: Provider) -> bool:
    if provider == "auto":
        return CUDA in ort.get_available_providers()
    return provider == "cuda"


def _create(path: Path, options: SessionOptions, wants_cuda: bool) -> Any:
    config = ort.SessionOptions()
    config.intra_op_num_threads = options.threads
    config.inter_op_num_threads = 1
    config.log_severity_level = 3
    config.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if path.with_name(path.name + ".data").exists():
        # The weights lie beside the graph and are mapped: a prepacked copy would cost their size in memory and the
        # time to make it, and gains little (docs/behaviour.md has the figures).
        config.add_session_config_entry("session.disable_prepacking", "1")
    providers: list[Any] = [CPU]
    if wants_cuda and not cuda_absence():
        _preload_cuda()
        config.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        providers.insert(0, (CUDA, _cuda_options(options)))
    return ort.InferenceSession(str(path), config, providers)


def _cuda_options(options: SessionOptions) -> dict[str, str]:
    chosen = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    if options.gpu_memory_limit_bytes:
        chosen["gpu_mem_limit"] = str(options.gpu_memory_limit_bytes)
    return chosen


def _spec(path: Path, node: Any) -> TensorSpec:
    if node.type not in ONNX:
        raise ModelLoadError(f"{path.name}: tensor {node.name} is a {node.type}, which the protocol cannot carry")
    return TensorSpec(node.name, ONNX[node.type], tuple(d if isinstance(d, int) else -1 for d in node.shape))


def _pad(array: Array, size: int) -> Array:
    padded = np.zeros((size, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

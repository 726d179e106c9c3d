"""CUDA: page-locked buffers, IO binding, and one CUDA graph for each set of buffers and bucket.

ONNX Runtime keeps captured graphs for each thread, replays all of a session's on one stream, and captures in CUDA's
global mode, in which no other thread of the process may allocate or copy. Hence one thread for each session launches
its graphs, copies run on streams of their own beside it, and a capture waits until nothing else runs (`GATE`).
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from server.errors import ModelLoadError
from server.tensors import NUMPY, Array, TensorSpec

RUNS_UNTIL_REPLAY = 4
"""Two regular runs in which ONNX Runtime allocates, one that captures, one that replays."""

_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1


class Device(Protocol):
    """What is needed of a GPU beside ONNX Runtime."""

    id: int

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, pinned: bool) -> Array:
        """Return memory of the host that transfers start from or end in, zeroed."""

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return memory of the device, with a method ``data_ptr``."""

    def stream(self) -> int:
        """Return a new stream for transfers."""

    def release(self, stream: int) -> None:
        """Give a stream back."""

    def upload(self, source: Array, address: int, stream: int) -> None:
        """Begin to copy to the device."""

    def download(self, address: int, target: Array, stream: int) -> None:
        """Begin to copy from the device."""

    def wait(self, stream: int) -> None:
        """Wait until what was begun on a stream is done."""


class CudaDevice:
    """A GPU by CUDA's own runtime library, which ONNX Runtime's CUDA provider has loaded already.

    ctypes lets other Python threads run during each call; ONNX Runtime's own `OrtValue.update_inplace` does not, and
    offers no page-locked memory to Python.

    Raises:
        ModelLoadError: the library is not there.
    """

    def __init__(self, device_id: int) -> None:
        self.id = device_id
        try:
            self._library = ctypes.CDLL("libcudart.so.13")
        except OSError as error:
            raise ModelLoadError(f"CUDA's runtime library cannot be loaded: {error}") from error
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._call("cudaSetDevice", ctypes.c_int(device_id))

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, pinned: bool) -> Array:
        """Return memory of the host, page-locked if ``pinned``: it is freed with the last array over it."""
        if not pinned:
            return np.zeros(shape, dtype)
        size = max(1, int(np.prod(shape)) * dtype.itemsize)
        address = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        assert address.value is not None
        memory = (ctypes.c_char * size).from_address(address.value)
        weakref.finalize(memory, self._library.cudaFreeHost, address).atexit = False
        array: Array = np.frombuffer(memoryview(memory), np.uint8)[: int(np.prod(shape)) * dtype.itemsize]
        array[:] = 0
        return array.view(dtype).reshape(shape)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return memory of the device; it is freed with the value."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, "cuda", self.id)

    def stream(self) -> int:
        """Return a new stream that the default stream does not wait for."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        assert stream.value is not None
        return stream.value

    def release(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def upload(self, source: Array, address: int, stream: int) -> None:
        """Begin to copy to the device."""
        self._copy(address, source.ctypes.data, source.nbytes, _TO_DEVICE, stream)

    def download(self, address: int, target: Array, stream: int) -> None:
        """Begin to copy from the device."""
        self._copy(target.ctypes.data, address, target.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """Wait until what was begun on a stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name} failed: {self._library.cudaGetErrorString(code).decode()}")


class Gate:
    """Lets many pass side by side, or one alone; who waits to be alone goes before who comes later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside together with others."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._waiting -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


GATE = Gate()
"""Shared by whatever uses the GPU; a capture is alone."""


@dataclass
class Tensor:
    """One input or output of a set: the same memory for every bucket, whose rows are the first of it."""

    host: Array
    """[largest bucket, ...]"""
    device: Any
    address: int

    def rows(self, count: int) -> Array:
        """Return the first rows of the host's memory."""
        return self.host[:count]


class Buffers:
    """Memory for one batch at a time, bound once for each bucket at addresses that never change."""

    def __init__(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor], stream: int) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.stream = stream
        self.bindings: dict[int, tuple[Any, Any]] = {}
        """For each bucket its binding and its run options."""
        self.used = 0
        """Rows that may hold what an earlier batch left."""


class Bound:
    """Runs batches of an open session through bound buffers.

    Args:
        runtime: the session; its ``run_with_iobinding`` and ``io_binding`` are used.
        device: where it runs.
        inputs: the graph's; only the first dimension is open.
        outputs: likewise.
        buckets: batch sizes, ascending.
        count: sets of buffers, the batches that may be under way at once: while one runs, others are copied.
        captures: whether each bucket of each set becomes a CUDA graph.
        pinned: whether the inputs' and the outputs' memory on the host is page-locked.
    """

    def __init__(
        self,
        runtime: Any,
        device: Device,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        buckets: tuple[int, ...],
        *,
        count: int = 1,
        captures: bool = True,
        pinned: tuple[bool, bool] = (True, True),
    ) -> None:
        self._runtime = runtime
        self._device = device
        self._buckets = buckets
        self._specs = (inputs, outputs)
        self._captures = captures
        self._pinned = pinned
        self._launcher = ThreadPoolExecutor(1, "cuda-launch") if captures else None
        self._all = [self._allocate(index) for index in range(count)]
        self._free: queue.SimpleQueue[Buffers] = queue.SimpleQueue()
        for buffers in self._all:
            self._free.put(buffers)

    @property
    def captures(self) -> bool:
        """Whether batches are replayed as CUDA graphs."""
        return self._captures

    def warm_up(self) -> None:
        """Run each bucket of each set until its graph is captured and replayed; nothing else may run meanwhile."""
        rounds = RUNS_UNTIL_REPLAY if self._captures else 1
        for buffers in self._all:
            for tensor in buffers.inputs.values():
                self._device.upload(tensor.host, tensor.address, buffers.stream)
            self._device.wait(buffers.stream)
            for bucket in warm_up_order(self._buckets):
                for _ in range(rounds):
                    with GATE.alone() if self._captures else GATE.shared():
                        self._launch(buffers, bucket)

    def run(
        self, items: list[dict[str, Array]], size: int, assembled: Callable[[], None] = lambda: None
    ) -> dict[str, Array]:
        """Run requests as one batch: see `server.session.Session.run_batch`."""
        bucket = next(each for each in self._buckets if each >= size)
        buffers = self._free.get()
        try:
            with GATE.shared():
                self._fill(buffers, items, size, bucket)
                assembled()
                self._launch(buffers, bucket)
                return self._collect(buffers, size)
        finally:
            self._free.put(buffers)

    def _fill(self, buffers: Buffers, items: list[dict[str, Array]], size: int, bucket: int) -> None:
        """Copy the requests into the set and to the device; rows beyond them that hold something become zero."""
        stale = min(buffers.used, bucket)
        buffers.used = max(size, buffers.used if buffers.used > bucket else 0)
        for name, tensor in buffers.inputs.items():
            end = 0
            for item in items:
                begin, end = end, end + len(item[name])
                tensor.host[begin:end] = item[name]
            assert end == size, f"the requests have {end} samples; told were {size}"
            tensor.host[size:stale] = 0
            self._device.upload(tensor.rows(max(size, stale)), tensor.address, buffers.stream)
        self._device.wait(buffers.stream)

    def _launch(self, buffers: Buffers, bucket: int) -> None:
        binding, options = buffers.bindings[bucket]
        if self._launcher is None:
            self._runtime.run_with_iobinding(binding, options)
        else:
            self._launcher.submit(self._runtime.run_with_iobinding, binding, options).result()

    def _collect(self, buffers: Buffers, size: int) -> dict[str, Array]:
        """Return copies of the first rows of every output."""
        for tensor in buffers.outputs.values():
            self._device.download(tensor.address, tensor.rows(size), buffers.stream)
        self._device.wait(buffers.stream)
        return {name: tensor.rows(size).copy() for name, tensor in buffers.outputs.items()}

    def _allocate(self, index: int) -> Buffers:
        inputs, outputs = (
            {spec.name: self._tensor(spec, pinned) for spec in specs}
            for specs, pinned in zip(self._specs, self._pinned, strict=True)
        )
        buffers = Buffers(inputs, outputs, self._device.stream())
        weakref.finalize(buffers, self._device.release, buffers.stream).atexit = False
        for number, bucket in enumerate(self._buckets):
            binding = self._runtime.io_binding()
            place = ("cuda", self._device.id)
            for name, tensor in inputs.items():
                rows = tensor.rows(bucket)
                binding.bind_input(name, *place, rows.dtype.type, rows.shape, tensor.address)
            for name, tensor in outputs.items():
                rows = tensor.rows(bucket)
                binding.bind_output(name, *place, rows.dtype.type, rows.shape, tensor.address)
            options = ort.RunOptions()
            if self._captures:  # 0 is ONNX Runtime's own
                options.add_run_config_entry("gpu_graph_id", str(1 + index * len(self._buckets) + number))
            buffers.bindings[bucket] = (binding, options)
        return buffers

    def _tensor(self, spec: TensorSpec, pinned: bool) -> Tensor:
        shape = (self._buckets[-1], *spec.shape[1:])
        dtype = NUMPY[spec.datatype]
        device = self._device.buffer(shape, dtype)
        return Tensor(self._device.host(shape, dtype, pinned=pinned), device, device.data_ptr())


def warm_up_order(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Return the smallest, then the others from the largest down.

    TensorRT, which builds an engine for a range of shapes, has built for all of them after two; and what the largest
    allocates serves the others.
    """
    return (*buckets[:1], *reversed(buckets[1:]))


def bindable(runtime: Any, specs: Sequence[TensorSpec]) -> bool:
    """Whether a session's tensors have fixed addresses on the GPU once the batch is fixed.

    They are numbers, have no open dimension but the first, and no input is read on the CPU: ONNX Runtime copies such an
    input when it is bound, and would not see what is written to its address later.
    """
    if any(spec.datatype in ("BYTES", "BF16") for spec in specs):
        return False
    fixed = all(spec.shape[:1] == (-1,) and -1 not in spec.shape[1:] for spec in specs)
    places = [info.name.lower() for info in runtime.get_input_memory_infos()]
    return fixed and all(place.startswith("cuda") and "pinned" not in place for place in places)

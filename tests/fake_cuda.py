"""A GPU for tests: its memory is the host's, its session doubles its input, and it watches for what CUDA forbids."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from server.tensors import Array


class FakeBuffer:
    """Memory of the device."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.array = np.full(shape, 9, dtype)  # fresh device memory is not zero

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)


class FakeDevice:
    """Transfers to and from the memory that it gave out."""

    id = 0

    def __init__(self) -> None:
        self.memory: dict[int, Array] = {}
        self.pinned: list[bool] = []
        self.on_upload: Callable[[int], None] = lambda _: None
        self.streams = 0

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, pinned: bool) -> Array:
        self.pinned.append(pinned)
        return np.zeros(shape, dtype)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FakeBuffer:
        buffer = FakeBuffer(shape, dtype)
        self.memory[buffer.data_ptr()] = buffer.array
        return buffer

    def stream(self) -> int:
        self.streams += 1
        return self.streams

    def release(self, stream: int) -> None:
        """Nothing is held for a stream."""

    def upload(self, source: Array, address: int, stream: int) -> None:
        self.memory[address][: len(source)] = source
        self.on_upload(stream)

    def download(self, address: int, target: Array, stream: int) -> None:
        assert 0 < stream <= self.streams
        target[:] = self.memory[address][: len(target)]

    def wait(self, stream: int) -> None:
        """Every transfer is done when it has begun."""


@dataclass
class FakeBinding:
    """What was bound: name -> (element type, shape, address)."""

    inputs: dict[str, tuple[Any, tuple[int, ...], int]] = field(default_factory=dict)
    outputs: dict[str, tuple[Any, tuple[int, ...], int]] = field(default_factory=dict)

    def bind_input(self, name: str, kind: str, device: int, element: Any, shape: tuple[int, ...], address: int) -> None:
        assert (kind, device, name in self.inputs) == ("cuda", 0, False)
        self.inputs[name] = (element, tuple(shape), address)

    def bind_output(
        self, name: str, kind: str, device: int, element: Any, shape: tuple[int, ...], address: int
    ) -> None:
        assert (kind, device, name in self.outputs) == ("cuda", 0, False)
        self.outputs[name] = (element, tuple(shape), address)


@dataclass(frozen=True)
class Launch:
    """One run: which binding, which graph, in which thread."""

    binding: FakeBinding
    graph: str
    thread: int


@dataclass(frozen=True)
class MemoryInfo:
    """Where ONNX Runtime reads an input."""

    name: str


@dataclass(frozen=True)
class Node:
    """An input or output, as `onnxruntime.InferenceSession` describes it."""

    name: str
    type: str
    shape: list[Any]


class FakeRuntime:
    """``y`` is ``x`` doubled, padding and all. A graph replays for the thread and the addresses that captured it.

    Args:
        device: whose memory it works on.
        graphs: whether it was opened to capture; runs then must not overlap.
        uncapturable: the capture of this graph fails; empty: none does.
        on_launch: called while a batch runs.
    """

    def __init__(
        self,
        device: FakeDevice,
        *,
        graphs: bool = False,
        uncapturable: str = "",
        on_launch: Callable[[FakeBinding], None] = lambda _: None,
    ) -> None:
        self.device = device
        self.graphs = graphs
        self.uncapturable = uncapturable
        self.on_launch = on_launch
        self.launches: list[Launch] = []
        self.captured: dict[tuple[int, str], FakeBinding] = {}
        self.problems: list[str] = []
        self._runs: Counter[tuple[int, str]] = Counter()
        self._busy: list[FakeBinding] = []
        self._lock = threading.Lock()

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> list[Node]:
        return [Node("x", "tensor(float)", ["batch", 2])]

    def get_outputs(self) -> list[Node]:
        return [Node("y", "tensor(float)", ["batch", 2])]

    def get_overridable_initializers(self) -> list[Node]:
        return []

    def get_input_memory_infos(self) -> list[MemoryInfo]:
        return [MemoryInfo("Cuda")]

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        assert not self.graphs, "a session that captures graphs runs bound batches only"
        return [feeds["x"] * 2 for _ in names]

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        try:
            graph = str(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            graph = ""
        thread = threading.get_ident()
        with self._lock:
            self.launches.append(Launch(binding, graph, thread))
            addresses = {address for _, _, address in binding.inputs.values()}
            if any(addresses & {address for _, _, address in each.inputs.values()} for each in self._busy):
                self.problems.append("two batches in the same buffers")
            if self.graphs and self._busy:
                self.problems.append("two graphs at once")
            self._busy.append(binding)
        if self.graphs:
            self._replay(graph, thread, binding)
        self.on_launch(binding)
        (_, shape, source), (_, _, target) = binding.inputs["x"], binding.outputs["y"]
        self.device.memory[target][: shape[0]] = self.device.memory[source][: shape[0]] * 2
        with self._lock:
            self._busy.remove(binding)

    def _replay(self, graph: str, thread: int, binding: FakeBinding) -> None:
        """Count as ONNX Runtime 1.31 does: two regular runs, then a capture, then replays, for each thread."""
        self._runs[thread, graph] += 1
        if self._runs[thread, graph] == 3:
            if graph == self.uncapturable:
                self._busy.remove(binding)
                raise RuntimeError("operation not permitted when stream is capturing\nsecond line")
            self.captured[thread, graph] = binding
        if self.captured.get((thread, graph), binding) is not binding:
            self.problems.append(f"graph {graph} was captured with other buffers")

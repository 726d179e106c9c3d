"""Bound batches on a fake GPU: buckets, graphs, padding, sets of buffers; and the calls of CUDA's own library."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import cuda, session
from server.cuda import RUNS_UNTIL_REPLAY, Bound, CudaDevice, Gate, bindable
from server.errors import ExecutionError, ModelLoadError
from server.provider_options import Tuning
from server.providers import CUDA, SessionOptions
from server.tensors import Array, TensorSpec
from tests import graphs
from tests.fake_cuda import FakeBinding, FakeDevice, FakeRuntime, MemoryInfo

X, Y = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))
PATIENCE_SECONDS = 20.0
CUDA_OPTIONS = SessionOptions("cuda", threads=1)


def bound_on(runtime: FakeRuntime, buckets: tuple[int, ...] = (1, 2, 4), *, count: int = 1) -> Bound:
    return Bound(runtime, runtime.device, [X], [Y], buckets, count=count, captures=runtime.graphs)


def item(*values: float) -> dict[str, Array]:
    return {"x": np.array([[value, -value] for value in values], np.float32)}


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A machine on which CUDA is there, and is this device."""
    device = FakeDevice()
    monkeypatch.setattr(session, "CudaDevice", lambda _: device)
    monkeypatch.setattr("server.providers.absence", lambda _: "")
    return device


def test_requests_are_assembled_in_order_and_answered_exactly() -> None:
    """Several requests become one batch in the bucket that holds them; the answer has their samples, no more."""
    runtime = FakeRuntime(FakeDevice())
    answer = bound_on(runtime).run([item(1, 2), item(3)], 3)
    np.testing.assert_array_equal(answer["y"], [[2, -2], [4, -4], [6, -6]])
    assert runtime.launches[-1].binding.inputs["x"][1] == (4, 2)


@pytest.mark.parametrize(("size", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_the_smallest_bucket_that_holds_the_batch_runs(size: int, bucket: int) -> None:
    """A batch runs at the next bucket's shape."""
    runtime = FakeRuntime(FakeDevice())
    bound_on(runtime).run([item(*range(size))], size)
    assert runtime.launches[-1].binding.inputs["x"][1] == (bucket, 2)


@pytest.mark.parametrize("captures", [False, True])
def test_padding_is_zero_and_never_leaks(captures: bool) -> None:
    """Rows that an earlier, larger batch left are zero on the device before the next runs, and in no answer."""
    device = FakeDevice()
    seen: list[Array] = []

    def look(binding: FakeBinding) -> None:
        _, shape, address = binding.inputs["x"]
        seen.append(device.memory[address][: shape[0]].copy())

    bound = bound_on(FakeRuntime(device, graphs=captures, on_launch=look))
    bound.warm_up()
    generator = np.random.default_rng(0)
    for size in (3, 1, *generator.integers(1, 5, 200).tolist()):
        x = generator.random((size, 2), np.float32) + 1
        np.testing.assert_array_equal(bound.run([{"x": x}], size)["y"], x * 2)
        np.testing.assert_array_equal(seen[-1][:size], x)
        assert not seen[-1][size:].any()


def test_an_answer_is_the_callers_own() -> None:
    """A later batch does not change an earlier answer."""
    bound = bound_on(FakeRuntime(FakeDevice()))
    first = bound.run([item(1)], 1)["y"]
    bound.run([item(5)], 1)
    np.testing.assert_array_equal(first, [[2, -2]])


def test_addresses_never_change() -> None:
    """Each bucket is bound once, at addresses that all buckets of a set share, and every run uses that binding."""
    runtime = FakeRuntime(FakeDevice(), graphs=True)
    bound = bound_on(runtime)
    bound.warm_up()
    for size in (1, 2, 3, 4, 3, 2, 1):
        bound.run([item(*range(size))], size)
    bindings = {launch.binding.inputs["x"][1][0]: launch.binding for launch in runtime.launches}
    assert sorted(bindings) == [1, 2, 4]
    assert all(launch.binding is bindings[launch.binding.inputs["x"][1][0]] for launch in runtime.launches)
    assert len({binding.inputs["x"][2] for binding in bindings.values()}) == 1
    assert runtime.problems == []


def test_each_bucket_of_each_set_has_its_own_graph() -> None:
    """Graph ids are above 0 and stand for one binding each."""
    runtime = FakeRuntime(FakeDevice(), graphs=True)
    bound_on(runtime, count=2).warm_up()
    bindings = {launch.graph: id(launch.binding) for launch in runtime.launches}
    assert sorted(map(int, bindings)) == [1, 2, 3, 4, 5, 6]
    assert len(set(bindings.values())) == 6


def test_warm_up_runs_every_graph_until_it_replays() -> None:
    """When a model is READY every bucket of every set has been captured, in the thread that replays it later."""
    runtime = FakeRuntime(FakeDevice(), graphs=True)
    bound = bound_on(runtime, count=2)
    bound.warm_up()
    assert len(runtime.captured) == 6
    assert len(runtime.launches) == 6 * RUNS_UNTIL_REPLAY
    with ThreadPoolExecutor(3) as callers:
        list(callers.map(lambda n: bound.run([item(n)], 1), range(30)))
    assert len({launch.thread for launch in runtime.launches}) == 1
    assert len(runtime.captured) == 6


def test_warm_up_without_graphs_runs_every_bucket_once() -> None:
    """Without graphs each shape is run once for each set: the smallest, then from the largest down."""
    runtime = FakeRuntime(FakeDevice())
    bound_on(runtime, count=2).warm_up()
    assert [launch.binding.inputs["x"][1][0] for launch in runtime.launches] == [1, 4, 2, 1, 4, 2]
    assert {launch.graph for launch in runtime.launches} == {""}


@pytest.mark.parametrize("captures", [False, True])
def test_batches_at_once_never_share_buffers(captures: bool) -> None:
    """Under load every caller gets its own answer, no set holds two batches, and graphs replay one by one."""
    runtime = FakeRuntime(FakeDevice(), graphs=captures, on_launch=lambda _: time.sleep(0.001))
    bound = bound_on(runtime, count=2)
    bound.warm_up()

    def caller(number: int) -> bool:
        generator = np.random.default_rng(number)
        right = True
        for _ in range(40):
            sizes = generator.integers(1, 3, 2).tolist()
            items = [{"x": generator.random((size, 2), np.float32)} for size in sizes]
            answer = bound.run(items, sum(sizes))["y"]
            right &= bool(np.array_equal(answer, 2 * np.concatenate([each["x"] for each in items])))
        return right

    with ThreadPoolExecutor(6) as callers:
        assert all(callers.map(caller, range(6)))
    assert runtime.problems == []
    assert len(runtime.launches) > 240


def test_the_next_batch_is_copied_while_a_graph_runs() -> None:
    """With two sets, the transfer of the second batch is done before the first batch's graph ends."""
    device = FakeDevice()
    copied, armed = threading.Event(), threading.Event()
    outcomes: list[bool] = []

    def wait_for_the_other(_: FakeBinding) -> None:
        if armed.is_set() and not outcomes:
            outcomes.append(copied.wait(PATIENCE_SECONDS))

    bound = bound_on(FakeRuntime(device, graphs=True, on_launch=wait_for_the_other), count=2)
    bound.warm_up()
    streams: set[int] = set()

    def note(stream: int) -> None:
        streams.add(stream)
        if len(streams) == 2:
            copied.set()

    device.on_upload = note
    armed.set()
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda n: bound.run([item(n)], 1)["y"][0, 0], (1, 2)))
    assert (answers, outcomes) == ([2, 4], [True])


def test_without_graphs_two_batches_run_side_by_side() -> None:
    """Without graphs ONNX Runtime gives each run a stream of its own, so both are launched."""
    meeting = threading.Barrier(2)
    runtime = FakeRuntime(FakeDevice())
    bound = bound_on(runtime, count=2)
    runtime.on_launch = lambda _: (meeting.wait(PATIENCE_SECONDS), None)[1]
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda n: bound.run([item(n)], 1)["y"][0, 0], (1, 2)))
    assert answers == [2, 4]


def test_a_failed_run_gives_its_buffers_back(caplog: pytest.LogCaptureFixture) -> None:
    """After a failure the set serves the next batch, and the failure is told in one line."""
    runtime = FakeRuntime(FakeDevice())
    bound = bound_on(runtime)
    served = session.Session(runtime, (X,), (Y,), CUDA, fell_back=False, buckets=(1, 2, 4), bound=bound)
    with pytest.raises(ExecutionError, match=r"execution failed: .*broadcast") as caught:
        served.run_batch([{"x": np.ones((1, 7), np.float32)}], 1)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(served.run_batch([item(2)], 1)["y"], [[4, -4]])


def test_the_time_when_a_batch_stands_is_told() -> None:
    """`assembled` is called after the transfer and before the run."""
    device = FakeDevice()
    order: list[str] = []
    device.on_upload = lambda _: order.append("upload")
    bound = bound_on(FakeRuntime(device, on_launch=lambda _: order.append("launch")))
    bound.run([item(1)], 1, lambda: order.append("assembled"))
    assert order == ["upload", "assembled", "launch"]


@pytest.mark.parametrize(("taken", "given"), [("FP16", "FP16"), ("FP16", "FP32"), ("UINT8", "FP16"), ("FP32", "FP32")])
def test_datatypes_are_kept(taken: str, given: str) -> None:
    """Buffers have the graph's own types, so that an fp16 model takes and gives what it says."""
    runtime = FakeRuntime(FakeDevice())
    bound = Bound(
        runtime, runtime.device, [replace(X, datatype=taken)], [replace(Y, datatype=given)], (2,), captures=False
    )
    kinds = {"FP16": np.float16, "FP32": np.float32, "UINT8": np.uint8}
    answer = bound.run([{"x": np.array([[1, 2]], kinds[taken])}], 1)["y"]
    assert answer.dtype == kinds[given]
    np.testing.assert_array_equal(answer, [[2, 4]])
    binding = runtime.launches[-1].binding
    assert (binding.inputs["x"][0], binding.outputs["y"][0]) == (kinds[taken], kinds[given])


@pytest.mark.parametrize("pinned", [(True, False), (False, True)])
def test_pinned_memory_is_as_configured(pinned: tuple[bool, bool]) -> None:
    """`input_pinned_memory` and `output_pinned_memory` decide for themselves."""
    device = FakeDevice()
    Bound(FakeRuntime(device), device, [X], [Y], (1,), captures=False, pinned=pinned)
    assert tuple(device.pinned) == pinned


def test_what_cannot_be_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text, a second open dimension, or an input that ONNX Runtime reads on the CPU rules binding out."""
    runtime = FakeRuntime(FakeDevice())
    assert bindable(runtime, (X, Y))
    assert not bindable(runtime, (X, replace(Y, datatype="BYTES")))
    assert not bindable(runtime, (replace(X, shape=(-1, -1)), Y))
    for place in ("Cpu", "CudaPinned"):
        monkeypatch.setattr(
            runtime, "get_input_memory_infos", lambda place=place: [MemoryInfo("Cuda"), MemoryInfo(place)]
        )
        assert not bindable(runtime, (X, Y))
    on_cpu = session.open_session(graphs.scale(tmp_path), SessionOptions("cpu", threads=1))
    assert not bindable(on_cpu.runtime, (*on_cpu.inputs, *on_cpu.outputs))


def test_a_session_on_a_gpu_is_bound_and_warm(fake_gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is READY on CUDA has a graph for each bucket and instance, and answers through them."""
    runtime = FakeRuntime(fake_gpu, graphs=True)
    monkeypatch.setattr(session, "_create", lambda *_, captures: runtime if captures else pytest.fail("no graphs"))
    opened = session.open_session(Path("model.onnx"), CUDA_OPTIONS)
    ready = session.make_ready(Path("model.onnx"), CUDA_OPTIONS, opened, max_batch_size=4, instances=2)
    assert (ready.provider, ready.buckets, ready.captures) == (CUDA, (1, 2, 4), True)
    assert len(runtime.captured) == 6
    np.testing.assert_array_equal(ready.run_batch([item(1), item(2), item(3)], 3)["y"], 2 * item(1, 2, 3)["x"])


@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("open", "nodes have not been partitioned"),
        ("capture", "operation not permitted"),
        ("shape", "only open dimension"),
    ],
)
def test_a_graph_that_cannot_be_captured_is_done_without(
    where: str, cause: str, fake_gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is served without graphs, and one line warns of it with the cause; nothing fails."""
    caplog.set_level(logging.WARNING)
    created: list[FakeRuntime] = []

    def create(*_: Any, captures: bool) -> FakeRuntime:
        if captures and where == "open":
            raise RuntimeError("the compute graph nodes have not been partitioned to the CUDAExecutionProvider")
        runtime = FakeRuntime(fake_gpu, graphs=captures, uncapturable="2" if where == "capture" else "")
        created.append(runtime)
        return runtime

    monkeypatch.setattr(session, "_create", create)
    if where == "shape":
        monkeypatch.setattr(session, "bindable", lambda *_: False)
    opened = session.open_session(Path("model.onnx"), CUDA_OPTIONS)
    ready = session.make_ready(Path("model.onnx"), CUDA_OPTIONS, opened, max_batch_size=4, instances=1)
    assert not ready.captures
    assert not created[-1].graphs
    assert [cause in record.getMessage() for record in caplog.records] == [True]
    assert "\n" not in caplog.records[0].getMessage()
    np.testing.assert_array_equal(ready.run_batch([item(1), item(2, 3)], 3)["y"], 2 * item(1, 2, 3)["x"])


def test_a_model_that_cannot_run_is_refused(fake_gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails without graphs too is a ModelLoadError of one line."""

    def fail(_: FakeBinding) -> None:
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr(session, "_create", lambda *_, captures: FakeRuntime(fake_gpu, graphs=captures, on_launch=fail))
    opened = session.open_session(Path("model.onnx"), CUDA_OPTIONS)
    with pytest.raises(ModelLoadError, match=r"^model.onnx cannot be run: out of memory$"):
        session.make_ready(Path("model.onnx"), CUDA_OPTIONS, opened, max_batch_size=4, instances=1)


def test_graphs_can_be_switched_off(fake_gpu: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting, or the model's configuration, opens sessions without graphs; the model's word wins."""
    asked: list[bool] = []

    def create(*_: Any, captures: bool) -> FakeRuntime:
        asked.append(captures)
        return FakeRuntime(fake_gpu, graphs=captures)

    monkeypatch.setattr(session, "_create", create)
    for setting, configured in ((False, None), (True, False), (False, True), (True, None)):
        options = replace(CUDA_OPTIONS, cuda_graphs=setting, tuning=Tuning(cuda_graphs=configured))
        session.open_session(Path("model.onnx"), options)
    assert asked == [False, False, True, True]


def test_the_gate_lets_many_or_one() -> None:
    """Shared holders are inside together; one who is alone waits for them, and goes before who comes later."""
    gate, order = Gate(), []

    def capture() -> None:
        with gate.alone():
            order.append("alone")

    def late() -> None:
        with gate.shared():
            order.append("late")

    with gate.shared(), gate.shared():
        capturing = threading.Thread(target=capture)
        capturing.start()
        while not gate._waiting:
            time.sleep(0.001)
        latecomer = threading.Thread(target=late)
        latecomer.start()
        assert order == []
    for thread in (capturing, latecomer):
        thread.join(PATIENCE_SECONDS)
    assert order == ["alone", "late"]


def test_a_capture_waits_until_nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured alone on the GPU; batches share it."""
    inside: list[tuple[str, int]] = []
    gate = Gate()
    monkeypatch.setattr(cuda, "GATE", gate)
    runtime = FakeRuntime(FakeDevice(), graphs=True, on_launch=lambda _: inside.append(("run", gate._inside)))
    bound = bound_on(runtime, (1,))
    bound.warm_up()
    bound.run([item(1)], 1)
    assert inside == [("run", -1)] * RUNS_UNTIL_REPLAY + [("run", 1)]


class FakeLibrary:
    """CUDA's runtime library over the host's memory, in Python."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.allocated: dict[int, Any] = {}
        self.code = 0

        def describe(code: int) -> bytes:
            return f"error {code}".encode()

        self.cudaGetErrorString = describe

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cudaHostAlloc":
                memory = (ctypes.c_char * arguments[1].value)()
                self.allocated[ctypes.addressof(memory)] = memory
                arguments[0]._obj.value = ctypes.addressof(memory)
            elif name == "cudaFreeHost":
                del self.allocated[arguments[0].value]
            elif name == "cudaStreamCreateWithFlags":
                arguments[0]._obj.value = 77
            elif name == "cudaMemcpyAsync":
                target, source, size, _, stream = arguments
                assert stream.value == 77
                ctypes.memmove(target.value, source.value, size.value)
            return self.code

        return call


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """CUDA's runtime library, wherever one is loaded."""
    fake = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: fake)
    return fake


def test_page_locked_memory_is_an_array_and_is_freed(library: FakeLibrary) -> None:
    """The array is zeroed, of the right type and shape, and its memory goes back with the last view of it."""
    array = CudaDevice(0).host((3, 2), np.dtype(np.float16), pinned=True)
    assert (str(array.dtype), array.shape, bool(array.any())) == ("float16", (3, 2), False)
    assert int(array.ctypes.data) in library.allocated
    view = array[1:]
    del array
    gc.collect()
    view[:] = 1
    assert len(library.allocated) == 1
    del view
    gc.collect()
    assert library.allocated == {}
    library.calls.clear()
    CudaDevice(0).host((2,), np.dtype(np.float32), pinned=False)
    assert library.calls == ["cudaSetDevice"]


def test_transfers_go_both_ways(library: FakeLibrary) -> None:
    """What is uploaded is downloaded again, by way of the stream."""
    device = CudaDevice(0)
    stream = device.stream()
    source, remote, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32), np.zeros(6, np.float32)
    device.upload(source, remote.ctypes.data, stream)
    device.download(remote.ctypes.data, back, stream)
    device.wait(stream)
    device.release(stream)
    np.testing.assert_array_equal(back, source)
    assert library.calls == [
        "cudaSetDevice", "cudaStreamCreateWithFlags", "cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize",
        "cudaStreamDestroy",
    ]  # fmt: skip


def test_a_failed_call_names_itself(library: FakeLibrary) -> None:
    """An error of CUDA's tells the call and its own words."""
    device = CudaDevice(0)
    library.code = 2
    with pytest.raises(RuntimeError, match=r"^cudaStreamSynchronize failed: error 2$"):
        device.wait(77)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA's runtime library a ModelLoadError says so."""

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(ModelLoadError, match="CUDA's runtime library cannot be loaded: libcudart"):
        CudaDevice(0)

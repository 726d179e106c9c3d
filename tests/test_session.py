"""Sessions: providers, buckets, padding, the silent fall back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest

from server import providers
from server import session as session_module
from server.errors import ExecutionError, ModelLoadError
from server.provider_options import Tuning
from server.providers import CPU, CUDA, TENSORRT, SessionOptions
from server.session import Session, bucket_sizes, open_session
from server.tensors import Array, TensorSpec
from tests import graphs


class Recorder:
    """A runtime that doubles its input and remembers it."""

    def __init__(self) -> None:
        self.feeds: list[dict[str, Array]] = []

    def run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        self.feeds.append(feeds)
        return [feeds["x"] * 2 for _ in names]


def session_of(runtime: Recorder, buckets: tuple[int, ...]) -> Session:
    spec = TensorSpec("x", "FP32", (-1, 2))
    return Session(runtime, (spec,), (replace(spec, name="y"),), CUDA, fell_back=False, buckets=buckets)


def test_a_real_graph_opens_and_runs(tmp_path: Path) -> None:
    """A graph's tensors are read off it, with -1 for dynamic dimensions."""
    session = open_session(graphs.scale(tmp_path), SessionOptions("cpu", threads=1))
    assert [str(each) for each in (*session.inputs, *session.outputs)] == ["x: FP32 [-1,4]", "y: FP32 [-1,4]"]
    assert (session.provider, session.fell_back) == (CPU, False)
    y = session.run({"x": np.ones((3, 4), np.float32)})["y"]
    np.testing.assert_array_equal(y, np.full((3, 4), 2, np.float32))


def test_a_failed_execution_is_told_in_one_line(tmp_path: Path) -> None:
    """What ONNX Runtime refuses to run is an ExecutionError."""
    session = open_session(graphs.scale(tmp_path), SessionOptions("cpu", threads=1))
    with pytest.raises(ExecutionError, match="execution failed: ") as caught:
        session.run({"x": np.ones((1, 7), np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "max_batch_size", "expected"),
    [
        (CUDA, 32, (1, 2, 4, 8, 16, 32)),
        (CUDA, 12, (1, 2, 4, 8, 12)),
        (CUDA, 1, (1,)),
        (CUDA, 0, ()),
        (TENSORRT, 2, (1, 2)),
        (CPU, 32, ()),
    ],
)
def test_buckets(provider: str, max_batch_size: int, expected: tuple[int, ...]) -> None:
    """On CUDA batches are run at a few sizes; on the CPU, where padding costs real work, at their own."""
    assert bucket_sizes(provider, max_batch_size) == expected


@pytest.mark.parametrize("sizes", [(3,), (1, 2), (1, 1, 1)])
def test_padding_never_reaches_an_answer(sizes: tuple[int, ...]) -> None:
    """Requests are stacked in order and padded with zeros up to their bucket; the answer is cut back to them."""
    runtime = Recorder()
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    items = [{"x": part} for part in np.split(x, np.cumsum(sizes)[:-1])]
    answer = session_of(runtime, (1, 4, 8)).run_batch(items, 3)
    np.testing.assert_array_equal(answer["y"], 2 * x)
    assert runtime.feeds[0]["x"].shape == (4, 2)
    assert not runtime.feeds[0]["x"][3:].any()


def test_a_batch_of_a_buckets_size_is_not_copied() -> None:
    """One request that fills its bucket goes to the runtime as it is; so does any where there are no buckets."""
    for buckets in ((1, 4), ()):
        runtime = Recorder()
        x = np.ones((4, 2), np.float32)
        session_of(runtime, buckets).run_batch([{"x": x}], 4)
        assert runtime.feeds[0]["x"] is x


def test_a_batch_that_is_alone_may_take_all_threads() -> None:
    """The wide runtime runs what has the machine to itself; without one, or in company, the other does."""
    narrow, wide = Recorder(), Recorder()
    session = replace(session_of(narrow, ()), wide=wide)
    items = [{"x": np.ones((1, 2), np.float32)}]
    session.run_batch(items, 1, alone=True)
    session.run_batch(items, 1)
    replace(session, wide=None).run_batch(items, 1, alone=True)
    assert (len(narrow.feeds), len(wide.feeds)) == (2, 1)


def test_a_graph_runs_as_configured(tmp_path: Path) -> None:
    """The session's options of config.pbtxt reach ONNX Runtime."""
    tuning = Tuning(
        graph_level=2,
        session={"intra_op_thread_count": "3", "inter_op_thread_count": "2", "execution_mode": "1"}
        | {"enable_mem_arena": "0", "enable_mem_pattern": "0", "session.use_device_allocator_for_initializers": "1"},
    )
    session = open_session(graphs.scale(tmp_path), SessionOptions("cpu", threads=1, tuning=tuning))
    opened = cast("Any", session.runtime).get_session_options()
    assert (opened.intra_op_num_threads, opened.inter_op_num_threads) == (3, 2)
    assert opened.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert opened.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (opened.enable_cpu_mem_arena, opened.enable_mem_pattern) == (False, False)
    assert opened.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"


def test_what_fails_on_the_gpu_runs_on_the_cpu_if_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Auto tries TensorRT, CUDA with graphs, CUDA without, the CPU, and warns with the cause; cuda stops before it."""
    tried: list[tuple[str, bool]] = []
    create = session_module._create

    def fail_on_gpus(path: Path, options: SessionOptions, provider: str, *, captures: bool) -> Any:
        tried.append((provider, captures))
        if provider != CPU:
            raise RuntimeError(f"no {provider}\nsecond line")
        return create(path, options, provider, captures=captures)

    monkeypatch.setattr(session_module, "_create", fail_on_gpus)
    monkeypatch.setattr(providers, "absence", lambda _: "")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    path = graphs.scale(tmp_path)
    options = SessionOptions("auto", threads=1, tuning=Tuning(tensorrt=True))
    session = open_session(path, options)
    assert tried == [(TENSORRT, False), (CUDA, True), (CUDA, False), (CPU, False)]
    assert (session.provider, session.fell_back, session.captures) == (CPU, True, False)
    assert "the model runs on CPUExecutionProvider: no CUDAExecutionProvider" in caplog.text
    for setting, last in (("cuda", CUDA), ("tensorrt", TENSORRT)):
        with pytest.raises(ModelLoadError, match=f"cannot be opened by ONNX Runtime: no {last}$"):
            open_session(path, replace(options, provider=cast("Any", setting)))


def test_insisting_on_what_is_absent_names_the_cause(tmp_path: Path) -> None:
    """Where CUDA cannot be there, cuda and tensorrt refuse the model, and auto serves it on the CPU."""
    if not providers.cuda_absence():
        pytest.skip("CUDA is there")
    path = graphs.scale(tmp_path)
    for setting in ("cuda", "tensorrt"):
        with pytest.raises(ModelLoadError, match=f"provider is {setting}, but the model would run on {CPU}: "):
            open_session(path, SessionOptions(cast("Any", setting), threads=1))
    assert open_session(path, SessionOptions("auto", threads=1)).provider == CPU

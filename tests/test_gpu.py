"""On an NVIDIA GPU: answers are the CPU's, through bound buffers and CUDA graphs, for many callers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from server import providers
from server.cuda import Bound
from server.errors import ModelLoadError
from server.provider_options import Tuning
from server.providers import CPU, CUDA, TENSORRT, SessionOptions, engine_cache
from server.session import Session, make_ready, open_session
from server.tensors import Array
from tests import graphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(providers.cuda_absence()), reason=f"no GPU: {providers.cuda_absence()}"),
]
TF32, HALF = 5e-3, 2e-2
"""Tolerances, relative to the answer's largest value."""


def convolution(repository: Path, element: int, *, to_fp32: bool = False) -> Path:
    """Publish a convolution, a ReLU and a mean over pixels: [batch, 3, 16, 16] to [batch, 8]."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = np.random.default_rng(1).standard_normal((8, 3, 3, 3)).astype(dtype)
    last = "mean" if to_fp32 else "y"
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("ReduceMean", ["positive", "axes"], [last], keepdims=0),
    ]
    if to_fp32:
        nodes.append(helper.make_node("Cast", ["mean"], ["y"], to=TensorProto.FLOAT))
    return graphs.save(
        repository / "net" / "1" / "model.onnx",
        nodes,
        [("x", element, ["batch", 3, 16, 16])],
        [("y", TensorProto.FLOAT if to_fp32 else element, ["batch", 8])],
        {"w": weights, "axes": np.array([2, 3], np.int64)},
    )


def ready_on(provider: Any, path: Path, *, instances: int = 1, tuning: Tuning | None = None) -> Session:
    options = SessionOptions(provider, threads=1, tuning=tuning or Tuning(), engine_cache=engine_cache(path))
    return make_ready(path, options, open_session(path, options), max_batch_size=8, instances=instances)


def assert_close(got: Array, right: Array, tolerance: float) -> None:
    assert got.shape == right.shape
    difference = np.abs(got.astype(np.float64) - right.astype(np.float64)).max()
    assert difference <= tolerance * np.abs(right).max()


@pytest.mark.parametrize("captures", [True, False])
def test_answers_are_the_cpus_at_every_size(captures: bool, tmp_path: Path) -> None:
    """With and without graphs each batch size gives the CPU's answer, smaller ones after larger ones too."""
    path = convolution(tmp_path, TensorProto.FLOAT)
    on_gpu, on_cpu = ready_on("cuda", path, tuning=Tuning(cuda_graphs=captures)), ready_on("cpu", path)
    assert (on_gpu.provider, on_gpu.captures, on_cpu.provider) == (CUDA, captures, CPU)
    assert isinstance(on_gpu.bound, Bound)
    generator = np.random.default_rng(0)
    for size in (8, 1, 5, 2, 3, 7, 4, 6, 1):
        x = generator.standard_normal((size, 3, 16, 16), np.float32)
        assert_close(on_gpu.run_batch([{"x": x}], size)["y"], on_cpu.run_batch([{"x": x}], size)["y"], TF32)


@pytest.mark.parametrize("to_fp32", [False, True])
def test_fp16_models_keep_their_datatypes(to_fp32: bool, tmp_path: Path) -> None:
    """An fp16 graph takes fp16 and gives fp16 or fp32, as it says; the answer is the CPU's within fp16."""
    path = convolution(tmp_path, TensorProto.FLOAT16, to_fp32=to_fp32)
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float16)
    got = ready_on("cuda", path).run_batch([{"x": x}], 3)["y"]
    assert got.dtype == (np.float32 if to_fp32 else np.float16)
    assert_close(got, ready_on("cpu", path).run_batch([{"x": x}], 3)["y"], HALF)


@pytest.mark.parametrize("captures", [True, False])
def test_callers_never_get_each_others_answers(captures: bool, tmp_path: Path) -> None:
    """Many threads over two sets of buffers: each answer belongs to its own input."""
    path = graphs.scale(tmp_path, factor=3)
    session = ready_on("cuda", path, instances=2, tuning=Tuning(cuda_graphs=captures))

    def caller(number: int) -> bool:
        generator = np.random.default_rng(number)
        right = True
        for size in generator.integers(1, 9, 200).tolist():
            x = generator.integers(0, 1000, (size, 4)).astype(np.float32)
            right &= bool(np.array_equal(session.run_batch([{"x": x}], size)["y"], 3 * x))
        return right

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(caller, range(8)))


def test_a_second_model_is_captured_while_the_first_serves(tmp_path: Path) -> None:
    """Loading captures graphs although batches of another model run all the time."""
    first = ready_on("cuda", graphs.scale(tmp_path, "first"), instances=2)
    x = np.ones((4, 4), np.float32)
    with ThreadPoolExecutor(1) as callers:
        loading = callers.submit(ready_on, "cuda", convolution(tmp_path, TensorProto.FLOAT))
        while not loading.done():
            np.testing.assert_array_equal(first.run_batch([{"x": x}], 4)["y"], 2 * x)
        assert loading.result().captures
    np.testing.assert_array_equal(first.run_batch([{"x": x}], 4)["y"], 2 * x)


def test_a_graph_with_a_loop_is_served_without_cuda_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Control flow cannot be captured: the model is served all the same, and a warning says so."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Add", ["carry", "carry"], ["doubled"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carry", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, None),
        ],
    )
    path = graphs.save(
        tmp_path / "loop" / "1" / "model.onnx",
        [helper.make_node("Loop", ["count", "start", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"count": np.int64(3), "start": np.bool_(True)},
    )
    session = ready_on("cuda", path)
    assert not session.captures
    assert "CUDA graphs are not used" in caplog.text
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(session.run_batch([{"x": x}], 3)["y"], 8 * x)


def test_an_option_with_a_wrong_value_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime's own complaint about an option's value reaches the operator."""
    options = replace(
        SessionOptions("cuda", threads=1), provider_options=("cudnn_conv_algo_search=FASTEST",), cuda_graphs=False
    )
    with pytest.raises(ModelLoadError, match=r"FASTEST|cudnn_conv_algo_search"):
        open_session(graphs.scale(tmp_path), options)


def test_tensorrt_keeps_its_engines(tmp_path: Path) -> None:
    """With TensorRT the answers are the CPU's, and engines lie under the model's hidden directory."""
    if why := providers.tensorrt_absence():
        pytest.skip(why)
    path = convolution(tmp_path, TensorProto.FLOAT)
    session = ready_on("tensorrt", path)
    assert session.provider == TENSORRT
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)
    assert_close(session.run_batch([{"x": x}], 3)["y"], ready_on("cpu", path).run_batch([{"x": x}], 3)["y"], TF32)
    assert list(engine_cache(path).glob("*.engine"))

"""Sessions: providers, buckets, padding, the silent fall back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.errors import ExecutionError, ModelLoadError
from server.session import CPU, CUDA, Session, SessionOptions, bucket_sizes, check_provider, open_session
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
        (CPU, 32, ()),
    ],
)
def test_buckets(provider: str, max_batch_size: int, expected: tuple[int, ...]) -> None:
    """On CUDA batches are run at a few sizes; on the CPU, where padding costs real work, at their own."""
    assert bucket_sizes(provider, max_batch_size) == expected


def test_padding_never_reaches_an_answer() -> None:
    """A batch is padded with zeros up to its bucket, and the answer is cut back to it."""
    runtime = Recorder()
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    answer = session_of(runtime, (1, 4, 8)).run_padded({"x": x}, 3)
    np.testing.assert_array_equal(answer["y"], 2 * x)
    assert runtime.feeds[0]["x"].shape == (4, 2)
    assert not runtime.feeds[0]["x"][3:].any()


def test_a_batch_of_a_buckets_size_is_not_copied() -> None:
    """A batch that fills its bucket goes to the runtime as it is."""
    runtime = Recorder()
    x = np.ones((4, 2), np.float32)
    session_of(runtime, (1, 4)).run_padded({"x": x}, 4)
    assert runtime.feeds[0]["x"] is x


def test_the_silent_fall_back_is_caught() -> None:
    """Cuda that got the CPU is an error that names the cause; auto goes on, and says that it fell back."""
    with pytest.raises(ModelLoadError, match="would run on CPUExecutionProvider: no driver"):
        check_provider("cuda", CPU, tried_cuda=True, absence="no driver")
    assert check_provider("auto", CPU, tried_cuda=True, absence="no driver")
    assert not check_provider("auto", CPU, tried_cuda=False)
    assert not check_provider("cuda", CUDA, tried_cuda=True)

"""The GPU benchmark, as far as a machine without one goes: its limit, its parity check, its figures, on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from compare import bench_gpu, limit_gpu
from compare.bench_gpu import GpuMemory, absence, check_parity, main, measure, to_half, write_results
from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import Client
from tests import graphs


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the tiny classifier, for batches of up to 32."""
    directory = graphs.image_classifier(tmp_path, "tiny")
    config = (directory / "config.pbtxt").read_text(encoding="utf-8")
    (directory / "config.pbtxt").write_text(config.replace("max_batch_size: 8", "max_batch_size: 32"), encoding="utf-8")
    return tmp_path


def test_without_a_gpu_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 and nothing is written."""
    monkeypatch.setattr(bench_gpu, "gpus", list)
    with pytest.raises(SystemExit) as ended:
        main(["--directory", str(tmp_path / "out")])
    assert str(ended.value).startswith("no NVIDIA GPU is here")
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "out").exists()


def test_a_runtime_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU alone is not enough."""
    monkeypatch.setattr(bench_gpu, "gpus", lambda: [{"name": "a GPU"}])
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "has no CUDA provider" in absence()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert absence() == ""


def test_fp16_keeps_inputs_and_outputs(repository: Path) -> None:
    """The converted model has half-precision weights, the same signature, and almost the same answers."""
    to_half(repository / "tiny", repository / "tiny-fp16")
    paths = [repository / name / "1" / "model.onnx" for name in ("tiny", "tiny-fp16")]
    fp32, fp16 = (ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths)
    signatures = [(*opened.get_inputs(), *opened.get_outputs()) for opened in (fp32, fp16)]
    for given, kept in zip(*signatures, strict=True):
        assert (given.name, given.type, given.shape) == (kept.name, kept.type, kept.shape)
    assert paths[1].stat().st_size < paths[0].stat().st_size
    feeds = limit_gpu.images(paths[0], 4)
    right, got = limit_gpu.answer_on_cpu(paths[0], feeds), limit_gpu.answer_on_cpu(paths[1], feeds)
    for name, expected in right.items():
        np.testing.assert_allclose(got[name], expected, rtol=2e-2, atol=1e-3)
    assert 'name: "tiny-fp16"' in (repository / "tiny-fp16" / "config.pbtxt").read_text(encoding="utf-8")


def test_a_model_is_measured(repository: Path) -> None:
    """On the CPU in place of the GPU: parity holds at each bucket, and every figure is there and adds up."""
    result = measure(repository, "tiny", "fp32", seconds=0.05, provider="cpu")
    assert 0 <= result.parity < 1e-5
    assert [row.batch for row in result.rows] == [1, 2, 4, 8, 16, 32]
    for row in result.rows:
        assert row.throughput_per_second > 0
        assert row.ratio == pytest.approx(row.throughput_per_second / row.limit_per_second)
        assert row.limit_way == "session.run"
    assert result.callers_32_per_second > 0
    assert result.latency_p50_seconds is not None
    assert result.latency_p50_seconds > result.limit_latency_p50_seconds > 0
    assert result.start_to_ready_seconds > 0
    path = repository / "results.json"
    write_results(path, [result])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["models"][0]["rows"][5]["batch"] == 32
    assert "gpus" in content["environment"]


def test_wrong_answers_end_the_benchmark(repository: Path) -> None:
    """An answer that is off by more than the tolerance names output and batch."""
    feeds = limit_gpu.images(repository / "tiny" / "1" / "model.onnx", 32)
    right = limit_gpu.answer_on_cpu(repository / "tiny" / "1" / "model.onnx", feeds)
    wrong = {name: array.copy() for name, array in right.items()}
    wrong["logits"][9, 0] += 0.1 * np.abs(wrong["logits"]).max()
    with ServerProcess(repository, models=("tiny",), provider="cpu") as server:
        assert check_parity(server.address, "tiny", feeds, right, 1e-5) < 1e-5
        with pytest.raises(NetweightError, match=r"tiny: logits of a batch of 16 is 0\.1 of its scale"):
            check_parity(server.address, "tiny", feeds, wrong, 5e-3)
        with Client(server.address) as client:
            assert client.ready("tiny")


def test_gpu_memory_is_read_while_something_runs(tmp_path: Path) -> None:
    """Each line of nvidia-smi is a reading, in MiB; what is above the first is ours."""
    script = tmp_path / "smi.py"
    script.write_text(
        "import sys, time\n"
        "assert '--query-gpu=memory.used' in sys.argv\n"
        "for used in (100, 350):\n    print(used, flush=True)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    with GpuMemory((sys.executable, str(script))) as memory:
        while len(memory.readings) < 2:
            pass
        assert memory.above(memory.readings[0]) == 250 * 2**20
        assert memory.above(None) is None
    with GpuMemory((str(tmp_path / "absent"),)) as none:
        assert none.readings == []


def test_a_limit_that_fails_is_told(repository: Path) -> None:
    """The child's last line is the message."""
    (repository / "tiny" / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(NetweightError, match="tiny: the limit cannot be measured: "):
        measure(repository, "tiny", "fp32", seconds=0.01, provider="cpu")


def test_figures_fit_a_table(repository: Path) -> None:
    """The table has a row for each bucket; what holds for the model stands in the first."""
    row: dict[str, Any] = {
        "network": "n",
        "precision": "fp16",
        "throughput_per_second": 90.0,
        "limit_per_second": 100.0,
    }
    rows = [bench_gpu.Row(**row, batch=batch, limit_way="graph", ratio=0.9) for batch in (1, 2)]
    result = bench_gpu.ModelResult(
        "n", "fp16", 0.001, 0.02, 500.0, 0.002, 0.003, 0.001, 1.5, 2**20, 2**21, "", rows=rows, limits=[]
    )
    columns = {str(column.header): list(column.cells) for column in bench_gpu.table([result]).columns}
    assert columns["ratio"] == ["0.90", "0.90"]
    assert columns["p50 ms"] == ["2.00", ""]
    assert columns["GPU MiB"] == ["2", ""]

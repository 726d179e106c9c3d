"""The whole comparison, through a real server, on a tiny model whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compare.images import HeldOut, InputTensor, fit, input_tensor, random_images, read_held_out
from compare.run import compare
from compare.server_process import ServerProcess
from models.spec import NetweightError
from tests.published import held_out, publish


def silent(line: str) -> None:
    pass


def test_comparison(tmp_path: Path) -> None:
    """Each model's row has what its card says, what the metrics page says, what was measured, and its exact accuracy."""
    folder = publish(tmp_path / "repository", "tiny", parameters=192, trained=True)
    publish(tmp_path / "repository", "untrained", trained=False, checkpoint_bytes=None)
    held_out(tmp_path / "runs" / "tiny.npz", 101, wrong=7)
    lines: list[str] = []
    tiny, untrained = compare(
        ["tiny", "untrained"],
        repository=tmp_path / "repository",
        heldout=str(tmp_path / "runs" / "{model}.npz"),
        callers=(2, 8),
        seconds=0.2,
        report=lines.append,
    )
    assert (tiny.network, tiny.title, tiny.version, tiny.parameters) == ("tiny", "Tiny", 1, 192)
    assert (tiny.onnx_bytes, tiny.checkpoint_bytes) == ((folder / "model.onnx").stat().st_size, 1000)
    assert (tiny.accuracy, tiny.accuracy_correct, tiny.accuracy_images) == (94 / 101, 94, 101)
    assert tiny.load_seconds is not None
    assert 0 < tiny.load_seconds < 30
    assert tiny.resident_bytes is not None
    assert tiny.latency_p50_seconds is not None
    assert tiny.latency_p99_seconds is not None
    assert 0 < tiny.latency_p50_seconds <= tiny.latency_p99_seconds
    assert [throughput.callers for throughput in tiny.throughputs] == [2, 8]
    assert (tiny.callers, tiny.throughput_per_second) == (8, tiny.throughputs[-1].per_second)
    assert (tiny.errors, tiny.provider) == (0, "CPUExecutionProvider")
    assert (untrained.trained, untrained.accuracy, untrained.checkpoint_bytes) == (False, None, None)
    assert lines[0].startswith("tiny: server ready in ")
    assert "tiny: 94 of 101 held-out images right (93.1%)" in lines
    json.dumps([tiny.to_dict(), untrained.to_dict()])


def test_running_server(tmp_path: Path) -> None:
    """A running server is measured as it is, without a metrics page too, and serves on; unknown models are named."""
    publish(tmp_path, "tiny")
    publish(tmp_path, "absent")
    with ServerProcess(tmp_path, models=["tiny"]) as server:
        (row,) = compare(["tiny"], repository=tmp_path, address=server.address, seconds=0.1, report=silent)
        assert (row.load_seconds, row.resident_bytes) == (None, None)
        assert row.throughput_per_second
        with pytest.raises(NetweightError, match=rf"server at {server.address}: NOT_FOUND: .*absent"):
            compare(["absent"], repository=tmp_path, address=server.address, seconds=0.1, report=silent)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    """An empty repository and an unknown model fail before a server is started."""
    with pytest.raises(NetweightError, match="no model with a card"):
        compare(repository=tmp_path, report=silent)
    publish(tmp_path, "tiny")
    with pytest.raises(NetweightError, match="vgg99: no card"):
        compare(["vgg99"], repository=tmp_path, report=silent)


def test_images_that_fit() -> None:
    """UINT8 images are sent as they are; a model of FP32 gets them normalised, channels first; others are refused."""
    images = np.full((2, 8, 6, 1), 255, np.uint8)
    as_they_are = InputTensor("tiny", "image", "UINT8", (8, 6, 1))
    assert fit(images, as_they_are, {}) is images
    normalised = fit(images, InputTensor("tiny", "image", "FP32", (1, 8, 6)), {"mean": [0.5], "std": [0.25]})
    assert normalised.shape == (2, 1, 8, 6)
    assert normalised.dtype == np.float32
    assert np.all(normalised == 2)
    with pytest.raises(NetweightError, match=r"tiny: held-out images are \(8, 6, 1\), the model takes \(32, 32, 1\)"):
        fit(images, InputTensor("tiny", "image", "UINT8", (32, 32, 1)), {})
    assert random_images(as_they_are, 3).shape == (3, 8, 6, 1)


def test_inputs_that_take_no_images() -> None:
    """A model with two inputs, or of another datatype, or without a batch dimension is refused in one line."""
    image = InputTensor("", "image", "UINT8", (-1, 8, 6, 1))
    assert input_tensor("tiny", [image]) == InputTensor("tiny", "image", "UINT8", (8, 6, 1))
    for inputs in (
        [image, image],
        [InputTensor("", "text", "BYTES", (-1, 1))],
        [InputTensor("", "image", "UINT8", (8, 6, 1))],
        [InputTensor("", "image", "UINT8", (-1, -1, 6, 1))],
    ):
        with pytest.raises(NetweightError, match="tiny: expected one input of UINT8 or FP32, batch first"):
            input_tensor("tiny", inputs)


def test_held_out_files(tmp_path: Path) -> None:
    """A held-out file comes back as it was written; a broken one, or one of other shapes, is named."""
    path = tmp_path / "heldout.npz"
    held_out(path, 5)
    found: HeldOut = read_held_out(path)
    assert (found.images.shape, found.labels.tolist()) == ((5, 8, 8, 1), [0, 1, 2, 0, 1])
    np.savez(path, images=found.images, labels=found.labels[:3])
    with pytest.raises(NetweightError, match="as many labels"):
        read_held_out(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(NetweightError, match=r"heldout.npz: expected an .npz file"):
        read_held_out(path)

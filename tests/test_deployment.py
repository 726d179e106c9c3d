"""export.deployment: the sizes in the card are those that a registry and a session really have."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import zstandard

from export.deployment import SERVER_IMAGE_BYTES, compressed, deployment, optimized_bytes
from tests.graphs import image_classifier


def weights(path: Path, megabytes: float) -> Path:
    """Write numbers spread as a network's weights are."""
    values = np.random.default_rng(0).normal(0, 0.01, int(megabytes * 250_000)).astype(np.float32)
    path.write_bytes(values.tobytes())
    return path


def layer(files: list[Path]) -> bytes:
    """Return the tar archive of an image layer."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for file in files:
            writer.add(file, arcname=file.name)
    return archive.getvalue()


@pytest.mark.parametrize("megabytes", [0.001, 5.0], ids=["one block", "several blocks"])
def test_sizes_are_those_of_gzip_and_zstd(tmp_path: Path, megabytes: float) -> None:
    """Blocks beside each other give the bytes of one stream, within a thousandth."""
    files = [weights(tmp_path / "model.onnx", megabytes), weights(tmp_path / "model.onnx.data", megabytes / 2)]
    gzip_bytes, zstd_bytes = compressed(files)
    whole = layer(files)
    deflate = zlib.compressobj(6, wbits=31)
    assert gzip_bytes == pytest.approx(len(deflate.compress(whole)) + len(deflate.flush()), rel=1e-3, abs=200)
    assert zstd_bytes == pytest.approx(len(zstandard.ZstdCompressor(level=3).compress(whole)), rel=1e-2, abs=200)


def test_sizes_do_not_depend_on_who_wrote_the_files_and_when(tmp_path: Path) -> None:
    """The same bytes give the same sizes on another day."""
    file = weights(tmp_path / "model.onnx", 0.1)
    first = compressed([file])
    os.utime(file, (1, 1))
    assert compressed([file]) == first


def test_zeros_cost_next_to_nothing(tmp_path: Path) -> None:
    """What can be compressed is: a megabyte of zeros takes some kilobytes."""
    file = tmp_path / "zeros"
    file.write_bytes(bytes(10**6))
    assert max(compressed([file])) < 3000


def test_the_optimised_graph_answers_as_the_other(tmp_path: Path) -> None:
    """What is measured is a graph that ONNX Runtime wrote; nothing of it is left over; outside weights count too."""
    path = image_classifier(tmp_path, "m", classes=3, side=8) / "1" / "model.onnx"
    before = path.read_bytes()
    sizes = [optimized_bytes(path, external=external) for external in (False, True)]
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert sizes[0] == (tmp_path / "optimized.onnx").stat().st_size
    assert sizes[1] >= 4 * 192  # the classifier's matrix
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]


def test_the_card_has_it_all(tmp_path: Path) -> None:
    """Bytes, levels, seconds, and the model's share of a server image with its source."""
    path = image_classifier(tmp_path, "m", classes=3, side=8) / "1" / "model.onnx"
    size = path.stat().st_size
    facts = deployment([path])
    assert facts["bytes"] == size
    assert (facts["registry"]["gzip_bytes"], facts["registry"]["zstd_bytes"]) == compressed([path])
    assert (facts["registry"]["gzip_level"], facts["registry"]["zstd_level"]) == (6, 3)
    assert facts["optimized_bytes"] == optimized_bytes(path)
    assert facts["image"]["model_share"] == pytest.approx(size / (size + SERVER_IMAGE_BYTES))
    assert deployment([path], server_image_bytes=size)["image"]["model_share"] == pytest.approx(0.5)


def test_the_images_size_is_the_documented_one() -> None:
    """The server's image weighs what docs/deployment.md says that `make image-sizes` saw."""
    text = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert f"about {SERVER_IMAGE_BYTES / 1e6:.0f} MB (CPU)" in text

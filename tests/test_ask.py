"""A file in, labels and probabilities out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import netweight
from server.ask import read
from server.client import Client
from server.errors import InvalidArgumentError
from server.tensors import TensorSpec
from tests import graphs
from tests.servers import RunningServer, running_server

SPEC = TensorSpec("image", "UINT8", (-1, 8, 8, 1))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a classifier of bright rows."""
    repository = tmp_path_factory.mktemp("repository")
    graphs.image_classifier(repository)
    with running_server(repository, tmp_path_factory.mktemp("server")) as started:
        yield started


def bright_row(row: int, side: int = 8) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    picture = np.zeros((side, side), np.uint8)
    picture[row * side // 8 : (row + 1) * side // 8] = 255
    return picture


@pytest.mark.parametrize("suffix", ["png", "bmp", "npy"])
def test_a_file_is_answered_with_labels(server: RunningServer, tmp_path: Path, suffix: str) -> None:
    """A picture or an array gives the labels, likeliest first, with their probabilities."""
    file = tmp_path / f"picture.{suffix}"
    if suffix == "npy":
        np.save(file, bright_row(2)[:, :, None])
    else:
        Image.fromarray(bright_row(2)).save(file)
    arguments = ["infer", "tiny", str(file), "--address", server.address, "--top", "2"]
    shown = CliRunner().invoke(netweight.main, arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[0].split(maxsplit=1) == ["1.0000", "row 2"]
    ((first, second),) = json.loads(CliRunner().invoke(netweight.main, [*arguments, "--json"]).output)
    assert (first["index"], first["label"], first["score"]) == (2, "row 2", 1.0)
    assert second["score"] == 0.0


def test_a_picture_is_brought_to_the_models_size(tmp_path: Path) -> None:
    """A colour picture of another size becomes grey, scaled by its shorter side, its middle cut out."""
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    file = tmp_path / "wide.png"
    Image.fromarray(wide).save(file)
    array = read(file, SPEC)
    assert array.shape == (1, 8, 8, 1)
    assert (array[0, :, 1:-1] == 200).all()


def test_a_batch_of_arrays(tmp_path: Path) -> None:
    """An array with the batch dimension is sent as it is."""
    file = tmp_path / "batch.npy"
    np.save(file, np.zeros((3, 8, 8, 1), np.uint8))
    assert read(file, SPEC).shape == (3, 8, 8, 1)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    """A missing file, one that is no picture, a broken array and one of another shape are one line each."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "shape.npy", np.zeros((9, 9)))
    for name, text in {
        "nosuch.png": "there is no file",
        "text.png": "is no picture that can be read",
        "broken.npy": "is no .npy array",
        "shape.npy": r"is an array of shape \[9,9\]; the model takes image: UINT8",
    }.items():
        with pytest.raises(InvalidArgumentError, match=text) as caught:
            read(tmp_path / name, SPEC)
        assert "\n" not in str(caught.value)


def test_a_model_that_takes_no_pictures(server: RunningServer, tmp_path: Path) -> None:
    """A picture for a float tensor is refused with what would fit."""
    file = tmp_path / "picture.png"
    Image.fromarray(bright_row(0)).save(file)
    with pytest.raises(InvalidArgumentError, match="which no picture fits"):
        read(file, TensorSpec("image", "FP32", (-1, 1, 8, 8)))
    with Client(server.address) as client:
        assert client.ready("tiny")

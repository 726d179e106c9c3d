"""export.calibration: which images a quantised variant takes its ranges from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from export.calibration import Calibration, Target, choose, read_target
from models import data
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Preprocessing(height=32, width=32, channels=1, mean=(0.25,), std=(0.5,))
PIXELS = Target(PLAIN, "uint8", trained=True)


def npz(path: Path, pixels: np.ndarray) -> str:
    np.savez(path, images=pixels)
    return str(path)


def test_digits_give_training_images_only() -> None:
    """Every image comes from the training part: none of the held-out or validation part is among them."""
    chosen = choose(Calibration("digits", images=64), PIXELS).images
    loaded = data.load("digits", 1)
    training, *others = (
        {pixels.numpy().tobytes() for pixels, _ in part.batches(1)}
        for part in (loaded.training, loaded.heldout, loaded.validation)
    )
    assert chosen.shape == (64, 32, 32, 1)
    assert {image[np.newaxis].tobytes() for image in chosen} <= training
    assert not any({image[np.newaxis].tobytes() for image in chosen} & other for other in others)


def test_the_seed_decides_which() -> None:
    """The same seed gives the same images and SHA-256, another one others."""
    first, again, other = (choose(Calibration("digits", images=8, seed=seed), PIXELS) for seed in (0, 0, 1))
    assert first.facts == again.facts
    assert first.facts["sha256"] != other.facts["sha256"]
    assert first.facts["images"] == 8
    assert (first.facts["part"], first.facts["real"]) == ("training", True)


def test_folder_gives_its_training_part(tmp_path: Path) -> None:
    """Of a directory of pictures those below train/ are taken, in the network's extents."""
    for part, shade in (("train", 10), ("val", 200)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("L", (40, 40), shade + number).save(tmp_path / part / name / f"{number}.png")
    chosen = choose(Calibration(str(tmp_path), images=4), PIXELS)
    assert chosen.images.shape == (4, 32, 32, 1)
    assert set(np.unique(chosen.images)) <= {10, 11, 12}


def test_file_of_images(tmp_path: Path) -> None:
    """An .npz file gives as many as asked for, and no more than it has."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1), np.uint8)
    path = npz(tmp_path / "some.npz", pixels)
    assert np.array_equal(choose(Calibration(path), PIXELS).images, pixels)
    chosen = choose(Calibration(path, images=3), PIXELS)
    assert len(chosen.images) == 3
    assert (chosen.facts["source"], chosen.facts["part"]) == ("some.npz", "file")


def test_graph_without_preprocessing_gets_normalised_planes(tmp_path: Path) -> None:
    """Where the graph takes FP32, pixels are scaled, normalised and turned to NCHW as its metadata says."""
    pixels = np.full((2, 32, 32, 1), 255, np.uint8)
    path = npz(tmp_path / "white.npz", pixels)
    images = choose(Calibration(path), replace(PIXELS, input="float32")).images
    assert images.shape == (2, 1, 32, 32)
    assert images.dtype == np.float32
    assert np.allclose(images, (1 - 0.25) / 0.5)


def test_target_is_read_off_the_file() -> None:
    """Extents, normalisation, and whether the weights were trained, stand in the graph and its metadata."""
    image = ir.val("image", ir.DataType.FLOAT, [None, 1, 32, 32])
    model = ir.Model(ir.Graph([image], [], nodes=[], name="g", opset_imports={"": 20}), ir_version=10)
    with pytest.raises(NetweightError, match="does not say how pixels become them: export it again"):
        read_target(model)
    model.metadata_props["preprocessing"] = json.dumps({**PLAIN.to_dict(), "input": "float32"})
    model.metadata_props["weights"] = "random, seed 0"
    assert read_target(model) == Target(PLAIN, "float32", trained=False)


def test_random_pixels_are_for_untrained_weights_alone() -> None:
    """They are refused for trained weights, and labelled as no pictures otherwise."""
    with pytest.raises(NetweightError, match=r"not calibrated on random pixels.*give --calibration digits"):
        choose(Calibration("random"), PIXELS)
    chosen = choose(Calibration("random", images=2), replace(PIXELS, trained=False))
    assert (chosen.facts["part"], chosen.facts["real"]) == ("none", False)
    assert chosen.images.shape == (2, 32, 32, 1)


def test_no_images_are_refused_with_how_to_give_some() -> None:
    """Without --calibration the one line says what to add; random is offered for untrained weights only."""
    with pytest.raises(NetweightError, match=r"none were given: add --calibration digits.*FILE.npz$"):
        choose(None, PIXELS)
    with pytest.raises(NetweightError, match="untrained weights also take: random"):
        choose(None, replace(PIXELS, trained=False))


def test_heldout_images_are_refused(tmp_path: Path) -> None:
    """What a variant is measured on is not what it takes its ranges from."""
    path = npz(tmp_path / "heldout.npz", np.zeros((2, 32, 32, 1), np.uint8))
    with pytest.raises(NetweightError, match="holds the held-out images"):
        choose(Calibration(path), PIXELS)


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 28, 28, 1), np.uint8), np.zeros((2, 32, 32, 1)), np.zeros((0, 32, 32, 1), np.uint8)]
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    """Another shape, datatype, or none at all: one line says what was expected and what came."""
    with pytest.raises(NetweightError, match=r"expected images uint8 \[N, 32, 32, 1\], got"):
        choose(Calibration(npz(tmp_path / "odd.npz", pixels)), PIXELS)


def test_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    """What is no .npz file, or is not there, is named."""
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    for path in (broken, tmp_path / "missing.npz"):
        with pytest.raises(NetweightError, match=f"{path.name} holds no calibration images"):
            choose(Calibration(str(path)), PIXELS)
    with pytest.raises(NetweightError, match="unknown data 'nothing'"):
        choose(Calibration("nothing"), PIXELS)

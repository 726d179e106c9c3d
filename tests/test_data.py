"""models/data.py: the digits and their split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models import data
from models.spec import NetweightError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def grey() -> data.DataSet:
    """The digits as LeNet-5 takes them."""
    return data.digits(1)


def rows(images: data.Images) -> set[bytes]:
    """Return each image as its bytes."""
    return {image.tobytes() for image in images.pixels}


def test_every_image_has_one_part(grey: data.DataSet) -> None:
    """The 1,797 images fall into 1,293 for training, 144 for validation and 360 held out, and no part shares one."""
    parts = (grey.training, grey.validation, grey.heldout)
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert not rows(grey.heldout) & (rows(grey.training) | rows(grey.validation))
    assert not rows(grey.training) & rows(grey.validation)


def test_parts_hold_every_digit_alike(grey: data.DataSet) -> None:
    """Each part holds the ten digits in equal shares: the split is stratified."""
    for part in (grey.training, grey.validation, grey.heldout):
        counts = np.bincount(part.labels, minlength=10)
        assert counts.min() > 0.9 * len(part) / 10
        assert counts.max() < 1.1 * len(part) / 10


def test_same_split_for_every_network(grey: data.DataSet) -> None:
    """A network that takes colours sees the same images in the same parts, grey repeated in each channel."""
    colour = data.digits(3)
    for ours, theirs in ((grey.training, colour.training), (grey.heldout, colour.heldout)):
        assert theirs.pixels.shape == (len(ours), 32, 32, 3)
        assert all(np.array_equal(theirs.pixels[..., channel], ours.pixels[..., 0]) for channel in range(3))
        assert np.array_equal(theirs.labels, ours.labels)
    assert colour.preprocessing.mean == grey.preprocessing.mean * 3


def test_upscaling_keeps_the_picture(grey: data.DataSet) -> None:
    """Scaled up to 32x32 bytes, an image still is the picture: its 4x4 block means follow the original's pixels."""
    from sklearn.datasets import load_digits

    originals: NDArray[np.float64] = load_digits().images
    scaled = data._upscale(originals)
    assert scaled.dtype == np.uint8
    means = scaled.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.corrcoef(means.ravel(), originals.ravel())[0, 1] > 0.97
    assert grey.training.pixels.max() > 240


def test_preprocessing_is_of_the_training_part(grey: data.DataSet) -> None:
    """Mean and standard deviation are the training part's: normalised, it has mean 0 and deviation 1."""
    preprocessing = grey.preprocessing
    normalised = (grey.training.pixels / 255 - preprocessing.mean) / preprocessing.std
    assert abs(normalised.mean()) < 1e-3
    assert abs(normalised.std() - 1) < 1e-3
    assert (preprocessing.height, preprocessing.width, preprocessing.channels) == (32, 32, 1)


def test_heldout_file(grey: data.DataSet, tmp_path: Path) -> None:
    """The held-out file gives back images UINT8 [360, 32, 32, 1] and labels INT64 [360], and nothing is left beside."""
    data.write_heldout(grey, tmp_path / "heldout.npz")
    with np.load(tmp_path / "heldout.npz") as file:
        assert file["images"].dtype == np.uint8
        assert file["labels"].dtype == np.int64
        assert np.array_equal(file["images"], grey.heldout.pixels)
        assert np.array_equal(file["labels"], grey.heldout.labels)
    assert [path.name for path in tmp_path.iterdir()] == ["heldout.npz"]


def test_unknown_data() -> None:
    """An unknown data set is answered in one line that names the one there is."""
    with pytest.raises(NetweightError, match=r"^unknown data 'digit': the built-in data set is 'digits'$"):
        data.load("digit", 1)

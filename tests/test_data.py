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

    from models.batches import Part


@pytest.fixture(scope="module")
def grey() -> data.DataSet:
    """The digits as LeNet-5 takes them."""
    return data.digits(1)


def pixels(images: Part) -> NDArray[np.uint8]:
    """Return all images, UINT8 [N, height, width, channels]."""
    return np.concatenate([batch.numpy() for batch, _ in images.batches(500)])


def rows(images: Part) -> set[bytes]:
    """Return each image as its bytes."""
    return {image.tobytes() for image in pixels(images)}


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
        assert pixels(theirs).shape == (len(ours), 32, 32, 3)
        assert all(np.array_equal(pixels(theirs)[..., channel], pixels(ours)[..., 0]) for channel in range(3))
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
    assert pixels(grey.training).max() > 240


def test_preprocessing_is_of_the_training_part(grey: data.DataSet) -> None:
    """Mean and standard deviation are the training part's: normalised, it has mean 0 and deviation 1."""
    preprocessing = grey.preprocessing
    normalised = (pixels(grey.training) / 255 - preprocessing.mean) / preprocessing.std
    assert abs(normalised.mean()) < 1e-3
    assert abs(normalised.std() - 1) < 1e-3
    assert (preprocessing.height, preprocessing.width, preprocessing.channels) == (32, 32, 1)


def test_heldout_file(grey: data.DataSet, tmp_path: Path) -> None:
    """The held-out file gives back images UINT8 [360, 32, 32, 1] and labels INT64 [360], and nothing is left beside."""
    data.write_heldout(grey, tmp_path / "heldout.npz")
    with np.load(tmp_path / "heldout.npz") as file:
        assert file["images"].dtype == np.uint8
        assert file["labels"].dtype == np.int64
        assert np.array_equal(file["images"], pixels(grey.heldout))
        assert np.array_equal(file["labels"], grey.heldout.labels)
    assert [path.name for path in tmp_path.iterdir()] == ["heldout.npz"]


@pytest.mark.parametrize("name", ["digit", "digits:", "digits:4", "digits:4-3", "digits:3-3", "digits:0-10", "no/such"])
def test_unknown_data(name: str) -> None:
    """An unknown data set is answered in one line that says what there is."""
    with pytest.raises(NetweightError, match=rf"^unknown data '{name}': expected .*'digits:0-4'[^\n]*$"):
        data.load(name, 1)


def test_some_digits_alone() -> None:
    """digits:5-9 are the images of these five in the same parts, relabelled from 0 and named as before."""
    whole, some = data.digits(1), data.load("digits:5-9", 1)
    assert some.class_names == ("5", "6", "7", "8", "9")
    for ours, theirs in (
        (some.training, whole.training),
        (some.validation, whole.validation),
        (some.heldout, whole.heldout),
    ):
        chosen = theirs.labels >= 5
        assert np.array_equal(ours.labels, theirs.labels[chosen] - 5)
        assert np.array_equal(pixels(ours), pixels(theirs)[chosen])
    assert some.name == "digits:5-9"
    assert abs((pixels(some.training) / 255).mean() - some.preprocessing.mean[0]) < 1e-4


def test_fewer_images_to_train_on() -> None:
    """50 training images are 5 of each digit, the seed's, of the training part; the other parts stay as they are."""
    whole = data.digits(1)
    few, again, others = (data.load("digits", 1, train_images=50, seed=seed) for seed in (0, 0, -1))
    assert np.bincount(few.training.labels).tolist() == [5] * 10
    assert rows(few.training) == rows(again.training) != rows(others.training)
    assert rows(few.training) < rows(whole.training)
    assert (len(few.validation), len(few.heldout)) == (144, 360)
    assert len(data.load("digits", 1, train_images=1293).training) == 1293


@pytest.mark.parametrize("count", [0, 9, 1294])
def test_too_few_images_to_train_on(count: int) -> None:
    """Fewer images than classes, or more than there are, are one line with both bounds."""
    bounds = r"expected 10 \(one of each class\) to 1,293 \(all there are\)$"
    with pytest.raises(NetweightError, match=rf"^cannot train on {count:,} images: {bounds}"):
        data.load("digits", 1, train_images=count)


def test_draw_is_stratified() -> None:
    """Each class keeps its share of what is drawn, and the rarest still gives one."""
    labels = np.repeat([0, 1, 2], [600, 300, 4])
    shares = np.array([600, 300, 4]) * 90 / 904
    assert (np.abs(np.bincount(labels[data.drawn(labels, 90, 0)]) - shares) < 1).all()
    assert np.bincount(labels[data.drawn(labels, 3, 0)]).tolist() == [1, 1, 1]
    assert data.drawn(labels, 904, 0).tolist() == list(range(904))


def test_digits_of_another_size() -> None:
    """At 64 pixels the digits are the same pictures, larger, and the preprocessing says so."""
    small, large = data.digits(1), data.load("digits", 1, size=64)
    assert (large.preprocessing.height, large.preprocessing.width) == (64, 64)
    assert pixels(large.heldout).shape == (360, 64, 64, 1)
    means = pixels(large.heldout).reshape(360, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.corrcoef(means.ravel(), pixels(small.heldout).ravel())[0, 1] > 0.98

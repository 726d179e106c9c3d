"""Data sets: the built-in handwritten digits, split once and for all, or a folder of pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.atomic import replacing
from models.batches import Images
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.batches import Part

DIGITS = "digits"
HELDOUT_IMAGES = 360
VALIDATION_IMAGES = 144
MOST_HELDOUT_IN_A_FILE = 2000
"""heldout.npz is sent image by image to a server: more would add minutes, and to the accuracy little."""
_SPLIT_SEED = 0
_SIDE = 32
"""Pixels; LeNet-5 was made for it, and five halvings leave a pixel of it."""
_WRITTEN_TOGETHER = 128


@dataclass(frozen=True)
class DataSet:
    """Images in three parts that share none."""

    name: str
    class_names: tuple[str, ...]
    training: Part
    validation: Part
    """Chooses the best epoch."""
    heldout: Part
    """Never seen in training, and no choice is made by it: what a served network is measured on."""
    preprocessing: Preprocessing
    """With the mean and the standard deviation of the training part."""
    heldout_is_validation: bool = False
    """Whether nothing was held out: then `heldout` is `validation`, which chose the epoch."""


def load(  # noqa: PLR0913 - the command line's options, each with its default
    name: str,
    channels: int,
    *,
    size: int | None = None,
    train_images: int | None = None,
    unreadable: Literal["refuse", "skip"] = "refuse",
    seed: int = 0,
    like: Preprocessing | None = None,
    cache: Path | None = None,
    report: Callable[[str], None] = print,
) -> DataSet:
    """Load a data set with as many channels as the network takes.

    Args:
        name: ``digits``, ``digits:0-4`` (a range of its classes), or a directory of class folders.
        channels: 1, or 3: then grey is repeated.
        size: The side of an image in pixels; None: 32 for the digits, for a folder as `like` says.
        train_images: How many images to train on, of each class about as large a share; None: all.
        unreadable: What becomes of a folder with pictures that cannot be read: refused, or they are left out.
        seed: Draws the `train_images`.
        like: The network's own preprocessing: a folder's pictures are resized and cropped as it says.
        cache: A file that keeps what was found out about a folder's pictures, so that they are not read again.
        report: Takes a line of text.

    Raises:
        NetweightError: no such data set, or one that cannot be trained on.
    """
    if name == DIGITS or name.startswith(f"{DIGITS}:"):
        return digits(channels, name, size or _SIDE, train_images, seed)
    if not Path(name).is_dir():
        raise NetweightError(
            f"unknown data {name!r}: expected {DIGITS!r}, some of its classes such as '{DIGITS}:0-4', or a directory"
        )
    from models import folder

    asked = folder.Asked(channels, size, train_images, unreadable, seed, like)
    return folder.load(Path(name), asked, cache, report)


def digits(
    channels: int, name: str = DIGITS, side: int = _SIDE, train_images: int | None = None, seed: int = 0
) -> DataSet:
    """Load scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, here scaled up to 32x32.

    The split is stratified and the same for every network, seed and range of classes: 1,293 to train on, 144 to choose
    the best epoch, 360 held out. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998
    (its test part).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    pixels = np.repeat(_upscale(loaded.images, side)[..., np.newaxis], channels, axis=3)
    labels = loaded.target.astype(np.int64)
    seen, heldout = train_test_split(
        np.arange(len(labels)), test_size=HELDOUT_IMAGES, stratify=labels, random_state=_SPLIT_SEED
    )
    training, validation = train_test_split(
        seen, test_size=VALIDATION_IMAGES, stratify=labels[seen], random_state=_SPLIT_SEED
    )
    first, last = _classes(name, len(loaded.target_names))
    training, validation, heldout = (
        part[(labels[part] >= first) & (labels[part] <= last)] for part in (training, validation, heldout)
    )
    training = training[subset(labels[training], train_images, seed)]
    images = [Images(pixels[part], labels[part] - first) for part in (training, validation, heldout)]
    return DataSet(
        name=name,
        class_names=tuple(str(digit) for digit in loaded.target_names[first : last + 1]),
        training=images[0],
        validation=images[1],
        heldout=images[2],
        preprocessing=_preprocessing(pixels[training]),
    )


def normalised_as(data: DataSet, like: Preprocessing | None) -> DataSet:
    """Return the data set with the mean and the standard deviation of `like`; None: with its own, as it is."""
    if like is None:
        return data
    return replace(data, preprocessing=replace(data.preprocessing, mean=like.mean, std=like.std))


def subset(labels: NDArray[np.int64], count: int | None, seed: int) -> NDArray[np.int64]:
    """Draw `count` images to train on, as `drawn` does; None: all of them.

    Raises:
        NetweightError: fewer than there are classes, or more than there are images.
    """
    if count is None:
        return np.arange(len(labels))
    classes = len(np.unique(labels))
    if not classes <= count <= len(labels):
        raise NetweightError(
            f"cannot train on {count:,} images: expected {classes:,} (one of each class) to {len(labels):,} (all there are)"
        )
    return drawn(labels, count, seed)


def drawn(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` images, of each class as large a share as it has of all, and at least one while they suffice.

    Returns:
        INT64 [count]: the indices of those drawn, rising.
    """
    draw = np.random.default_rng(seed % 2**64)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[draw.permutation(members)] = np.arange(len(members)) / len(members)  # each class evenly over 0..1
    return np.sort(np.argsort(place, kind="stable")[:count])


def write_heldout(data: DataSet, path: Path) -> None:
    """Write the held-out part as `images` UINT8 [N, height, width, channels] and `labels` INT64 [N].

    Of more than `MOST_HELDOUT_IN_A_FILE` images so many are drawn, always the same.
    """
    labels = data.heldout.labels
    chosen = drawn(labels, min(len(labels), MOST_HELDOUT_IN_A_FILE), _SPLIT_SEED)
    images = np.concatenate([pixels.numpy() for pixels, _ in data.heldout.only(chosen).batches(_WRITTEN_TOGETHER)])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels[chosen])


def _classes(name: str, count: int) -> tuple[int, int]:
    """Return the first and the last class that a name such as ``digits:0-4`` means."""
    found = re.fullmatch(f"{DIGITS}(?::([0-9])-([0-9]))?", name)
    first, last = (int(found[1] or 0), int(found[2] or count - 1)) if found else (0, 0)
    if not first < last < count:
        raise NetweightError(f"unknown data {name!r}: expected a range of two or more digits, such as '{DIGITS}:0-4'")
    return first, last


def _upscale(images: NDArray[np.float64], side: int = _SIDE) -> NDArray[np.uint8]:
    """Scale 8x8 images of 0..16 to UINT8 [N, side, side] of 0..255, bilinear, as any image file would be resized."""
    from PIL import Image

    scaled = np.round(images * (255 / 16)).astype(np.uint8)
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in scaled])


def _preprocessing(pixels: NDArray[np.uint8]) -> Preprocessing:
    """Normalise by the mean and the standard deviation of these images, channel by channel."""
    _, height, width, channels = pixels.shape
    flat = pixels.reshape(-1, channels) / 255
    return Preprocessing(
        height=height,
        width=width,
        channels=channels,
        mean=tuple(round(float(mean), 4) for mean in flat.mean(axis=0)),
        std=tuple(round(float(deviation), 4) for deviation in flat.std(axis=0)),
    )

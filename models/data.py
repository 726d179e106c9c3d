"""Data sets: the built-in handwritten digits, split once and for all into training, validation and held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.atomic import replacing
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DIGITS = "digits"
HELDOUT_IMAGES = 360
VALIDATION_IMAGES = 144
_SPLIT_SEED = 0
_SIDE = 32
"""Pixels; LeNet-5 was made for it, and five halvings leave a pixel of it."""


@dataclass(frozen=True)
class Images:
    """Images with their labels."""

    pixels: NDArray[np.uint8]
    """[N, height, width, channels], 0..255."""
    labels: NDArray[np.int64]
    """[N], indices of the class names."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """Images in three parts that share none."""

    name: str
    class_names: tuple[str, ...]
    training: Images
    validation: Images
    """Chooses the best epoch."""
    heldout: Images
    """Never seen in training, and no choice is made by it: what a served network is measured on."""
    preprocessing: Preprocessing
    """With the mean and the standard deviation of the training part."""


def load(name: str, channels: int) -> DataSet:
    """Load a data set with as many channels as the network takes.

    Args:
        name: `digits`.
        channels: 1, or 3: then grey is repeated.

    Raises:
        NetweightError: no such data set.
    """
    if name != DIGITS:
        raise NetweightError(f"unknown data {name!r}: the built-in data set is {DIGITS!r}")
    return digits(channels)


def digits(channels: int) -> DataSet:
    """Load scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, here scaled up to 32x32.

    The split is stratified and the same for every network and seed: 1,293 to train on, 144 to choose the best epoch,
    360 held out. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    pixels = np.repeat(_upscale(loaded.images)[..., np.newaxis], channels, axis=3)
    labels = loaded.target.astype(np.int64)
    seen, heldout = train_test_split(
        np.arange(len(labels)), test_size=HELDOUT_IMAGES, stratify=labels, random_state=_SPLIT_SEED
    )
    training, validation = train_test_split(
        seen, test_size=VALIDATION_IMAGES, stratify=labels[seen], random_state=_SPLIT_SEED
    )
    return DataSet(
        name=DIGITS,
        class_names=tuple(str(name) for name in loaded.target_names),
        training=Images(pixels[training], labels[training]),
        validation=Images(pixels[validation], labels[validation]),
        heldout=Images(pixels[heldout], labels[heldout]),
        preprocessing=_preprocessing(pixels[training]),
    )


def write_heldout(data: DataSet, path: Path) -> None:
    """Write the held-out part as `images` UINT8 [N, height, width, channels] and `labels` INT64 [N]."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=data.heldout.pixels, labels=data.heldout.labels)


def _upscale(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale 8x8 images of 0..16 to UINT8 [N, 32, 32] of 0..255, bilinear, as any image file would be resized."""
    from PIL import Image

    scaled = np.round(images * (255 / 16)).astype(np.uint8)
    size = (_SIDE, _SIDE)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in scaled])


def _preprocessing(pixels: NDArray[np.uint8]) -> Preprocessing:
    """Normalise by the mean and the standard deviation of these images, channel by channel."""
    channels = pixels.shape[3]
    flat = pixels.reshape(-1, channels) / 255
    return Preprocessing(
        height=_SIDE,
        width=_SIDE,
        channels=channels,
        mean=tuple(round(float(mean), 4) for mean in flat.mean(axis=0)),
        std=tuple(round(float(deviation), 4) for deviation in flat.std(axis=0)),
    )

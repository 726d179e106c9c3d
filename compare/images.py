"""Images to send: the held-out ones of a training run, or random ones of a model's own input shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from compare.load import DATATYPES
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class InputTensor:
    """The one input of a model that takes images: its name, datatype and shape without the batch dimension."""

    model: str
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images kept out of training: `images` UINT8 [count, H, W, C], `labels` int64 [count]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def input_tensor(model: str, inputs: Sequence[Any]) -> InputTensor:
    """Return the input of a model's metadata (each with ``name``, ``datatype``, ``shape``) if images can be sent to it.

    Raises:
        NetweightError: not one input of a datatype and a fixed shape that images have, batch first.
    """
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(inputs) != 1 or inputs[0].datatype not in DATATYPES or shapes[0][:1] != (-1,) or -1 in shapes[0][1:]:
        raise NetweightError(
            f"{model}: expected one input of {' or '.join(DATATYPES)}, batch first, of a fixed shape,"
            f" got {[(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in inputs]};"
            " only models of images are measured"
        )
    return InputTensor(model, inputs[0].name, inputs[0].datatype, shapes[0][1:])


def read_held_out(path: Path) -> HeldOut:
    """Return the images and labels of a ``heldout.npz``."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, BadZipFile) as error:
        raise NetweightError(f"{path}: expected an .npz file with images and labels ({error}); train again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels):
        raise NetweightError(
            f"{path}: expected images UINT8 [count, H, W, C] and as many labels,"
            f" got {images.dtype} {images.shape} and {labels.shape}; train again"
        )
    return HeldOut(images, labels.astype(np.int64))


def fit(images: NDArray[np.uint8], tensor: InputTensor, preprocessing: dict[str, Any]) -> NDArray[Any]:
    """Return UINT8 [count, H, W, C] as the model takes images: as they are, or normalised FP32 [count, C, H, W]."""
    fitted: NDArray[Any] = images
    if tensor.datatype == "FP32":
        if not {"mean", "std"} <= preprocessing.keys():
            raise NetweightError(
                f"{tensor.model}: its card does not tell how images are normalised, so that held-out images cannot be sent "
                "to it; compare it without them"
            )
        mean, std = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
        fitted = ((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    if fitted.shape[1:] != tensor.shape:
        raise NetweightError(
            f"{tensor.model}: held-out images are {fitted.shape[1:]}, the model takes {tensor.shape};"
            " name the held-out file of this model's own training run"
        )
    return fitted


def random_images(tensor: InputTensor, count: int) -> NDArray[Any]:
    """Return `count` random images (seed 0): UINT8 0..255, or FP32 from the standard normal distribution."""
    generator = np.random.default_rng(0)
    if DATATYPES[tensor.datatype] == np.uint8:
        return generator.integers(0, 256, (count, *tensor.shape), np.uint8)
    return generator.standard_normal((count, *tensor.shape), np.float32)

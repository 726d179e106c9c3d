"""Held-out images: what an exported file answers to pictures that nobody trained on, in ONNX Runtime."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.build import Pixels
from export.card import sha256
from export.convert import IMAGE, LOGITS
from export.verify import open_session
from models.spec import NetweightError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.build import Built
    from models.spec import Weights

FILE = "heldout.npz"
"""What `netweight train` writes beside its checkpoints: `images` UINT8 [N, height, width, channels], `labels` INT64 [N]."""

BATCH = 32
"""Images in one run; a smaller last batch holds the rest."""


@dataclass(frozen=True)
class Heldout:
    """Images with their labels, none of which were trained on."""

    source: str
    """The file's directory and name."""
    sha256: str
    """Of the file."""
    images: NDArray[Any]
    """As the graph takes them."""
    labels: NDArray[np.int64]
    """[N], indices of the classes."""

    def sample(self, count: int, seed: int) -> torch.Tensor:
        """Draw that many images, no two of them the same."""
        drawn = np.random.default_rng(seed).choice(len(self.labels), count, replace=False)
        return torch.from_numpy(self.images[drawn])


@dataclass(frozen=True)
class Accuracy:
    """What a file answers to held-out images."""

    data: str
    """Where the images come from."""
    sha256: str
    """Of the images' file."""
    images: int
    batch: int
    """Images in one run."""
    top1: float
    """The share of images whose class is named, 0..1."""
    agreement: float
    """The share of images for which the file names the same class as the fp32 file, 0..1; 1 for the fp32 file itself."""


def find(weights: Weights, given: Path | None) -> Path | None:
    """Return the file of held-out images: the one given, or that which the training run left beside its checkpoint."""
    if given is not None or weights.kind != "checkpoint":
        return given
    beside = Path(weights.source).with_name(FILE)
    return beside if beside.is_file() else None


def read(path: Path, built: Built) -> Heldout:
    """Read held-out images for a network.

    Raises:
        NetweightError: no such file, not one of held-out images, or its images or labels are not the network's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise NetweightError(
            f"{path} holds no held-out images: expected an .npz file with images UINT8 [N, height, width, channels] and "
            f"labels [N], but reading it failed with: {str(error).partition(chr(10))[0]}; give another file to --heldout"
        ) from error
    _check(path, images, labels, built)
    planes = images if built.input == "uint8" else _normalised(images, built)
    return Heldout("/".join(path.parts[-2:]), sha256(path), planes, labels.astype(np.int64))


def answers(path: Path, heldout: Heldout) -> NDArray[np.int64]:
    """Return the class that an ONNX file names for each image."""
    session = open_session(path)
    starts = range(0, len(heldout.labels), BATCH)
    runs = (session.run([LOGITS], {IMAGE: heldout.images[start : start + BATCH]})[0] for start in starts)
    return np.concatenate([logits.argmax(axis=1) for logits in runs])


def accuracy(heldout: Heldout, answered: NDArray[np.int64], fp32: NDArray[np.int64]) -> Accuracy:
    """Return how often the answers are right, and how often they are those of the fp32 file."""
    return Accuracy(
        data=heldout.source,
        sha256=heldout.sha256,
        images=len(heldout.labels),
        batch=BATCH,
        top1=float((answered == heldout.labels).mean()),
        agreement=float((answered == fp32).mean()),
    )


def _check(path: Path, images: NDArray[Any], labels: NDArray[Any], built: Built) -> None:
    """Compare images and labels with the network.

    Raises:
        NetweightError: they are not its.
    """
    plain = built.preprocessing
    expected = (plain.height, plain.width, plain.channels)
    classes = len(built.class_names)
    if images.dtype != np.uint8 or images.shape[1:] != expected or labels.shape != (len(images),) or not len(images):
        raise NetweightError(
            f"{path}: expected images uint8 [N, {', '.join(map(str, expected))}] and as many labels, got images "
            f"{images.dtype} {list(images.shape)} and labels {list(labels.shape)}: give {built.architecture.name}'s own to "
            "--heldout"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise NetweightError(
            f"{path}: expected labels 0 to {classes - 1}, got {labels.min()} to {labels.max()}: give held-out images of "
            "the classes that the network was trained on to --heldout"
        )


def _normalised(images: NDArray[np.uint8], built: Built) -> NDArray[Any]:
    """Return pixels as a network takes them whose graph has no preprocessing."""
    with torch.inference_mode():
        return Pixels(built.preprocessing)(torch.from_numpy(images)).numpy()  # type: ignore[no-any-return]

"""Images that a quantised variant takes its ranges from: real ones, of the training part, never a held-out one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np

from models import data as data_sets
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    import onnx_ir
    from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "entropy"]
"""How the range of an activation follows from the values seen: all of them; all but the rarest; or that whose 128 steps
lose the least information (Kullback-Leibler)."""

METHODS: tuple[Method, ...] = get_args(Method)

RANDOM = "random"
"""The source of evenly spread pixels, which are no pictures."""

_HELDOUT = "heldout.npz"
"""What training leaves beside a checkpoint, and variants are measured on."""


@dataclass(frozen=True)
class Calibration:
    """Which images are taken, and how ranges follow from them; defaults were chosen on the digits (docs/variants.md)."""

    source: str
    """A data set as `models.data.load` names it, whose training part is used; an ``.npz`` file with `images` UINT8 [N,
    height, width, channels]; or `RANDOM`."""
    images: int = 128
    """At most."""
    seed: int = 0
    """Of the choice."""
    method: Method = "minmax"
    percentile: float = 99.99
    """Of the method of that name: the share of values, in percent, that lies within the range."""
    weight_bits: Literal[7, 8] = 8
    """How many of its eight bits a weight takes. On x86 without VNNI two products of eight bits are added in 16, which
    may overflow: seven are safe there, and twice as far from fp32."""


@dataclass(frozen=True)
class Target:
    """What a graph says of the images that it takes."""

    preprocessing: Preprocessing
    input: Literal["uint8", "float32"]
    trained: bool


@dataclass(frozen=True)
class Chosen:
    """Calibration images as a graph takes them."""

    images: NDArray[Any]
    """UINT8 [N, height, width, channels], or FP32 [N, channels, height, width] where the graph does not preprocess."""
    facts: dict[str, Any]
    """For the card: source, part, images, seed, SHA-256 of the images' bytes, whether they are real pictures."""


def choose(calibration: Calibration | None, target: Target) -> Chosen:
    """Load the calibration images of a graph.

    Raises:
        NetweightError: none were asked for, they cannot be had, do not fit, or may not be used for this.
    """
    if calibration is None:
        raise NetweightError(
            "int8 takes its ranges from real images and none were given: add --calibration digits, a directory with "
            f"train/CLASS/*, or a FILE.npz{'' if target.trained else ' (untrained weights also take: random)'}"
        )
    source, plain = calibration.source, target.preprocessing
    if source == RANDOM:
        pixels, part = _random(calibration, target), "none"
    elif source.endswith(".npz"):
        pixels, part = _file(Path(source), calibration), "file"
    else:
        pixels, part = _training(calibration, plain), "training"
    _check(source, pixels, plain)
    facts = {
        "source": Path(source).name,
        "part": part,
        "images": len(pixels),
        "seed": calibration.seed,
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "real": source != RANDOM,
    }
    return Chosen(as_input(pixels, target), facts)


def read_target(model: onnx_ir.Model) -> Target:
    """Read off a graph, and the metadata that the export wrote into it, which images it takes.

    Raises:
        NetweightError: the graph takes normalised tensors, and nothing says how pixels become them.
    """
    (image,) = model.graph.inputs
    assert image.shape is not None
    assert image.dtype is not None
    sides = [side for side in image.shape.dims[1:] if isinstance(side, int)]
    pixels = image.dtype.name == "UINT8"
    known = model.metadata_props.get("preprocessing")
    if known:
        values = {name: value for name, value in json.loads(known).items() if name != "input"}
        preprocessing = Preprocessing.from_dict(values)
    elif pixels:
        height, width, channels = sides
        preprocessing = Preprocessing(height, width, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    else:
        raise NetweightError(
            f"{image.name} takes normalised tensors and the file does not say how pixels become them: export it again"
        )
    trained = not model.metadata_props.get("weights", "").startswith("random")
    return Target(preprocessing, "uint8" if pixels else "float32", trained)


def as_input(pixels: NDArray[np.uint8], target: Target) -> NDArray[Any]:
    """Return pixels [N, height, width, channels] as the graph takes them: see `Chosen.images`."""
    if target.input == "uint8":
        return pixels
    mean, std = (np.asarray(each, np.float32) for each in (target.preprocessing.mean, target.preprocessing.std))
    normalised = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def _random(calibration: Calibration, target: Target) -> NDArray[np.uint8]:
    """Draw evenly spread pixels."""
    if target.trained:
        raise NetweightError(
            "trained weights are not calibrated on random pixels, whose ranges are no picture's: give --calibration "
            "digits, a directory with train/CLASS/*, or a FILE.npz"
        )
    plain = target.preprocessing
    shape = (calibration.images, plain.height, plain.width, plain.channels)
    return np.random.default_rng(calibration.seed).integers(0, 256, shape, dtype=np.uint8)


def _training(calibration: Calibration, plain: Preprocessing) -> NDArray[np.uint8]:
    """Take images of a data set's training part, shuffled by the seed."""
    data = data_sets.load(calibration.source, plain.channels, size=plain.height, like=plain)
    batches = data.training.batches(1, order_seed=calibration.seed)
    return np.concatenate([pixels.numpy() for pixels, _labels in islice(batches, calibration.images)])


def _file(path: Path, calibration: Calibration) -> NDArray[np.uint8]:
    """Take images of a file, chosen by the seed, in the file's order."""
    if path.name == _HELDOUT:
        raise NetweightError(
            f"{path} holds the held-out images, which the variant is measured on: calibrate on others, such as "
            "--calibration digits"
        )
    try:
        with np.load(path, allow_pickle=False) as content:
            pixels: NDArray[np.uint8] = content["images"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise NetweightError(
            f"{path} holds no calibration images: expected an .npz file with images UINT8 [N, height, width, channels], "
            f"but reading it failed with: {str(error).partition(chr(10))[0]}; give another file to --calibration"
        ) from error
    chosen = np.random.default_rng(calibration.seed).permutation(len(pixels))[: calibration.images]
    return pixels[np.sort(chosen)]


def _check(source: str, pixels: NDArray[Any], plain: Preprocessing) -> None:
    """Compare the images with what the network takes.

    Raises:
        NetweightError: there are none, or they have another datatype or shape.
    """
    expected = (plain.height, plain.width, plain.channels)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != expected or not len(pixels):
        raise NetweightError(
            f"{source} does not fit: expected images uint8 [N, {', '.join(map(str, expected))}], got {pixels.dtype} "
            f"{list(pixels.shape)}; give another --calibration"
        )

"""A file in, labels and probabilities out: what `netweight infer` asks of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from server.card import FORMATS
from server.errors import InvalidArgumentError
from server.tensors import NUMPY, Array, TensorSpec, show

if TYPE_CHECKING:
    from server.client import Client

MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for them."""


@dataclass(frozen=True)
class Answer:
    """One class, and how sure the model is of it."""

    index: int
    label: str
    score: float
    """The probability; the raw output where the model has no output of that name."""


def ask(client: Client, model: str, file: Path, *, version: str = "", top: int = 5) -> list[list[Answer]]:
    """Infer one file.

    Args:
        client: connected to the server.
        model: its name there; it takes one input.
        file: a picture in any format that Pillow reads, or a .npy array, with or without the batch dimension. JPEG and
            PNG go to the server as they are, if it decodes them for this model.
        version: empty for the newest.
        top: how many classes for each sample, the likeliest first.

    Returns:
        For each sample of the batch its classes.

    Raises:
        InvalidArgumentError: no such file, or it does not fit the model.
        ClientError: the server refused.
    """
    metadata = client.metadata(model, version)
    if len(metadata.inputs) != 1:
        raise InvalidArgumentError(f"model {model} takes {len(metadata.inputs)} inputs; expected a model with one")
    spec = metadata.inputs[0]
    array = _whole(client, model, version, file, spec)
    if array is None:
        array = read(file, spec)
    names = [output.name for output in metadata.outputs]
    output = "probabilities" if "probabilities" in names else names[0]
    answer = client.infer(model, {spec.name: array}, version=version, outputs=[output], classification=top)
    return [[_parse(item) for item in sample] for sample in answer.outputs[output]]


def read(file: Path, spec: TensorSpec) -> Array:
    """Return a file's content as the input takes it, batch dimension first.

    Raises:
        InvalidArgumentError: no such file, not a picture or an array, or of another shape than the input's.
    """
    if not file.is_file():
        raise InvalidArgumentError(f"there is no file {str(file)!r}; expected a picture or a .npy array")
    array = _read_array(file) if file.suffix == ".npy" else _read_picture(file, spec)[np.newaxis]
    if array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    if not spec.accepts(array.shape):
        raise InvalidArgumentError(
            f"{file.name} is an array of shape {show(array.shape)}; the model takes {spec}: reshape it, or send a picture"
        )
    return array.astype(NUMPY[spec.datatype], copy=False)


def _whole(client: Client, model: str, version: str, file: Path, spec: TensorSpec) -> Array | None:
    """Return a JPEG or PNG file as it is, BYTES [1], if the model takes it so."""
    if spec.datatype != "UINT8" or not file.is_file():
        return None
    with file.open("rb") as opened:
        begins = opened.read(8)
    formats = [name for name, signature in FORMATS.items() if begins.startswith(signature)]
    if not formats or formats[0] not in client.image_files(model, version):
        return None
    return np.array([file.read_bytes()], np.object_)


def _read_array(file: Path) -> Array:
    try:
        array: Array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidArgumentError(f"{file.name} is no .npy array ({error}): write it with numpy.save") from error
    return array


def _read_picture(file: Path, spec: TensorSpec) -> Array:
    """Return UINT8 [height, width, channels]: the shorter side scaled to the model's, the middle cut out."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if spec.datatype != "UINT8" or len(spec.shape) != 4 or spec.shape[3] not in MODES:
        raise InvalidArgumentError(
            f"the model takes {spec}, which no picture fits; send a .npy array, or export with --input uint8"
        )
    _, height, width, channels = spec.shape
    try:
        with Image.open(file) as picture:
            fitted = ImageOps.fit(picture.convert(MODES[channels]), (width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InvalidArgumentError(
            f"{file.name} is no picture that can be read ({error}): give a picture or a .npy array"
        ) from error
    return np.asarray(fitted).reshape(height, width, channels)


def _parse(item: bytes) -> Answer:
    score, index, *label = item.decode().split(":", 2)
    return Answer(int(index), label[0] if label else index, float(score))

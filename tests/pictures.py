"""Image files for tests, sound and hostile, and a model that answers with the pixels that it was given."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from PIL import Image

from tests import graphs

Pixels = npt.NDArray[np.uint8]
IMAGENET = {"height": 224, "width": 224, "channels": 3, "resize": 256, "interpolation": "bilinear"}
DIGITS = {"height": 32, "width": 32, "channels": 1, "resize": None, "interpolation": "bilinear"}


def noise(width: int, height: int, seed: int = 0) -> Pixels:
    """Return random pixels, UINT8 [height, width, 3]: the hardest picture to resize alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """Return pixels as a photograph has them: gradients, an edge, a little grain."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(9 * x + each) + np.cos(7 * y - each) + 1.5 * (x + y > 0.8) for each in range(3)]
    grain = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    picture: Pixels = (90 + 40 * np.stack(waves, axis=-1) + grain).clip(0, 255).astype(np.uint8)
    return picture


def encoded(pixels: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    """Return a file of these pixels; ``kind`` and the options are Pillow's."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, kind: int = 0, extra: bytes = b"") -> bytes:
    """Return a PNG written by hand.

    Args:
        width: of the header.
        height: of the header.
        rows: each with its filter's number in front.
        depth: bits of a sample.
        kind: 0 grey, 2 red, green, blue.
        extra: chunks before the pixels.
    """
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def grey_png(width: int, height: int) -> bytes:
    """Return a PNG of one grey: a small file that takes long to decode."""
    return png(width, height, bytes(width + 1) * height)


def stretched_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header says a size that its pixels have not."""
    file = bytearray(encoded(scene(16, 16), "JPEG"))
    at = file.index(b"\xff\xc0")
    file[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(file)


def echo(
    repository: Path, name: str, preprocessing: dict[str, Any] | None, config: str = "", *, batch: int | str = "batch"
) -> None:
    """Publish a model that answers ``y`` with the pixels ``image``, with a card beside it (None: without)."""
    shape = [(preprocessing or IMAGENET)[each] for each in ("height", "width", "channels")]
    graphs.save(
        repository / name / "1" / "model.onnx",
        [helper.make_node("Identity", ["image"], ["y"])],
        [("image", TensorProto.UINT8, [batch, *shape])],
        [("y", TensorProto.UINT8, [batch, *shape])],
    )
    if preprocessing is not None:
        (repository / name / "1" / "card.json").write_text(json.dumps({"preprocessing": preprocessing}))
    if config:
        (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")

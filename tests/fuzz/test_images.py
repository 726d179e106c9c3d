"""JPEG and PNG files that are spoilt, taken apart in process; that the server refuses them too is in test_infer.py."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server import images
from server.card import Preprocessing
from tests.fuzz.mutations import mutated

IN_PROCESS = settings(max_examples=5 * settings().max_examples)
MOST_PIXELS = 64 * 64
HOW = [
    Preprocessing(8, 8, 1, None, "bilinear"),
    Preprocessing(5, 7, 3, 9, "bicubic"),
    Preprocessing(16, 3, 3, 4, "nearest"),
]


@cache
def files() -> list[bytes]:
    """Return a small file of each kind: modes, depths, interlaced, progressive."""
    ramp = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    colours = Image.fromarray(ramp)
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 500)
    made: list[tuple[Image.Image, dict[str, object]]] = [
        (colours, {"format": "PNG"}),
        (colours.convert("P"), {"format": "PNG", "transparency": 3}),
        (colours.convert("RGBA"), {"format": "PNG"}),
        (colours.convert("1"), {"format": "PNG"}),
        (deep, {"format": "PNG"}),
        (colours, {"format": "JPEG"}),
        (colours.convert("L"), {"format": "JPEG", "progressive": True}),
        (colours.convert("CMYK"), {"format": "JPEG", "exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"}),
    ]
    written = []
    for picture, options in made:
        out = BytesIO()
        picture.save(out, **options)  # type: ignore[arg-type]  # whatever Pillow takes
        written.append(out.getvalue())
    return written


@IN_PROCESS
@given(st.sampled_from(files()).flatmap(mutated), st.sampled_from(HOW))
def test_any_file_becomes_pixels_or_is_refused(file: bytes, how: Preprocessing) -> None:
    """Whatever is in a file: pixels of the model's shape, or an ImageError; nothing else is raised, or warned of."""
    try:
        pixels = images.decode(file, how, MOST_PIXELS)
    except images.ImageError as error:
        refused = str(error)
        assert refused.isprintable(), refused
        return
    assert pixels.shape == how.shape
    assert pixels.dtype == np.uint8


@IN_PROCESS
@given(st.sampled_from((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"")), st.binary(max_size=200))
def test_any_bytes_become_pixels_or_are_refused(signature: bytes, rest: bytes) -> None:
    """Bytes that only begin like a file."""
    with contextlib.suppress(images.ImageError):
        images.decode(signature + rest, HOW[0], MOST_PIXELS)


def test_dimensions_are_refused_before_they_are_believed() -> None:
    """Headers that say any width and height cost no memory."""
    png = files()[0]
    tracemalloc.start()
    for width, height in ((2**31 - 1, 1), (1, 2**31 - 1), (65535, 65535), (2**31 - 1, 2**31 - 1), (0, 5)):
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:29]
        spoilt = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
        with pytest.raises(images.ImageError):
            images.decode(spoilt, HOW[0], MOST_PIXELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20

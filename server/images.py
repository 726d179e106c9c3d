"""A JPEG or PNG file becomes the pixels that a graph takes, as torchvision's transforms make them of it.

Pillow does the arithmetic, as it does for torchvision where that is handed a Pillow image: the pixels are equal, bit by
bit. Files are callers': whatever is in them must neither raise anything but `ImageError` nor take more than a bounded
amount of memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from server.card import FORMATS, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.tensors import Array

Room: TypeAlias = "Callable[[int], AbstractContextManager[None]]"
"""Waits until so many pixels may be decoded, and holds their place."""
LONGEST_SIDE = 65535
"""Pixels: what a JPEG's header can say. Pillow's tables for a resize are as long as a side."""
SCAN = b"\xff\xda"
MOST_SCANS = 50
"""Of a progressive JPEG, which commonly has ten: each costs a pass over the whole image and only a few bytes."""
MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for them."""

Image.MAX_IMAGE_PIXELS = None  # `decode` checks it, with the server's own bound, before a pixel is decoded


class ImageError(Exception):
    """A file cannot be decoded; the message goes on after the file's name: ``is empty``."""


def decode(file: bytes, how: Preprocessing, most_pixels: int, room: Room = lambda _: nullcontext()) -> Array:
    """Return a file's pixels: decoded, converted, resized and cropped.

    Colours are what the file's numbers say: an alpha channel and a colour profile are left out of account, and the
    image is not turned by its EXIF orientation. Grey is ITU-R 601-2 luma; 16 bits are cut to the upper 8.

    Args:
        file: a JPEG's or a PNG's bytes.
        how: the model's preprocessing.
        most_pixels: that the file, or what its resizing makes of it, may have.
        room: entered, with the number of pixels, while they are in memory.

    Returns:
        UINT8 [height, width, channels].

    Raises:
        ImageError: it is no such file, it is damaged, or has too many pixels.
    """
    if not file.startswith(tuple(FORMATS.values())):
        begins = f"begins with {file[:8]!r}" if file else "is empty"
        raise ImageError(f"is no JPEG or PNG file: it {begins}")
    if file.startswith(FORMATS["JPEG"]) and file.count(SCAN) > MOST_SCANS:
        raise ImageError(f"has {file.count(SCAN)} scans; expected at most {MOST_SCANS}")
    try:
        with Image.open(BytesIO(file), formats=tuple(FORMATS)) as picture:
            size = _resized(picture.size, how)
            pixels = _check(picture.size, size, most_pixels)
            with room(pixels), closing(picture):
                return _fit(_convert(picture, how.channels), size, how)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes Pillow raise
        reason = "its header is damaged" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(f"cannot be decoded: {' '.join(reason.split()) or type(error).__name__}") from error


def _resized(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """Return the width and height to resize to; the longer side is rounded down, as torchvision does."""
    if how.resize is None:
        return how.width, how.height
    width, height = size
    longer = how.resize * max(size) // min(size) if min(size) else 0
    return (how.resize, longer) if width <= height else (longer, how.resize)


def _check(size: tuple[int, int], resized: tuple[int, int], most_pixels: int) -> int:
    """Return how many pixels the largest of an image's stages has: it, its rows resized, all resized."""
    (width, height), (new_width, new_height) = size, resized
    if width * height > most_pixels or max(size) > LONGEST_SIDE:
        raise ImageError(
            f"has {width}x{height} pixels; expected at most {most_pixels} (--max-image-pixels), {LONGEST_SIDE} a side"
        )
    largest = max(width * height, new_width * height, new_width * new_height)
    if largest > most_pixels:
        raise ImageError(
            f"has {width}x{height} pixels, which to resize to {new_width}x{new_height} takes {largest}; expected at most "
            f"{most_pixels} (--max-image-pixels)"
        )
    return largest


def _convert(picture: Image.Image, channels: int) -> Image.Image:
    """Decode the pixels as grey or as red, green, blue."""
    picture.load()
    picture.info.pop("transparency", None)  # Pillow would convert it too, with a warning
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    mode = MODES[channels]
    return picture if picture.mode == mode else picture.convert(mode)


def _fit(picture: Image.Image, size: tuple[int, int], how: Preprocessing) -> Array:
    """Resize, then crop the centre; where there is less than that, black stands around it."""
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling[how.interpolation.upper()])
    left, top = _offset(picture.width, how.width), _offset(picture.height, how.height)
    if picture.size != (how.width, how.height):
        picture = picture.crop((left, top, left + how.width, top + how.height))
    return np.asarray(picture, np.uint8).reshape(how.shape)


def _offset(have: int, want: int) -> int:
    """Return where a crop begins, rounded as torchvision rounds it: to even, and down where it is outside."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)

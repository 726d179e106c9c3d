"""Files become the pixels that torchvision makes of them, whatever is in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

import models.torchvision_on_cpu  # noqa: F401  before torchvision
from server.card import Preprocessing
from server.images import LONGEST_SIDE, MOST_SCANS, ImageError, decode
from tests.pictures import (
    DIGITS,
    IMAGENET,
    Pixels,
    chunk,
    encoded,
    grey_png,
    noise,
    png,
    scene,
    stretched_jpeg,
)

from torchvision.transforms import InterpolationMode  # isort: skip
from torchvision.transforms import functional  # isort: skip

MOST_PIXELS = 4_000_000
TENSOR_TOLERANCE = {("bilinear", scene): 1, ("bilinear", noise): 1, ("bicubic", scene): 1, ("bicubic", noise): 24}
"""Levels of 255 between Pillow's resize and that of torchvision's tensors; docs/behaviour.md tells them."""
SIZES = [(500, 375), (375, 500), (224, 224), (256, 256), (257, 256), (640, 480), (225, 1001), (47, 33)]
HOWS = [
    IMAGENET,
    {**IMAGENET, "resize": 232, "interpolation": "bicubic"},
    {**IMAGENET, "interpolation": "nearest"},
    {**IMAGENET, "resize": 342, "height": 299, "width": 299},
    {**IMAGENET, "resize": None, "height": 64, "width": 96},
    {**IMAGENET, "resize": 50, "height": 63, "width": 72},
    DIGITS,
    {**DIGITS, "resize": 33},
]


@cache
def files(draw: Any) -> list[tuple[str, bytes]]:
    """Return files of these pictures, each as JPEG and as PNG."""
    pictures = [(size, draw(*size, seed)) for seed, size in enumerate(SIZES)]
    return [(f"{kind} {size}", encoded(picture, kind)) for size, picture in pictures for kind in ("JPEG", "PNG")]


def how(values: dict[str, Any]) -> Preprocessing:
    return Preprocessing(**values)


def fitted(picture: Any, values: dict[str, Any]) -> Any:
    """Return what torchvision's transforms make of a Pillow image, or of a tensor."""
    size = [values["resize"]] if values["resize"] else [values["height"], values["width"]]
    resized = functional.resize(picture, size, InterpolationMode(values["interpolation"]), antialias=True)
    return functional.center_crop(resized, [values["height"], values["width"]])


def by_torchvision(file: bytes, values: dict[str, Any]) -> Pixels:
    """Return UINT8 [height, width, channels] by torchvision's loader and transforms."""
    mode = "L" if values["channels"] == 1 else "RGB"
    pixels = functional.pil_to_tensor(fitted(Image.open(BytesIO(file)).convert(mode), values))
    return np.asarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("values", HOWS, ids=lambda values: "-".join(map(str, values.values())))
@pytest.mark.parametrize("draw", [noise, scene])
def test_pixels_are_torchvisions(values: dict[str, Any], draw: Any) -> None:
    """JPEG and PNG files of many sizes become exactly the pixels that torchvision's transforms make of Pillow images."""
    for name, file in files(draw):
        found = decode(file, how(values), MOST_PIXELS)
        assert found.dtype == np.uint8
        assert found.shape == (values["height"], values["width"], values["channels"])
        np.testing.assert_array_equal(found, by_torchvision(file, values), err_msg=name)


@pytest.mark.parametrize(("interpolation", "draw"), TENSOR_TOLERANCE)
def test_torchvisions_tensors_are_near(interpolation: str, draw: Any) -> None:
    """Its tensors, which it resizes by other arithmetic, differ by no more than the documented levels."""
    values = {**IMAGENET, "interpolation": interpolation}
    for seed, size in enumerate(SIZES):
        picture = draw(*size, seed)
        tensor = functional.pil_to_tensor(Image.fromarray(picture))
        expected = fitted(tensor, values).permute(1, 2, 0).numpy().astype(int)
        found = decode(encoded(picture, "PNG"), how(values), MOST_PIXELS).astype(int)
        difference = np.abs(found - expected)
        assert difference.max() <= TENSOR_TOLERANCE[interpolation, draw]
        assert difference.mean() <= 0.28


def transparent_palette() -> Image.Image:
    picture = Image.fromarray(scene(60, 40)).quantize(32)
    picture.info["transparency"] = bytes(range(0, 256, 8))
    return picture


MODES = {
    "grey": Image.fromarray(scene(60, 40)).convert("L"),
    "grey and alpha": Image.fromarray(scene(60, 40)).convert("LA"),
    "alpha": Image.fromarray(np.dstack([scene(60, 40), noise(60, 40)[:, :, :1]])),
    "palette": Image.fromarray(scene(60, 40)).quantize(16),
    "palette with transparency": transparent_palette(),
    "one bit": Image.fromarray(scene(60, 40)).convert("1"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", [IMAGENET, DIGITS], ids=["colour", "grey"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of Pillow, where the test itself converts
def test_other_modes_are_converted(mode: str, values: dict[str, Any]) -> None:
    """Grey, palettes, alpha and single bits become colours, or grey, as Pillow converts them: alpha is left out."""
    file = encoded(MODES[mode], "PNG")
    np.testing.assert_array_equal(decode(file, how(values), MOST_PIXELS), by_torchvision(file, values))


@pytest.mark.parametrize("values", [IMAGENET, DIGITS], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["CMYK", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_other_jpegs(values: dict[str, Any], mode: str, progressive: bool) -> None:
    """JPEGs of four inks, or of one grey, and progressive ones."""
    file = encoded(Image.fromarray(scene(60, 40)).convert(mode), "JPEG", progressive=progressive)
    np.testing.assert_array_equal(decode(file, how(values), MOST_PIXELS), by_torchvision(file, values))


@pytest.mark.parametrize("kind", [0, 2], ids=["grey", "colour"])
def test_sixteen_bits_are_cut_to_the_upper_eight(kind: int) -> None:
    """Of 16 bits the upper 8 are taken, of grey too, which Pillow would cut off at 255."""
    samples = 3 if kind == 2 else 1
    deep = np.random.default_rng(0).integers(0, 2**16, (32, 32, samples), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    found = decode(png(32, 32, rows, depth=16, kind=kind), how({**DIGITS, "channels": 3}), MOST_PIXELS)
    np.testing.assert_array_equal(found, np.broadcast_to((deep >> 8).astype(np.uint8), (32, 32, 3)))


def test_orientation_is_not_applied() -> None:
    """An image that its EXIF says to turn is not turned, as torchvision does not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = encoded(scene(60, 40), "JPEG", exif=exif), encoded(scene(60, 40), "JPEG")
    assert turned != plain
    np.testing.assert_array_equal(decode(turned, how(IMAGENET), MOST_PIXELS), decode(plain, how(IMAGENET), MOST_PIXELS))


@pytest.mark.parametrize("kind", ["PNG", "MPO"])
def test_of_several_pictures_the_first_is_taken(kind: str) -> None:
    """Of an animated PNG, and of a JPEG with more pictures behind it, as phones write them, the first one counts."""
    first, second = (Image.fromarray(scene(60, 40, seed)) for seed in (0, 1))
    file = encoded(first, kind, save_all=True, append_images=[second])
    alone = encoded(first, kind.replace("MPO", "JPEG"))
    assert len(file) > len(alone)
    np.testing.assert_array_equal(decode(file, how(IMAGENET), MOST_PIXELS), decode(alone, how(IMAGENET), MOST_PIXELS))


def text_bomb() -> bytes:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**24)))
    return png(8, 8, bytes(9) * 8, extra=text)


JPEG, PNG = encoded(scene(90, 70), "JPEG"), encoded(scene(90, 70), "PNG")
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
HOSTILE = {
    "empty": (b"", "is no JPEG or PNG file: it is empty"),
    "text": (b"not\na picture", r"is no JPEG or PNG file: it begins with b'not\\na pi'"),
    "GIF": (encoded(scene(9, 9), "GIF"), "is no JPEG or PNG file: it begins with b'GIF8"),
    "BMP": (encoded(scene(9, 9), "BMP"), "is no JPEG or PNG file"),
    "TIFF": (encoded(scene(9, 9), "TIFF"), "is no JPEG or PNG file"),
    "WebP": (encoded(scene(9, 9), "WEBP"), "is no JPEG or PNG file"),
    "signatures": (JPEG[:3], "cannot be decoded"),
    "signature of PNG": (PNG[:8], "cannot be decoded"),
    "no pixels": (PNG[:40], "cannot be decoded"),
    "zero size": (png(0, 5, b""), "cannot be decoded"),
    "bad checksum": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "cannot be decoded"),
    "bomb": (grey_png(3000, 3000), f"has 3000x3000 pixels; expected at most {MOST_PIXELS}"),
    "bomb of a header": (png(2**31 - 1, 2**31 - 1, b""), "has 2147483647x2147483647 pixels"),
    "bomb of a JPEG": (stretched_jpeg(65500, 65500), "has 65500x65500 pixels"),
    "too long a side": (grey_png(LONGEST_SIDE + 1, 1), f"{LONGEST_SIDE} a side"),
    "too thin": (grey_png(1, 9000), r"has 1x9000 pixels, which to resize to 256x2304000 takes 589824000"),
    "bomb of text": (text_bomb(), "cannot be decoded: Decompressed data too large"),
    "many scans": (JPEG[:-2] + SCAN * MOST_SCANS + JPEG[-2:], f"has {MOST_SCANS + 1} scans; expected at most"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    """Each is refused in one line that says what is wrong with it."""
    file, reason = HOSTILE[name]
    with pytest.raises(ImageError, match=reason) as caught:
        decode(file, how(IMAGENET), MOST_PIXELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [JPEG, PNG, encoded(scene(90, 70), "JPEG", progressive=True)])
def test_a_cut_file_is_refused(file: bytes) -> None:
    """A file that ends early is refused wherever it was cut, but for the bytes behind the pixels."""
    for length in range(0, len(file) - 20, 37):
        with pytest.raises(ImageError):
            decode(file[:length], how(IMAGENET), MOST_PIXELS)


@pytest.mark.parametrize("file", [JPEG, PNG], ids=["JPEG", "PNG"])
def test_damaged_files_raise_nothing_else(file: bytes) -> None:
    """Whatever bytes are changed, there are pixels or an ImageError."""
    generator = np.random.default_rng(0)
    outcomes = {outcome(damaged(file, generator)) for _ in range(300)}
    assert ImageError in outcomes
    assert outcomes <= {(32, 32, 1), ImageError}


def damaged(file: bytes, generator: np.random.Generator) -> bytes:
    """Return a file three bytes of which are others."""
    changed = bytearray(file)
    for at in generator.integers(0, len(file), 3):
        changed[at] = generator.integers(256)
    return bytes(changed)


def outcome(file: bytes) -> Any:
    try:
        return decode(file, how(DIGITS), MOST_PIXELS).shape
    except ImageError:
        return ImageError


def test_room_is_held_for_the_largest_stage() -> None:
    """While pixels are in memory, room is held for as many as the largest of the stages has."""
    held: list[int] = []

    @contextmanager
    def room(pixels: int) -> Iterator[None]:
        held.append(pixels)
        yield
        held.append(0)

    decode(grey_png(1000, 500), how(IMAGENET), MOST_PIXELS, room)
    decode(grey_png(10, 20), how(IMAGENET), MOST_PIXELS, room)
    assert held == [500_000, 0, 256 * 512, 0]

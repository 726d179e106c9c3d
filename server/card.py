"""A version's card.json, and what it says of images: how a file becomes the pixels that the graph takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from pathlib import Path

FILE = "card.json"
FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
"""Of the files that become pixels, as Pillow names them, and how they begin."""
MOST_BYTES = 4 * 2**20
"""Of a card that is read; a network of a thousand layers has one of about 300 kB."""
Interpolation = Literal["bilinear", "bicubic", "nearest"]


@dataclass(frozen=True)
class Preprocessing:
    """The part of a card's ``preprocessing`` that comes before the graph; scaling and normalising are inside it."""

    height: int
    """Pixels, as the graph takes them."""
    width: int
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    resize: int | None
    """The shorter side is resized to this many pixels, then the centre is cropped; None: straight to height x width."""
    interpolation: Interpolation

    @property
    def shape(self) -> tuple[int, int, int]:
        """The pixels' shape."""
        return self.height, self.width, self.channels


def content(directory: Path) -> dict[str, Any]:
    """Return what the card in a version's directory holds; nothing where there is none, or none that can be read.

    Args:
        directory: the version's.
    """
    path = directory / FILE
    if not path.is_file():  # a pipe would never end
        return {}
    try:
        with path.open("rb") as file:
            written = file.read(MOST_BYTES + 1)
        values = json.loads(written) if len(written) <= MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def preprocessing(directory: Path) -> Preprocessing | str:
    """Return what the card in a version's directory says of images; in words, why it says nothing.

    Args:
        directory: the version's.
    """
    if not (directory / FILE).is_file():
        return f"there is no {FILE} beside the model to tell how"
    written = content(directory)
    if "preprocessing" not in written:
        return f"its {FILE} has no preprocessing to tell how"
    values = written["preprocessing"]
    try:
        found = Preprocessing(
            _side(values, "height"),
            _side(values, "width"),
            _one_of(values, "channels", (1, 3)),
            None if values["resize"] is None else _side(values, "resize"),
            _one_of(values, "interpolation", get_args(Interpolation)),
        )
    except (KeyError, TypeError, ValueError) as error:
        return f"the preprocessing in its {FILE} does not tell how ({type(error).__name__}: {error})"
    return found


def _side(values: dict[str, Any], name: str) -> int:
    return int(_one_of(values, name, range(1, 2**16)))


def _one_of(values: dict[str, Any], name: str, expected: range | tuple[Any, ...]) -> Any:
    value = values[name]
    if isinstance(value, bool) or value not in expected:
        raise ValueError(f"{name} is {value!r}")
    return value

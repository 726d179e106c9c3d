"""The records that describe a network: what it is, what it expects, where its weights come from. Stdlib only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


class NetweightError(Exception):
    """A failure that the user can mend; its message is one line: what, expected, got, how to mend."""


@dataclass(frozen=True)
class Preprocessing:
    """What stands between the pixels of an image and a network's first layer.

    Pixels (UINT8, 0..255) are scaled to 0..1, then normalised channel by channel: ``(x / 255 - mean) / std``.
    """

    height: int
    """Pixels, as the network takes them."""
    width: int
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    """The shorter side is resized to this many pixels, then the centre is cropped; None: straight to height x width."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on the built-in digits (or any small data set) unless the user says otherwise."""

    epochs: int
    learning_rate: float
    """The peak of the one-cycle schedule."""
    batch_size: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["onecycle"] = "onecycle"
    initialization: Literal["default", "kaiming"] = "default"
    shift_pixels: int = 0
    """Training images are moved by up to this many pixels, anew each time, so that few images go further."""


@dataclass(frozen=True)
class Published:
    """Figures printed elsewhere: shown as published, never mixed with what was measured here."""

    top1_percent: float
    top5_percent: float | None
    """None: not told there."""
    data: str
    source: str


@dataclass(frozen=True)
class Architecture:
    """One network of the catalogue."""

    name: str
    """torchvision's name where it has the network."""
    title: str
    """The paper's name for it, for tables and plots."""
    family: str
    year: int
    builder: str
    """``module:function`` that takes ``num_classes`` and returns an `torch.nn.Module`."""
    parameters: int
    """Of the deployed network (no auxiliary heads) with `classes` classes; a test counts them again."""
    preprocessing: Preprocessing
    classes: int = 1000
    small_image_adaptation: str | None = None
    """What `models.build` changes for images below 64 pixels, in words; None: nothing is changed."""
    recipe: Recipe | None = None
    published: tuple[Published, ...] = field(default=())


@dataclass(frozen=True)
class Weights:
    """Where a network's weights come from."""

    kind: Literal["random", "checkpoint", "published"]
    source: str
    """``seed 0``, a file's name, or torchvision's name for published weights."""
    sha256: str | None = None
    """Of the checkpoint file."""
    bytes: int | None = None
    """Of the checkpoint file."""

    @property
    def trained(self) -> bool:
        """Whether these weights were ever trained: random ones never were."""
        return self.kind != "random"

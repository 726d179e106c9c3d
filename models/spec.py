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
    """How a network is trained; a network's record holds the one for the built-in digits."""

    epochs: int
    learning_rate: float
    """The first one; the peak of the one-cycle schedule."""
    batch_size: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.0
    schedule: Literal["onecycle", "cosine", "steps", "plateau"] = "onecycle"
    milestones: tuple[int, ...] = ()
    """Of steps: the rate is multiplied by `decay` after each of these epochs."""
    decay: float = 0.1
    """Of steps and plateau."""
    patience: int = 3
    """Of plateau: epochs that the validation loss may go without falling."""
    initialization: Literal["default", "kaiming", "xavier"] = "default"
    label_smoothing: float = 0.0
    """0..1: the share of the target that is spread over all classes (Szegedy et al. 2015, section 7)."""
    auxiliary_weight: float = 0.3
    """Of each auxiliary head's loss (Szegedy et al. 2014, section 5); networks without such heads ignore it."""
    freeze_epochs: int = 0
    """Of transfer: the first epochs, in which only the head is trained."""
    early_stop: int = 0
    """Epochs that the validation loss may go without falling before training ends; 0: it never ends early."""
    augmentation: Literal["none", "shift", "standard"] = "none"
    """``shift``: images are moved by up to `shift_pixels`; ``standard``: a random crop, scaled, and flipped."""
    shift_pixels: int = 0
    """Training images are moved by up to this many pixels, anew each time, so that few images go further."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """``auto``: bf16 (fp16 where there is none) mixed with fp32 on a GPU, fp32 on a CPU."""


@dataclass(frozen=True)
class Published:
    """Figures printed elsewhere: shown as published, never mixed with what was measured here."""

    top1_percent: float
    top5_percent: float | None
    """None: not told there."""
    data: str
    source: str


@dataclass(frozen=True)
class Edit:
    """One change to a module inside a network, by which it takes small images."""

    module: str
    """Its dotted name, such as ``features.0``."""
    attribute: str | None = None
    """Which attribute is set; None: the whole module is replaced by `torch.nn.Identity`."""
    value: Any = None


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
    multiply_accumulates: int = 0
    """Of the deployed network for one image of `preprocessing`'s size; a test counts them again."""
    classes: int = 1000
    options: tuple[tuple[str, Any], ...] = ()
    """Further keyword arguments of the builder."""
    small_image_adaptation: str | None = None
    """What `small_image_edits` change for images below 64 pixels, in words; None: nothing is changed."""
    small_image_edits: tuple[Edit, ...] = ()
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

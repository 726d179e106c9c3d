"""The records that describe a network: what it is, what it expects, where its weights come from. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints


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


def option(
    said: str, default: Any = MISSING, *, least: float = 0, most: float = math.inf, only: tuple[str, ...] = ()
) -> Any:
    """Declare a field of `Recipe`, once for the record and for `netweight train`.

    Args:
        said: What it is, in words, for the docstring's reader and the command's.
        default: None given: the field must be.
        least: The smallest number that is taken.
        most: The largest.
        only: A field's name and the values of it with which this one has an effect.
    """
    return field(default=default, metadata={"said": said, "least": least, "most": most, "only": only})


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; a network's record holds the one for the built-in digits.

    Raises:
        NetweightError: a word that is none of the choices, a number out of its range, milestones that do not rise.
    """

    epochs: int = option("Passes over the training images.", least=1)
    learning_rate: float = option("The first one; of onecycle and cosine the highest.")
    batch_size: int = option("Images in a step.", 32, least=1)
    optimizer: Literal["adam", "sgd"] = option("What takes the steps.", "adam")
    momentum: float = option(
        "Of sgd: the share of the last step that is taken again.", 0.9, most=1, only=("optimizer", "sgd")
    )
    weight_decay: float = option("L2 penalty on all weights.", 0.0)
    schedule: Literal["onecycle", "cosine", "steps", "plateau"] = option("How the learning rate goes on.", "onecycle")
    milestones: tuple[int, ...] = option(
        "Of steps: the rate is multiplied by the decay after each of these epochs, such as 40,100.",
        (),
        least=1,
        only=("schedule", "steps"),
    )
    decay: float = option("Of steps and plateau: the factor.", 0.1, most=1, only=("schedule", "steps", "plateau"))
    patience: int = option(
        "Of plateau: epochs that the validation loss may go without falling.", 3, only=("schedule", "plateau")
    )
    initialization: Literal["default", "kaiming", "xavier"] = option("How the first weights are drawn.", "default")
    label_smoothing: float = option(
        "The share of the target that is spread over all classes (Szegedy et al. 2015, section 7).", 0.0, most=1
    )
    auxiliary_weight: float = option(
        "Of each auxiliary head's loss (Szegedy et al. 2014, section 5), in networks that have such heads.", 0.3
    )
    freeze_epochs: int = option("Of --transfer: the first epochs, in which only the head is trained.", 0)
    early_stop: int = option(
        "Epochs that the validation loss may go without falling before training ends; 0: it never ends early.", 0
    )
    augmentation: Literal["none", "shift", "standard"] = option(
        "shift: images are moved by up to --shift-pixels; standard: a random crop, scaled, and flipped.", "none"
    )
    shift_pixels: int = option(
        "Of shift: images are moved by up to this many pixels, anew each time.", 0, only=("augmentation", "shift")
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "Mixed with fp32 unless it is that; auto: bf16 (fp16 where there is none) on a GPU, fp32 on a CPU.", "auto"
    )

    def __post_init__(self) -> None:
        """Check every field against what it declares."""
        hints = get_type_hints(Recipe)
        for each in fields(self):
            _check(each.name, getattr(self, each.name), get_args(hints[each.name]), each.metadata)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise NetweightError(f"milestones must rise, got {','.join(map(str, self.milestones))}")
        if self.schedule == "steps" and not self.milestones:
            raise NetweightError(
                "schedule steps needs milestones, the epochs after which the rate falls, such as 40,100"
            )


def _check(name: str, value: Any, choices: tuple[Any, ...], limits: Mapping[str, Any]) -> None:
    """Make sure that one field of a recipe is among its choices, and its numbers within their limits."""
    words = name.replace("_", " ")
    if isinstance(value, str):
        if value not in choices:
            raise NetweightError(f"unknown {words} {value!r}: expected {', '.join(choices)}")
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not limits["least"] <= number <= limits["most"]:
            most = "" if limits["most"] == math.inf else f" and at most {limits['most']}"
            raise NetweightError(f"{words} must be at least {limits['least']}{most}, got {number}")


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
    year: int | None
    """None: not told, of networks that are not in the catalogue."""
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
    auxiliary_heads: tuple[str, ...] = ()
    """The attributes that hold them in the network; they help to train, and the deployed network has none."""
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

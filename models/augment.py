"""Augmentation: training images are varied anew in each epoch, so that few go further.

What happens to an image depends on the epoch's seed and the image's index alone: not on the batch it is in, nor on the
process that reads it. So an epoch that is repeated is the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import models.torchvision_on_cpu  # noqa: F401

# isort: split
from torchvision.transforms import v2

from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.spec import Preprocessing, Recipe

_SHIFT_STREAM = 1
"""Keeps the shifts' random numbers apart from those that order the images, which have the same seed."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied."""

    kind: Literal["shift", "standard"]
    """``shift``: moved; ``standard``: as `jitter` does for the digits, as `crop_and_flip` does for a folder."""
    shift_pixels: int = 0


def of(recipe: Recipe) -> Augmentation | None:
    """Return what a recipe asks for, None for ``none``.

    Raises:
        NetweightError: ``shift`` by no pixel.
    """
    if recipe.augmentation == "none":
        return None
    if recipe.augmentation == "shift" and recipe.shift_pixels < 1:
        raise NetweightError(
            f"augmentation 'shift' moves images by 1 pixel or more, got {recipe.shift_pixels}: give --shift-pixels"
        )
    return Augmentation(recipe.augmentation, recipe.shift_pixels if recipe.augmentation == "shift" else 0)


def offsets(count: int, most: int, order_seed: int) -> Tensor:
    """Draw how far each of `count` images is moved in an epoch: INT64 [count, 2], down and right, 0..2 * most."""
    generator = torch.Generator().manual_seed(_mixed(order_seed, _SHIFT_STREAM))
    return torch.randint(0, 2 * most + 1, (count, 2), generator=generator)


def shift(pixels: Tensor, offset: Tensor, most: int) -> Tensor:
    """Move each image by up to `most` pixels in each direction; zeros come in at the edges.

    Args:
        pixels: UINT8 [batch, height, width, channels].
        offset: INT64 [batch, 2]: down and right, 0..2 * most, where `most` leaves an image in its place.
        most: Pixels.

    Returns:
        UINT8 of the same shape.
    """
    batch, height, width, _ = pixels.shape
    padded = functional.pad(pixels, (0, 0, most, most, most, most))
    rows = (2 * most - offset[:, :1] + torch.arange(height))[:, :, None]
    columns = (2 * most - offset[:, 1:] + torch.arange(width))[:, None, :]
    return padded[torch.arange(batch)[:, None, None], rows, columns]


def jitter() -> Callable[[Any], Any]:
    """Return what varies a small picture whose meaning a flip would change: it is turned, moved and scaled a little.

    By up to 10 degrees, a tenth of its side, and a tenth of its size.
    """
    transform: Callable[[Any], Any] = v2.RandomAffine(
        degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR
    )
    return transform


def crop_and_flip(preprocessing: Preprocessing) -> Callable[[Any], Any]:
    """Return what varies a photograph: a random crop, scaled to the network's size, in half the cases flipped.

    The crop has 8 to 100 % of the area and sides of 3:4 to 4:3 (Szegedy et al. 2014, section 6).
    """
    transform: Callable[[Any], Any] = v2.Compose(
        [
            v2.RandomResizedCrop(
                (preprocessing.height, preprocessing.width),
                interpolation=v2.InterpolationMode(preprocessing.interpolation),
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    return transform


def vary(transform: Callable[[Any], Any], image: Any, order_seed: int, index: int) -> Any:
    """Return the transform's image, drawn from the epoch's seed and the image's index; torch's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_mixed(order_seed, index))
        return transform(image)


def _mixed(*numbers: int) -> int:
    """Return one seed of several, so that neighbours share nothing."""
    entropy = [number % 2**64 for number in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

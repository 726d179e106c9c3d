"""Images in batches: the same for those that are held in memory and those that are read from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from models import augment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from models.augment import Augmentation


class Part(Protocol):
    """One part of a data set: images with their labels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N], indices of the class names."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def batches(
        self, batch_size: int, *, order_seed: int | None = None, augmentation: Augmentation | None = None
    ) -> Batches:
        """Return the images in batches: as they stand, or shuffled, whole batches only, and varied."""

    def only(self, indices: NDArray[np.int64]) -> Part:
        """Return a part of these images alone."""


class Source(Protocol):
    """What `Batches` takes its pixels from."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N], indices of the class names."""

    def read(self, batches: Sequence[Tensor], varied_by: int | None) -> Iterator[Tensor]:
        """Yield UINT8 [batch, height, width, channels] for the indices, INT64 [batch], of each batch.

        `varied_by`: the epoch's seed for augmentation ``standard``; None: the images as they are.
        """


class Batches:
    """Passes over images, always in the same order.

    Yields UINT8 [batch, height, width, channels] and INT64 [batch].
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        order_seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._source = source
        self._labels = torch.from_numpy(source.labels)
        self._batch_size = min(batch_size, len(self._labels))
        self._order_seed = order_seed
        self._augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, rest = divmod(len(self._labels), self._batch_size)
        return whole + int(rest > 0 and self._order_seed is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images, in an order that depends on nothing but the seed."""
        order = self._order()
        chosen = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)][
            : len(self)
        ]
        standard = self._augmentation is not None and self._augmentation.kind == "standard"
        most = self._augmentation.shift_pixels if self._augmentation else 0
        seed = self._order_seed or 0
        offsets = augment.offsets(len(self._labels), most, seed) if most else None
        for indices, pixels in zip(chosen, self._source.read(chosen, seed if standard else None), strict=True):
            moved = pixels if offsets is None else augment.shift(pixels, offsets[indices], most)
            yield moved, self._labels[indices]

    def _order(self) -> Tensor:
        """Return the indices of the images in the order of this pass."""
        if self._order_seed is None:
            return torch.arange(len(self._labels))
        return torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(self._order_seed))


@dataclass(frozen=True)
class Images:
    """Images in memory, with their labels."""

    pixels: NDArray[np.uint8]
    """[N, height, width, channels], 0..255."""
    labels: NDArray[np.int64]
    """[N], indices of the class names."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def batches(
        self, batch_size: int, *, order_seed: int | None = None, augmentation: Augmentation | None = None
    ) -> Batches:
        """Return them in batches; ``standard`` turns, moves and scales them a little, and never flips them."""
        return Batches(self, batch_size, order_seed, augmentation)

    def only(self, indices: NDArray[np.int64]) -> Images:
        """Return these images alone."""
        return Images(self.pixels[indices], self.labels[indices])

    def read(self, batches: Sequence[Tensor], varied_by: int | None) -> Iterator[Tensor]:
        """Yield the pixels of each batch."""
        pixels = torch.from_numpy(self.pixels)
        jitter = augment.jitter()
        for indices in batches:
            chosen = pixels[indices]
            if varied_by is not None:
                for image, index in zip(chosen, indices.tolist(), strict=True):
                    image[:] = augment.vary(jitter, image.permute(2, 0, 1), varied_by, index).permute(1, 2, 0)
            yield chosen

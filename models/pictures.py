"""Pictures in files: read, resized and cropped when they are asked for, so that there may be more than memory holds."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models import augment, scan
from models.batches import Batches, Images
from models.environment import usable_cores
from models.spec import NetweightError

# isort: split
from torchvision.transforms import v2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from models.augment import Augmentation
    from models.spec import Preprocessing

_MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for them."""
_WORTH_A_PROCESS = 32
"""Pictures; to start a process that reads takes about as long as to read these."""
_HELD_TOGETHER = 128


class Pictures:
    """One part of a data set, in files."""

    def __init__(
        self,
        paths: NDArray[np.bytes_],
        labels: NDArray[np.int64],
        preprocessing: Preprocessing,
        *,
        hold: bool,
    ) -> None:
        """Store.

        Args:
            paths: [N], in the file system's bytes: an array, which processes share, where they would copy a list.
            labels: [N], indices of the class names.
            preprocessing: How a picture becomes an image; its mean and deviation play no part.
            hold: Whether to keep the images in memory once they were read; varied ones are read anew.
        """
        self._paths = paths
        self.labels = labels
        self._preprocessing = preprocessing
        self._hold = hold

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.labels)

    def batches(
        self, batch_size: int, *, order_seed: int | None = None, augmentation: Augmentation | None = None
    ) -> Batches:
        """Return them in batches; ``standard`` takes a random crop of a picture and may flip it."""
        return Batches(self, batch_size, order_seed, augmentation)

    def only(self, indices: NDArray[np.int64]) -> Pictures:
        """Return these pictures alone."""
        return Pictures(self._paths[indices], self.labels[indices], self._preprocessing, hold=self._hold)

    def read(self, batches: Sequence[Tensor], varied_by: int | None) -> Iterator[Tensor]:
        """Yield the pixels of each batch."""
        if varied_by is None and self._hold:
            return self._held.read(batches, None)
        return self._decode(batches, varied_by)

    def _decode(self, batches: Sequence[Tensor], varied_by: int | None) -> Iterator[Tensor]:
        """Read files in processes of their own, which end with the pass."""
        loader = DataLoader(
            _Files(self._paths, self._preprocessing),
            batch_sampler=([(index, varied_by) for index in batch.tolist()] for batch in batches),
            num_workers=min(usable_cores(), len(self) // _WORTH_A_PROCESS),
            generator=torch.Generator(),  # else each pass would draw from torch's own, which dropout draws from
        )
        try:
            yield from loader
        except NetweightError as failure:  # another process's comes with its trace, at whose end its line stands
            raise NetweightError(str(failure).strip().rpartition("NetweightError: ")[2]) from None

    @cached_property
    def _held(self) -> Images:
        """Read all, to keep."""
        starts = range(0, len(self), _HELD_TOGETHER)
        every = [torch.arange(start, min(start + _HELD_TOGETHER, len(self))) for start in starts]
        return Images(np.concatenate([pixels.numpy() for pixels in self._decode(every, None)]), self.labels)


class _Files(Dataset[Tensor]):
    """What a process that reads pictures holds."""

    def __init__(self, paths: NDArray[np.bytes_], preprocessing: Preprocessing) -> None:
        self._paths = paths
        self._channels = preprocessing.channels
        self._fit = fit(preprocessing)
        self._crop_and_flip = augment.crop_and_flip(preprocessing)

    def __getitem__(self, wanted: tuple[int, int | None]) -> Tensor:
        """Return UINT8 [height, width, channels] of the picture with this index, varied by this seed or not."""
        index, varied_by = wanted
        path = os.fsdecode(self._paths[index])
        try:
            picture = read(path, self._channels)
        except Exception as failure:
            raise NetweightError(f"{path!a} cannot be read any more ({scan.reason(failure)}): put it back") from failure
        if varied_by is None:
            return _pixels(self._fit(picture))
        return _pixels(augment.vary(self._crop_and_flip, picture, varied_by, index))


def read(path: str, channels: int) -> Image.Image:
    """Decode a file as grey or as red, green, blue: as the server decodes what it is sent.

    An alpha channel and a colour profile are left out of account, and the picture is not turned by its EXIF
    orientation. 16 bits are cut to the upper 8.
    """
    with Image.open(path) as file:
        file.load()
        file.info.pop("transparency", None)  # Pillow would convert it too, with a warning
        picture: Image.Image = file
        if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture.convert(_MODES[channels])


def fit(preprocessing: Preprocessing) -> Callable[[Any], Any]:
    """Return what resizes a picture and crops its centre."""
    size = (preprocessing.height, preprocessing.width)
    interpolation = v2.InterpolationMode(preprocessing.interpolation)
    transform: Callable[[Any], Any] = v2.Compose(
        [v2.Resize(preprocessing.resize or size, interpolation=interpolation), v2.CenterCrop(size)]
    )
    return transform


def _pixels(picture: Image.Image) -> Tensor:
    """Return UINT8 [height, width, channels]."""
    return torch.from_numpy(np.array(picture).reshape(picture.height, picture.width, -1))

"""What a model answers on held-out images, asked through the server."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compare.images import HeldOut, read_held_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compare.images import InputTensor
    from server.client import Client

BATCH_SIZES = (1, 8, 1, 16)
"""Images in each request, in turn; sizes not below a model's max batch size are left out."""


def held_out_path(template: str | None, model: str, reference: str | None) -> Path | None:
    """Return a model's held-out images, or its reference's, which are the same; None where there are none."""
    if template is None:
        return None
    names = [model, *([reference] if reference else [])]
    paths = (Path(template.replace("{model}", name)) for name in names)
    return next((path for path in paths if path.is_file()), None)


class HeldOutFiles:
    """Held-out images by their file, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, HeldOut] = {}

    def of(self, path: Path) -> HeldOut:
        """Return the images and labels of a file."""
        if path not in self._read:
            self._read[path] = read_held_out(path)
        return self._read[path]


def predictions(client: Client, tensor: InputTensor, images: NDArray[Any], max_batch_size: int) -> NDArray[np.int64]:
    """Send every image once, single ones and batches in turn, and return the class answered first for each: [count]."""
    sizes = cycle([size for size in BATCH_SIZES if size < max_batch_size] or [1])
    answered = []
    start = 0
    while start < len(images):
        stop = start + next(sizes)
        outputs = client.infer(tensor.model, {tensor.name: images[start:stop]}).outputs
        scores = outputs.get("probabilities", next(iter(outputs.values())))
        answered.append(np.argmax(scores, axis=1))
        start = stop
    return np.concatenate(answered).astype(np.int64)

"""models/batches.py: images in batches, in order or shuffled."""

from __future__ import annotations

import numpy as np
import torch

from models.augment import Augmentation
from models.batches import Images

TEN = Images(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10))


def test_batches_are_whole_and_seeded() -> None:
    """Shuffled batches are whole and follow their seed; in order, every image comes once."""
    shuffled = [[labels.tolist() for _, labels in TEN.batches(4, order_seed=seed)] for seed in (1, 1, 2)]
    assert [len(batch) for batch in shuffled[0]] == [4, 4]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert [len(labels) for _, labels in TEN.batches(4)] == [4, 4, 2]
    assert (len(TEN.batches(4)), len(TEN.batches(4, order_seed=1))) == (3, 2)


def test_a_batch_is_never_larger_than_the_part() -> None:
    """Fewer images than a batch holds are one whole batch, shuffled or not: else nothing would be trained."""
    assert [len(labels) for _, labels in TEN.batches(64, order_seed=3)] == [10]
    assert [len(labels) for _, labels in TEN.batches(64)] == [10]


def test_pixels_stay_with_their_labels() -> None:
    """Each image comes with its own label, UINT8 and INT64, whatever the order."""
    for pixels, labels in TEN.batches(3, order_seed=5):
        assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert pixels.flatten().tolist() == labels.tolist()


def test_some_images_alone() -> None:
    """`only` keeps the images named, in their order."""
    (pixels, labels), *rest = TEN.only(np.array([7, 2])).batches(5)
    assert pixels.flatten().tolist() == labels.tolist() == [7, 2]
    assert not rest


def test_variation_does_not_depend_on_the_batch() -> None:
    """An image is varied alike in batches of 2 and of 5: by its index and the seed, not by the company it is in."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 12, 1), np.uint8)
    images = Images(pixels, np.arange(10))
    for augmentation in (Augmentation("shift", 3), Augmentation("standard")):
        varied = [
            {
                label: image.numpy().tobytes()
                for batch, labels in images.batches(size, order_seed=seed, augmentation=augmentation)
                for image, label in zip(batch, labels.tolist(), strict=True)
            }
            for size, seed in ((2, 7), (5, 7), (2, 8))
        ]
        assert varied[0] == varied[1]
        assert sum(varied[0][label] != varied[2][label] for label in range(10)) > 5
        assert sum(varied[0][label] != pixels[label].tobytes() for label in range(10)) > 5
    assert np.array_equal(images.pixels, pixels)


def test_random_state_is_left_alone() -> None:
    """Batches draw nothing from torch's own random numbers, which dropout draws from."""
    images = Images(np.zeros((10, 8, 8, 1), np.uint8), np.arange(10))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for augmentation in (None, Augmentation("shift", 1), Augmentation("standard")):
        list(images.batches(4, order_seed=1, augmentation=augmentation))
    assert torch.equal(torch.get_rng_state(), before)

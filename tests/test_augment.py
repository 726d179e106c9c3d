"""models/augment.py: training images, varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from models import augment, catalog
from models.spec import NetweightError, Preprocessing, Recipe


def test_shift_moves_and_keeps() -> None:
    """Shifted by up to two pixels, a lone bright pixel stays one, never further than two from where it was."""
    pixels = torch.zeros(64, 9, 9, 1, dtype=torch.uint8)
    pixels[:, 4, 4] = 200
    moved = augment.shift(pixels, augment.offsets(64, 2, order_seed=0), 2)
    assert moved.shape == pixels.shape
    places = moved.nonzero()[:, 1:3]
    assert len(places) == 64
    assert set(places.flatten().tolist()) == {2, 3, 4, 5, 6}


def test_shift_goes_down_and_right() -> None:
    """An offset of 0, 3 with at most 2 moves a pixel two up and one to the right; 2, 2 leaves it."""
    pixels = torch.zeros(2, 9, 9, 1, dtype=torch.uint8)
    pixels[:, 4, 4] = 200
    moved = augment.shift(pixels, torch.tensor([[0, 3], [2, 2]]), 2)
    assert moved.nonzero().tolist() == [[0, 2, 5, 0], [1, 4, 4, 0]]


def test_offsets_follow_the_seed() -> None:
    """Every offset from 0 to twice the most is drawn, the same for the same epoch, others for the next."""
    first, again, following = (augment.offsets(1000, 2, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, following)
    counts = torch.bincount(first.flatten(), minlength=5)
    assert len(counts) == 5
    assert counts.min() > 300


def test_recipe_decides() -> None:
    """`none` varies nothing, `shift` moves by the recipe's pixels, `standard` has none; a shift by 0 is one line."""
    recipe = Recipe(1, 0.1, shift_pixels=3)
    recipes = [recipe, replace(recipe, augmentation="shift"), replace(recipe, augmentation="standard")]
    expected = [None, augment.Augmentation("shift", 3), augment.Augmentation("standard")]
    assert [augment.of(recipe) for recipe in recipes] == expected
    with pytest.raises(NetweightError, match=r"^augmentation 'shift' moves images by 1 pixel or more, got 0: give"):
        augment.of(Recipe(1, 0.1, augmentation="shift"))


def test_records_that_name_pixels_shift() -> None:
    """No recipe of the catalogue names pixels to shift by without asking for the shift."""
    recipes = [architecture.recipe for architecture in catalog.architectures() if architecture.recipe]
    assert all((recipe.shift_pixels > 0) == (recipe.augmentation == "shift") for recipe in recipes)


def test_jitter_never_flips() -> None:
    """The digits are turned by 10 degrees at most and never flipped: a bright left half stays the brighter one."""
    picture = torch.zeros(1, 32, 32, dtype=torch.uint8)
    picture[:, :, :16] = 255
    varied = [augment.vary(augment.jitter(), picture, 0, index) for index in range(50)]
    assert all(image[:, :, :16].float().mean() > 2 * image[:, :, 16:].float().mean() for image in varied)
    assert len({image.numpy().tobytes() for image in varied}) > 40


def test_crop_and_flip() -> None:
    """A photograph becomes a crop of the network's size, in about half the cases flipped, of its own pixels."""
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (90, 1))
    transform = augment.crop_and_flip(Preprocessing(32, 32, 1, (0.5,), (0.5,)))
    varied = [np.asarray(augment.vary(transform, Image.fromarray(ramp), 1, index)) for index in range(100)]
    assert all(image.shape == (32, 32) for image in varied)
    flipped = sum(int(image[0, 0]) > int(image[0, -1]) for image in varied)
    assert 30 < flipped < 70
    spans = [abs(int(image[0, 0]) - int(image[0, -1])) for image in varied]
    assert max(spans) > 2 * min(spans)


def test_same_seed_and_index_is_the_same_image() -> None:
    """An image is varied by the epoch's seed and its index: neither a neighbour's nor the next epoch's variation."""
    picture = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    jitter = augment.jitter()
    drawn = [augment.vary(jitter, picture, seed, index) for seed, index in ((3, 4), (3, 4), (4, 3), (2, 5), (3, 5))]
    assert torch.equal(drawn[0], drawn[1])
    assert not any(torch.equal(drawn[0], other) for other in drawn[2:])

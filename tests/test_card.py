"""What a card says of images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models import catalog
from server.card import Preprocessing, preprocessing
from tests.pictures import IMAGENET


@pytest.mark.parametrize("name", catalog.names())
def test_the_catalogues_preprocessing_is_read(tmp_path: Path, name: str) -> None:
    """What the export writes of a network is what the server reads."""
    wanted = catalog.get(name).preprocessing
    (tmp_path / "card.json").write_text(json.dumps({"preprocessing": {**wanted.to_dict(), "input": "uint8"}}))
    found = preprocessing(tmp_path)
    assert isinstance(found, Preprocessing)
    assert found.shape == (wanted.height, wanted.width, wanted.channels)
    assert (found.resize, found.interpolation) == (wanted.resize, wanted.interpolation)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "has no preprocessing"),
        ("[]", "has no preprocessing"),
        ("{}", "has no preprocessing"),
        ('{"preprocessing": null}', "does not tell how"),
        ('{"preprocessing": {"mean": [0.5]}}', r"does not tell how \(KeyError: 'height'\)"),
        ("[" * 100_000, "has no preprocessing"),
    ],
)
def test_a_card_that_says_nothing(tmp_path: Path, text: str, reason: str) -> None:
    """A card without preprocessing, or none at all, is told in words."""
    assert preprocessing(tmp_path) == "there is no card.json beside the model to tell how"
    (tmp_path / "card.json").write_text(text)
    found = preprocessing(tmp_path)
    assert isinstance(found, str)
    assert re.search(reason, found)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": "224"},
        {"width": True},
        {"width": 70_000},
        {"channels": 4},
        {"resize": 10**9},
        {"interpolation": "lanczos"},
        {"interpolation": ["bilinear"]},
    ],
)
def test_values_out_of_their_limits(tmp_path: Path, change: dict[str, Any]) -> None:
    """A value that no image has is told by its name."""
    (tmp_path / "card.json").write_text(json.dumps({"preprocessing": {**IMAGENET, **change}}))
    found = preprocessing(tmp_path)
    assert isinstance(found, str)
    assert next(iter(change)) in found

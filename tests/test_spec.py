"""models/spec.py: the records."""

from __future__ import annotations

import json

from models.spec import Preprocessing, Weights


def test_preprocessing_survives_json() -> None:
    """What preprocessing says is the same after it was written to JSON and read again, tuples included."""
    preprocessing = Preprocessing(
        height=224, width=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256
    )
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_random_weights_are_untrained() -> None:
    """Random weights are never called trained; those of a checkpoint and published ones are."""
    assert not Weights("random", "seed 0").trained
    assert Weights("checkpoint", "best.pt").trained
    assert Weights("published", "IMAGENET1K_V1").trained

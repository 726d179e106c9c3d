"""compare/families.py: every family on the digits, and what the stored run says of it."""

from __future__ import annotations

import json
from pathlib import Path

from compare.families import FAMILIES, LEAST_ACCURACY
from models import catalog

RESULTS = Path(__file__).parents[1] / "docs/results"


def test_every_family_is_among_them() -> None:
    """At least one network of each family of the catalogue is trained, and each has a recipe."""
    chosen = [catalog.get(name) for name in FAMILIES]
    assert {each.family for each in chosen} == {each.family for each in catalog.architectures()}
    assert all(each.recipe is not None for each in chosen)


def test_the_stored_run_reached_its_accuracy() -> None:
    """In docs/results/families.json each of these networks, trained here, has the accuracy that is asked for."""
    content = json.loads((RESULTS / "families.json").read_text(encoding="utf-8"))
    reached = {card["model"]: card for card in content["cards"]}
    assert list(reached) == list(FAMILIES)
    for name, card in reached.items():
        assert card["trained"], name
        assert card["accuracy"]["top1"] >= LEAST_ACCURACY, name
    assert content["environment"]["cpu"]

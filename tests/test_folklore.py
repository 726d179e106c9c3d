"""models/folklore.py and models/claims.py: what is said about training, and what the stored run says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import lookup
from models.claims import CLAIMS, Arm, Claim
from models.folklore import folklore, page, verdict
from models.spec import Recipe

RESULTS = Path(__file__).parents[1] / "docs/results"
SHORT = Recipe(epochs=1, learning_rate=0.005, batch_size=64)
SMALL = Claim(
    "smoothing",
    "It helps.",
    "nobody",
    (Arm("none", "lenet5", SHORT), Arm("some", "lenet5", replace(SHORT, label_smoothing=0.1), init_from="first")),
    better="some",
    worse="none",
    preparation=(Arm("first", "lenet5", SHORT, train_images=100),),
)


def figures(*values: float, measure: str = "top1") -> list[dict[str, Any]]:
    return [{measure: value} for value in values]


def test_every_claim_can_be_tried() -> None:
    """The arms of each claim name networks that can be built, and differ; what they start from is prepared."""
    for claim in CLAIMS:
        prepared = {arm.name for arm in claim.preparation}
        assert {claim.better, claim.worse} <= {arm.name for arm in claim.arms}
        assert len({replace(arm, name="") for arm in map(plain, claim.arms)}) == len(claim.arms)
        for arm in (*claim.preparation, *claim.arms):
            assert lookup.find(arm.network, arm.builder, arm.options).parameters > 0
            assert {arm.init_from, arm.transfer} - {None} <= prepared


def plain(arm: Arm) -> Arm:
    return replace(arm, options=tuple(arm.options.items()))  # type: ignore[arg-type]  # a mapping has no hash


def test_a_claim_is_tried_and_stored(tmp_path: Path) -> None:
    """Each arm is trained from each seed, its figures and the machine are stored; a second call trains nothing."""
    lines: list[str] = []
    content = folklore(tmp_path / "runs", tmp_path, claims=[SMALL], seeds=(0, 1), report=lines.append)
    assert json.loads((tmp_path / "folklore.json").read_text()) == json.loads(json.dumps(content))
    (claim,) = content["claims"]
    assert [[each["seed"] for each in arm["runs"]] for arm in claim["arms"]] == [[0, 1], [0, 1]]
    assert all(0 < each["top1"] <= 1 and each["train_loss"] > 0 for arm in claim["arms"] for each in arm["runs"])
    assert content["environment"]["cpu"]
    assert len(lines) == 2 * 3 + 1
    shown = (tmp_path / "folklore.md").read_text()
    assert f"**{claim['seen']}**" in shown
    again = folklore(tmp_path / "runs", tmp_path, claims=[SMALL], seeds=(0, 1), report=lines.append)
    assert again["claims"] == content["claims"]


@pytest.mark.parametrize(
    ("better", "worse", "measure", "margin", "seen"),
    [
        ((0.9, 0.8, 0.7), (0.8, 0.7, 0.6), "top1", 0.0, "yes, from every seed"),
        ((0.9, 0.8, 0.5), (0.8, 0.7, 0.6), "top1", 0.0, "in the median, not from every seed"),
        ((0.6, 0.7, 0.6), (0.8, 0.7, 0.6), "top1", 0.0, "no"),
        ((0.8, 0.8, 0.8), (0.8, 0.8, 0.8), "top1", 0.0, "no"),
        ((0.79, 0.79, 0.79), (0.8, 0.8, 0.8), "top1", 0.02, "yes, from every seed"),
        ((0.1, 0.2, 0.1), (2.0, 2.1, 2.2), "train_loss", 0.0, "yes, from every seed"),
    ],
)
def test_verdict(better: tuple[float, ...], worse: tuple[float, ...], measure: str, margin: float, seen: str) -> None:
    """What is said holds where its arm does better from every seed, or in the median only, or it does not hold."""
    assert verdict(figures(*better, measure=measure), figures(*worse, measure=measure), measure, margin) == seen


def test_the_stored_run_is_of_these_claims() -> None:
    """docs/results/folklore.json was written by this code: its claims and arms are those here, its page says the same."""
    content = json.loads((RESULTS / "folklore.json").read_text(encoding="utf-8"))
    assert [[claim["name"], *(arm["name"] for arm in claim["arms"])] for claim in content["claims"]] == [
        [claim.name, *(arm.name for arm in claim.arms)] for claim in CLAIMS
    ]
    recipes = [arm["recipe"] for claim in content["claims"] for arm in claim["arms"]]
    assert recipes == json.loads(json.dumps([vars(arm.recipe) for claim in CLAIMS for arm in claim.arms]))
    assert (RESULTS / "folklore.md").read_text(encoding="utf-8") == page(content)
    assert content["environment"]["packages"]["torch"]

"""What a card.json tells of its model, whoever wrote it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import card, card_facts, weighbridge
from server.card_facts import NOTHING, Layer, Parity, Published

CARD: dict[str, Any] = {
    "schema": "netweight-card/1",
    "architecture": {"title": "Two layers", "family": "Toy"},
    "weights": {"trained": True},
    "graph": {"variant": "int8", "onnx_bytes": 900},
    "reference": {"name": "toy", "version": 1},
    "parameters": 110,
    "multiply_accumulates": 1000,
    "layers": [
        {"name": "a", "op": "Conv", "parameters": 10, "bytes": 40, "multiply_accumulates": 900},
        {"name": "b", "op": "Gemm", "parameters": 100, "bytes": 400, "multiply_accumulates": 100},
    ],
    "heldout": {"images": 360, "top1": 0.975},
    "accuracy": {"split": "held-out", "images": 100, "top1": 0.5},
    "published": [{"top1_percent": 70.5, "top5_percent": None, "data": "ImageNet-1K", "source": "somebody"}],
    "parity": {"tolerance": 0.25, "within_tolerance": True, "batches": [{"max_absolute": 0.1}, {"max_absolute": 0.3}]},
}


def facts(directory: Path, content: object) -> card_facts.Facts:
    (directory / "card.json").write_text(json.dumps(content), encoding="utf-8")
    return card_facts.read(directory)


def test_all_that_a_card_tells(tmp_path: Path) -> None:
    """Names, weights, layers, accuracy as measured on this graph, what others publish, and parity."""
    found = facts(tmp_path, CARD)
    assert (found.title, found.family, found.variant, found.reference) == ("Two layers", "Toy", "int8", "toy")
    assert (found.trained, found.parameters, found.multiply_accumulates, found.onnx_bytes) == (True, 110, 1000, 900)
    assert found.layers == (Layer("a", "Conv", 10, 40, 900), Layer("b", "Gemm", 100, 400, 100))
    assert (found.heldout_accuracy, found.heldout_images) == (0.975, 360)
    assert found.published == (Published(70.5, None, "ImageNet-1K", "somebody"),)
    assert found.parity == Parity(0.3, 0.25, within_tolerance=True)


def test_accuracy_before_the_export_counts_where_it_was_held_out(tmp_path: Path) -> None:
    """Where the graph itself was not measured, the network's accuracy is told; never one of the training's images."""
    before = {key: value for key, value in CARD.items() if key != "heldout"}
    assert facts(tmp_path, before).heldout_accuracy == 0.5
    trained_on = before | {"accuracy": CARD["accuracy"] | {"split": "training"}}
    assert (facts(tmp_path, trained_on).heldout_accuracy, facts(tmp_path, trained_on).heldout_images) == (None, None)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"parameters": -1}, "parameters"),
        ({"parameters": 2**63}, "parameters"),
        ({"parameters": True}, "parameters"),
        ({"multiply_accumulates": "1000"}, "multiply_accumulates"),
        ({"architecture": {"title": "x" * 201, "family": "Toy"}}, "title"),
        ({"architecture": {"title": "\x1b[2J", "family": "Toy"}}, "title"),
        ({"architecture": {"title": "\ud800", "family": "Toy"}}, "title"),
        ({"weights": {"trained": 1}}, "trained"),
        ({"layers": [CARD["layers"][0], {"name": "b"}]}, "layers"),
        ({"layers": [CARD["layers"][0]] * 5000}, "layers"),
        ({"layers": {"a": 1}}, "layers"),
        ({"heldout": {"top1": float("nan")}, "accuracy": None}, "heldout_accuracy"),
        ({"heldout": {"top1": 97.5}, "accuracy": None}, "heldout_accuracy"),
        ({"published": [{"top1_percent": 101}]}, "published"),
        ({"parity": {"batches": [{"max_absolute": float("inf")}]}}, "parity"),
    ],
)
def test_what_does_not_fit_is_left_out(tmp_path: Path, change: dict[str, Any], missing: str) -> None:
    """A value of another type or range is not told; the others are."""
    found = facts(tmp_path, CARD | change)
    assert getattr(found, missing) == getattr(NOTHING, missing)
    assert found.variant == "int8"


@pytest.mark.parametrize("content", ["", "null", "[1]", "[" * 100_000, '"card"', "\ufffe", "1" * 10_000])
def test_a_card_that_is_none(tmp_path: Path, content: str) -> None:
    """Broken, of another kind, or none at all: then nothing is told."""
    assert card_facts.read(tmp_path) == NOTHING
    (tmp_path / "card.json").write_text(content, encoding="utf-8")
    assert card_facts.read(tmp_path) == NOTHING


def test_a_card_has_a_bound(tmp_path: Path) -> None:
    """One that is longer than any network's, or that is a pipe, is not read."""
    (tmp_path / "card.json").write_text(json.dumps(CARD) + " " * card.MOST_BYTES)
    assert card_facts.read(tmp_path) == NOTHING
    (tmp_path / "card.json").unlink()
    os.mkfifo(tmp_path / "card.json")
    assert card_facts.read(tmp_path) == NOTHING


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "title",
                    "family",
                    "variant",
                    "name",
                    "op",
                    "top1",
                    "images",
                    "batches",
                    "max_absolute",
                    "tolerance",
                    "top1_percent",
                    "bytes",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(CARD, ANY)))
def test_no_card_prevents_anything(content: dict[str, Any]) -> None:
    """Whatever stands in a card, it is read, and what is told of it can be sent."""
    with tempfile.TemporaryDirectory() as directory:
        found = facts(Path(directory), content)
    assert weighbridge._facts(found).SerializeToString() is not None

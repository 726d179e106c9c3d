"""The Markdown for a README."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compare.columns import TIMES, columns_of
from compare.cost import Busy
from compare.markdown import as_markdown, escaped
from models.spec import NetweightError
from tests.costs import MOBILENET, UNTRAINED, VGG, comparison


def test_table() -> None:
    """The table has a line for each model and as many cells in each as in its head; the lightest is first."""
    whole = comparison()
    lines = [line for line in as_markdown(whole).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(whole.cards)
    assert {line.count("|") for line in lines} == {len(columns_of(whole.cards)) + 2}
    assert lines[-1].startswith(f"| vgg16 | 138,250,000 (40{TIMES}) | ")
    assert lines[0].startswith("| model | parameters | GMACs | ONNX MB | ONNX MiB | compressed MB | cold start s |")


def test_order() -> None:
    """A busy machine comes first, then the headline, then the table, then the notes."""
    lines = as_markdown(comparison(VGG, MOBILENET, busy=Busy(1.0, 0.0, is_busy=True))).splitlines()
    assert lines[0].startswith("**BUSY MACHINE")
    assert lines[2].startswith("**What VGG-16 costs: 553.0 MB")
    assert lines[4].startswith("| model |")
    assert lines[-1].startswith("- Measured 2026")


def test_marks_stay_what_they_are() -> None:
    """A star is no emphasis, a bar no cell."""
    text = as_markdown(comparison(replace(MOBILENET, adaptation="a|b"), UNTRAINED))
    assert r"| mobilenet_v2\* |" in text
    assert r"- \* architecture changed for small images (mobilenet_v2: a\|b)." in text
    assert "alexnet†" in text
    assert escaped(r"a\b*c|d") == r"a\\b\*c\|d"


def test_nothing() -> None:
    """No cards is an error."""
    with pytest.raises(NetweightError, match="nothing was measured"):
        as_markdown(replace(comparison(), cards=()))

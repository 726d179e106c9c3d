"""The CSV: the same columns whatever was measured, base units, what is unknown left empty."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO

import pytest

from compare.csv_rows import as_csv, columns
from tests.costs import BARE, VGG, comparison


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_a_line_for_each_model() -> None:
    """There is one line for each card, in the comparison's order, under the columns that `columns` names."""
    whole = comparison()
    rows = read(as_csv(whole))
    assert [row["model"] for row in rows] == [card.model for card in whole.cards]
    assert list(rows[0]) == columns()
    assert len(set(columns())) == len(columns())


def test_columns_do_not_depend_on_what_was_measured() -> None:
    """A comparison of a model of which nothing is known has the same head."""
    assert as_csv(comparison(BARE)).splitlines()[0] == as_csv(comparison()).splitlines()[0]


def test_values() -> None:
    """Exact figures are whole, what rounds measured has median, lowest and highest; the unit is in the name."""
    (row,) = read(as_csv(comparison(replace(VGG, price_per_million=10.0))))
    assert row["onnx_bytes"] == "553000000"
    assert row["top1"] == "0.988888889"
    assert (row["correct"], row["images"], row["trained"], row["variant"]) == ("356", "360", "True", "fp32")
    low, typical, high = (float(row[f"saturation_per_second{end}"]) for end in ("_low", "", "_high"))
    assert (low, typical, high) == pytest.approx((0.98 * 1.1 / 0.18, 1.1 / 0.18, 1.02 * 1.1 / 0.18))
    assert float(row["p99_seconds_low"]) <= float(row["p99_seconds"]) <= float(row["p99_seconds_high"])
    assert row["bound_seconds"] == "0.5"
    assert row["price_per_million"] == "10"
    assert row["published_top1_percent"] == "71.592"


def test_unknown_is_empty() -> None:
    """What was not measured is an empty cell, never 0; errors that did not happen are 0."""
    (row,) = read(as_csv(comparison(BARE)))
    known = {name for name, value in row.items() if value}
    assert known == {"created", "model", "version", "title", "variant", "input", "errors", "onnx_bytes"}
    assert row["errors"] == "0"

"""A comparison as JSON: written, read back as it was, refused where it is something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compare.comparison import SCHEMA, as_json, read, write
from compare.cost import Accuracy, Latencies, Repeated
from models.spec import NetweightError
from tests.costs import MOBILENET, comparison


def test_written_and_read(tmp_path: Path) -> None:
    """What is written is read back the same, but for latencies: those are whole microseconds."""
    whole = comparison()
    path = tmp_path / "out" / "comparison.json"
    write(path, whole)
    again = read(path)
    blank = [replace(card, single_stream=None) for card in whole.cards]
    assert replace(again, cards=tuple(replace(card, single_stream=None) for card in again.cards)) == replace(
        whole, cards=tuple(blank)
    )
    for card, other in zip(whole.cards, again.cards, strict=True):
        if card.single_stream:
            assert other.single_stream
            assert other.single_stream.latency.rounds[1] == pytest.approx(
                card.single_stream.latency.rounds[1], abs=1e-6
            )
    assert as_json(again) == as_json(read(path))


def test_for_other_readers() -> None:
    """The JSON says its schema, and beside raw values what readers would compute from them."""
    values = json.loads(as_json(comparison(MOBILENET)))
    assert values["schema"] == SCHEMA
    (card,) = values["cards"]
    assert card["model"] == "mobilenet_v2"
    assert card["accuracy"]["top1"] == 355 / 360
    assert card["saturation"]["inferences_per_second"]["median"] == pytest.approx(220)
    latency = card["single_stream"]["latency"]
    assert latency["count"] == 600
    assert latency["p50_seconds"] == pytest.approx(0.0052, rel=0.03)
    assert latency["p99_seconds"] == pytest.approx(0.0055, rel=0.05)


def test_refused(tmp_path: Path) -> None:
    """A file of another schema, one that was cut, and none at all are named with what to do."""
    path = tmp_path / "comparison.json"
    with pytest.raises(NetweightError, match=r"comparison.json: expected a comparison"):
        read(path)
    path.write_text('{"schema": "netweight-results/1"}')
    with pytest.raises(NetweightError, match=r"expected schema netweight-comparison/1, got 'netweight-results/1'"):
        read(path)
    path.write_text(json.dumps({"schema": SCHEMA}))
    with pytest.raises(NetweightError, match="not a whole comparison"):
        read(path)


def test_figures() -> None:
    """Median, spread, percentiles and shares are what their names say."""
    figure = Repeated((3.0, 1.0, 2.0))
    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)
    latency = Latencies((tuple(range(1, 101)), (200.0,)))
    assert (latency.percentile(50), latency.percentile(99), latency.count) == (51, 100, 101)
    assert latency.by_round(99).rounds == (99.0, 200.0)
    assert Accuracy(9, 10, 8, "vgg16").agreement == 0.8
    assert Accuracy(9, 10).agreement is None

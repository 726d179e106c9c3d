"""The table on the terminal: nothing is cut off, and what a reader must know stands beside it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from compare.columns import DASH, TIMES, columns_of
from compare.comparison import Comparison
from compare.cost import Busy, Caller, CostCard, Latencies, Repeated, SingleStream
from compare.marks import marked
from compare.notes import footnotes, warnings
from compare.table import as_svg, as_text
from models.spec import NetweightError
from tests.costs import BARE, INT8, MOBILENET, RESNET, UNTRAINED, VGG, comparison, cost_card

ADAPTATION = "the first strides taken out"
MEASURED = comparison(VGG, RESNET, MOBILENET)
NOISY = comparison(VGG, cost_card("lenet5", "LeNet-5", onnx_bytes=250_000, seconds=0.0006, noise=0.3), INT8, BARE)
CATALOGUE = comparison(
    *(cost_card(f"network_{n}", onnx_bytes=10**7 * (n + 1), seconds=0.01 * (n + 1)) for n in range(12))
)


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
@pytest.mark.parametrize("shown", [comparison(), NOISY, CATALOGUE], ids=["one of each kind", "noisy", "twelve"])
def test_no_figure_is_cut_off(shown: Comparison, width: int) -> None:
    """On terminals of any width every figure of every model stands whole, and no line is wider than the terminal."""
    text = as_text(shown, width)
    words = set(text.split())
    for card in shown.cards:
        assert marked(card) in words
        for column in columns_of(shown.cards):
            assert set(column.show(card).split()) <= words, column.title
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_one_line_for_each_model_where_there_is_room() -> None:
    """At 200 columns the models are lines, lightest first, each figure's ratio to the lightest beneath it."""
    lines = as_text(MEASURED, 200).splitlines()
    names = [card.model for card in MEASURED.cards]
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith(tuple(names))][:3]
    assert [lines[number].split()[0] for number in starts] == ["mobilenet_v2", "resnet50", "vgg16"]
    assert lines[starts[-1]].split()[1:5] == ["138,250,000", "0.100", "553.0", "527.4"]
    assert lines[starts[-1] + 1].split()[:4] == [f"40{TIMES}", f"1.0{TIMES}", f"40{TIMES}", f"40{TIMES}"]


def test_narrow_terminal_turns_the_table() -> None:
    """At 80 columns each figure is a line, the models beside each other."""
    lines = [line.split() for line in as_text(MEASURED, 80).splitlines()]
    assert ["model", "mobilenet_v2", "resnet50", "vgg16"] in lines
    assert ["ONNX", "MB", "14.0", "102.0", "553.0"] in lines
    assert ["ONNX", "MiB", "13.4", "97.3", "527.4"] in lines


def test_many_models_keep_their_lines() -> None:
    """Twelve models at 100 columns are lines under a few columns at a time: fewer lines than turned, three by three."""
    lines = as_text(CATALOGUE, 100).splitlines()
    starts = [line for line in lines if line.lstrip().startswith("network_11")]
    assert 1 < len(starts) < 5


def test_unknown_is_a_dash() -> None:
    """A note says what the dash means, where there is one."""
    assert any(note.startswith(f"{DASH} not measured") for note in footnotes(comparison()))
    assert not any(note.startswith(DASH) for note in footnotes(MEASURED))


def test_marks() -> None:
    """Changed architectures, untrained weights and models from elsewhere are marked, and each mark is explained."""
    adapted = replace(MOBILENET, adaptation=ADAPTATION)
    text = as_text(comparison(adapted, UNTRAINED, BARE), 200)
    assert "mobilenet_v2* " in text
    assert f"* architecture changed for small images (mobilenet_v2: {ADAPTATION})." in text
    assert "alexnet† " in text
    assert "† random weights, never trained" in text
    assert "elsewhere‡ " in text
    assert "‡ from elsewhere" in text
    assert not any(mark in as_text(MEASURED, 200) for mark in "*†‡")


def test_published_is_not_measured() -> None:
    """Accuracy that others published stands in a column of its own, and a note says that it was not measured here."""
    text = as_text(comparison(VGG, UNTRAINED), 200)
    assert "published" in text
    assert "as others published it; NOT measured here" in text
    assert "NOT measured" not in as_text(MEASURED, 200)


def test_busy_machine_comes_first() -> None:
    """A result of a busy machine says so in its first line, with what was busy; a calm one tells its figures below."""
    busy = replace(MEASURED, busy=Busy(1.25, 0.5, is_busy=True))
    first = as_text(busy, 120).splitlines()[0]
    assert first.startswith(
        "BUSY MACHINE: other processes took 1.25 cores on the mean, the hypervisor 0.50, of 2 usable"
    )
    assert not warnings(MEASURED)
    assert "other processes 0.05 cores, hypervisor 0.01" in footnotes(MEASURED)[-1]
    assert "what else the machine did is not known" in footnotes(replace(MEASURED, busy=None))[-1]


def test_failed_requests_come_first() -> None:
    """Requests that failed stand above the table."""
    text = as_text(comparison(replace(VGG, errors=7), MOBILENET), 120)
    assert text.splitlines()[0] == "vgg16: 7 requests FAILED while it was measured."


def test_where_the_caller_is_the_limit() -> None:
    """A rate within 30 % of the caller's own, and a latency that is largely the caller's, name their model."""
    callers = (Caller(3072, 0.0006, 3000.0), Caller(150_528, 0.003, 300.0))
    told = [note for note in footnotes(replace(MEASURED, callers=callers)) if "caller" in note]
    assert any(note.startswith("mobilenet_v2: 220/s is 73 % of the 300/s that the caller reaches") for note in told)
    assert "mobilenet_v2: of its p50, 5.2 ms, the caller and the wire alone take 3 ms." in told
    assert not any(note.startswith(("vgg16", "resnet50")) for note in told)
    small = replace(MOBILENET, input="UINT8 [32, 32, 3]")
    near = footnotes(replace(comparison(small), callers=callers))
    assert not any("220/s is" in note for note in near), "requests of 3 KB are held against their own ceiling"


def test_how_it_was_measured() -> None:
    """The notes tell the callers, the bound and the number of samples; few samples are called what they are."""
    notes = " ".join(footnotes(MEASURED))
    for told in (
        "MB = 1,000,000 bytes, MiB = 1,048,576 bytes",
        "32 callers",
        "under 500 ms",
        "600 requests",
        "3 rounds",
    ):
        assert told in notes
    assert "p99 of fewer than 100" not in notes
    assert "tries of 30 requests, of fewer than 100 the slowest must keep it" in notes
    few = replace(VGG, single_stream=SingleStream(Latencies(((0.2, 0.3),)), Repeated((0.1,))))
    one = comparison(few, settings=replace(MEASURED.settings, rounds=1))
    assert "p99 of fewer than 100 is the slowest" in " ".join(footnotes(one))
    assert "one round, so that nothing is known of the spread" in " ".join(footnotes(one))


def test_price() -> None:
    """Where there is a price, the notes say of what, and at what an hour."""
    priced = comparison(replace(VGG, price_per_million=4.5), settings=replace(MEASURED.settings, hourly_price=0.1))
    assert any("the machine at 0.1 an hour" in note for note in footnotes(priced))


def test_nothing_to_show() -> None:
    """No cards is an error, not an empty table."""
    with pytest.raises(NetweightError, match="nothing was measured"):
        as_text(replace(MEASURED, cards=()))


def test_picture() -> None:
    """The picture holds the table's figures, and asks nothing of the network."""
    picture = as_svg(MEASURED, title="a title")
    assert picture.startswith("<svg")
    assert "138,250,000" in picture
    assert "a&#160;title" in picture or "a title" in picture
    assert "@font-face" not in picture
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", picture) == []


def test_a_card_of_another_shape() -> None:
    """An input whose bytes are not known is held against no ceiling."""
    odd: CostCard = replace(MOBILENET, input="BYTES")
    assert not any("caller reaches" in note for note in footnotes(comparison(odd, callers=(Caller(100, 0.1, 1.0),))))

"""What a reader gets to see: the table, the Markdown, the headline, results.json."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from compare.measure import Row
from compare.report import (
    COLUMNS,
    DASH,
    TIMES,
    as_markdown,
    as_svg,
    as_text,
    footnotes,
    headline,
    show_figure,
    show_ratio,
    write_results,
)
from models.spec import NetweightError

ADAPTATION = "the first strides taken out"


def row(network: str, title: str, **facts: object) -> Row:
    blank = Row(network, 0, None, 0, None, None, None, None, None, None, title=title, callers=32)
    return replace(blank, latency_samples=400, **facts)  # type: ignore[arg-type]  # a test names the fields it needs


LENET = row(
    "lenet5",
    "LeNet-5",
    parameters=61_706,
    checkpoint_bytes=250_123,
    onnx_bytes=253_120,
    load_seconds=0.011,
    resident_bytes=2_400_000,
    latency_p50_seconds=0.00061,
    latency_p99_seconds=0.0014,
    throughput_per_second=2890.4,
    accuracy=353 / 360,
    accuracy_images=360,
)
MOBILENET = row(
    "mobilenet_v2",
    "MobileNetV2",
    parameters=2_236_682,
    checkpoint_bytes=9_150_000,
    onnx_bytes=8_940_123,
    load_seconds=0.09,
    resident_bytes=21_000_000,
    latency_p50_seconds=0.0031,
    latency_p99_seconds=0.0061,
    throughput_per_second=480.2,
    accuracy=356 / 360,
    accuracy_images=360,
    adaptation=ADAPTATION,
)
VGG = row(
    "vgg16_bn",
    "VGG-16 with batch norm",
    parameters=134_309_962,
    checkpoint_bytes=537_310_000,
    onnx_bytes=537_244_000,
    load_seconds=0.4,
    resident_bytes=560_000_000,
    latency_p50_seconds=0.0393,
    latency_p99_seconds=0.0512,
    throughput_per_second=80.2,
    accuracy=354 / 360,
    accuracy_images=360,
)
UNTRAINED = replace(VGG, network="vgg16", title="VGG-16", trained=False, accuracy=None, accuracy_images=None)
RESNET = replace(MOBILENET, network="resnet18", title="ResNet-18", onnx_bytes=44_720_123, parameters=11_173_962)
DEMO = (VGG, LENET, MOBILENET, RESNET)


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_no_figure_is_cut_off(width: int) -> None:
    """On terminals of any width every figure of every network stands whole, and no line is wider than the terminal."""
    text = as_text(DEMO, width)
    words = text.split()
    for each in DEMO:
        assert any(word.startswith(each.network) for word in words)
        assert {column.figure(each) for column in COLUMNS} <= set(words)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_one_line_for_each_network_where_there_is_room() -> None:
    """At 120 columns the demo's networks are lines, lightest first, each figure's ratio beneath it."""
    lines = as_text(DEMO, 120).splitlines()
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith(tuple(r.network for r in DEMO))]
    names = [lines[number].split()[0].rstrip("*") for number in starts]
    assert names == ["lenet5", "mobilenet_v2", "resnet18", "vgg16_bn"]
    assert lines[starts[-1]].split()[1:5] == ["134,309,962", "537.3", "537.2", "512.4"]
    assert lines[starts[-1] + 1].split()[:4] == [f"{n}{TIMES}" for n in ("2,177", "2,148", "2,122", "2,122")]


def test_narrow_terminal_turns_the_table() -> None:
    """At 80 columns each figure is a line, the networks beside each other."""
    lines = [line.split() for line in as_text(DEMO, 80).splitlines()]
    assert ["network", "lenet5", "mobilenet_v2*", "resnet18*", "vgg16_bn"] in lines
    assert ["ONNX", "MB", "0.253", "8.94", "44.7", "537.2"] in lines
    assert ["ONNX", "MiB", "0.241", "8.53", "42.6", "512.4"] in lines


def test_unknown_is_a_dash() -> None:
    """A figure that was not measured is a dash, and a footnote says what the dash means."""
    figures = [column.figure(UNTRAINED) for column in COLUMNS]
    assert figures.count(DASH) == 1
    assert figures[-1] == DASH
    assert any(note.startswith(DASH) for note in footnotes([LENET, UNTRAINED]))
    assert not any(note.startswith(DASH) for note in footnotes(DEMO))


def test_marks() -> None:
    """Changed architectures and untrained weights are marked in terminal and Markdown, and each mark is explained."""
    for text, star in ((as_text([MOBILENET, UNTRAINED], 120), "*"), (as_markdown([MOBILENET, UNTRAINED]), r"\*")):
        assert f"mobilenet_v2{star}" in text
        assert f"{star} architecture changed" in text
        assert "vgg16†" in text
        assert ADAPTATION in text
        assert "never trained" in text
    assert "†" not in as_text(DEMO, 120)


def test_headline_beside_the_lightest_that_is_as_accurate() -> None:
    """VGG is set beside the lightest network that is no less accurate: MobileNetV2 here, since LeNet-5 falls below."""
    assert headline(DEMO) == (
        f"What VGG-16 with batch norm costs: 537.2 MB (512.4 MiB), 60{TIMES} the bytes of MobileNetV2,"
        f" 27{TIMES} the memory and 13{TIMES} the time for an answer (p50);"
        " and it is no more accurate: 98.3% of the held-out images against 98.9%."
    )


def test_headline_when_vgg_is_the_most_accurate() -> None:
    """Where no other is as accurate, VGG is set beside the most accurate other, and the sentence says what was gained."""
    sentence = headline([replace(VGG, accuracy=0.995), LENET, MOBILENET])
    assert sentence is not None
    assert "the bytes of MobileNetV2" in sentence
    assert sentence.endswith("for more accuracy than any other here: 99.5% of the held-out images against 98.9%.")


def test_headline_without_accuracy() -> None:
    """Untrained networks are compared by weight alone, and the sentence says that accuracy was not measured."""
    sentence = headline([UNTRAINED, MOBILENET])
    assert sentence is not None
    assert sentence.endswith("what accuracy that buys was not measured here.")
    assert headline([LENET, MOBILENET]) is None
    assert headline([VGG]) is None


def test_failed_requests_are_told() -> None:
    """Requests that failed while a network was measured stand below the table."""
    assert "lenet5: 7 requests FAILED while it was measured." in footnotes([replace(LENET, errors=7), VGG])
    assert not any("FAILED" in note for note in footnotes(DEMO))


def test_few_samples_are_told() -> None:
    """A p99 of fewer than 100 requests is called what it is."""
    assert any("fewer than 100" in note for note in footnotes([replace(VGG, latency_samples=18)]))


def test_markdown() -> None:
    """The Markdown table has a line for each network and as many cells in each as in its head."""
    lines = [line for line in as_markdown(DEMO).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(DEMO)
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 2}
    assert f"| vgg16_bn | 134,309,962 (2,177{TIMES}) |" in lines[-1]


def test_results(tmp_path: Path) -> None:
    """results.json holds schema, environment and raw values, unknown ones as null, and is written whole."""
    path = tmp_path / "new" / "results.json"
    write_results(path, [LENET, UNTRAINED], {"cpu": "one"})
    results = json.loads(path.read_text(encoding="utf-8"))
    assert (results["schema"], results["environment"]) == ("netweight-results/1", {"cpu": "one"})
    lenet, vgg = results["rows"]
    assert lenet["onnx_bytes"] == 253_120
    assert lenet["accuracy"] == 353 / 360
    assert vgg["accuracy"] is None
    assert vgg["trained"] is False
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("value", "figure", "ratio"),
    [(0.0431, "0.043", "0.04"), (1, "1.00", "1.0"), (9.87, "9.87", "9.9"), (42.76, "42.8", "43"), (1234.5, "1,234", "1,234")],
)  # fmt: skip
def test_figures(value: float, figure: str, ratio: str) -> None:
    """Figures keep three significant digits, ratios two, thousands are grouped."""
    assert (show_figure(value), show_ratio(value)) == (figure, f"{ratio}{TIMES}")


def test_nothing_to_show() -> None:
    """No rows is an error, not an empty table."""
    with pytest.raises(NetweightError, match="nothing was measured"):
        as_text([])


def test_picture() -> None:
    """The picture holds the table's figures, and asks nothing of the network."""
    picture = as_svg(DEMO)
    assert picture.startswith("<svg")
    assert "134,309,962" in picture
    assert "@font-face" not in picture
    assert re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?https?:", picture) == []

"""The figures of a card, and what tables show of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compare.columns import (
    COLUMNS,
    DASH,
    TIMES,
    by_weight,
    columns_of,
    in_title,
    in_words,
    lightest,
    show_number,
    show_ratio,
)
from compare.cost import MB, MIB, Latencies, Memory, Repeated, SingleStream
from compare.figures import BY_NAME, FIGURES, batch_figures
from tests.costs import BARE, INT8, MOBILENET, RESNET, UNTRAINED, VGG


@pytest.mark.parametrize(
    ("value", "figure", "ratio"),
    [
        (0.000416, "0.00042", "0.00042"),
        (0.0431, "0.043", "0.043"),
        (0.246, "0.246", "0.25"),
        (1, "1.00", "1.0"),
        (9.87, "9.87", "9.9"),
        (9.96, "9.96", "10"),
        (42.76, "42.8", "43"),
        (1234.5, "1,234", "1,234"),
    ],
)
def test_numbers(value: float, figure: str, ratio: str) -> None:
    """Figures keep two or three significant digits, ratios two, thousands are grouped."""
    assert (show_number(value), show_ratio(value)) == (figure, f"{ratio}{TIMES}")


def test_every_part_of_a_card_is_a_figure() -> None:
    """A whole card has every figure but those of a GPU, of energy, of a price and of a reference."""
    missing = {figure.name for figure in FIGURES if figure.value(VGG) is None}
    assert missing == {
        "gpu_memory_added_bytes",
        "gpu_memory_process_bytes",
        "gpu_memory_peak_bytes",
        "gpu_memory_given_back_bytes",
        "single_stream_joules",
        "saturation_joules",
        "agreement",
        "price_per_million",
    }
    assert {figure.name for figure in FIGURES if figure.value(BARE) is not None} == {"onnx_bytes"}
    assert len(BY_NAME) == len(FIGURES)


def test_values_are_medians_and_percentiles() -> None:
    """What rounds measured is their median; a latency is the percentile of all samples, its rounds beside it."""
    rate = BY_NAME["saturation_per_second"].value(VGG)
    assert rate
    assert (rate.typical, rate.low, rate.high) == pytest.approx((1.1 / 0.18, 0.98 * 1.1 / 0.18, 1.02 * 1.1 / 0.18))
    uneven = Latencies(((0.001,) * 100, (0.002,) * 99 + (0.9,), (0.002,) * 100))
    card = replace(VGG, single_stream=SingleStream(uneven))
    p50, p99 = (BY_NAME[name].value(card) for name in ("p50_seconds", "p99_seconds"))
    assert p50
    assert p99
    assert (p50.typical, p50.rounds) == (0.002, (0.001, 0.002, 0.002))
    assert (p99.typical, p99.rounds) == (0.002, (0.001, 0.002, 0.002))
    none = replace(VGG, single_stream=SingleStream(Latencies(((),))))
    assert BY_NAME["p50_seconds"].value(none) is None


def test_price_goes_with_the_rate() -> None:
    """The price's rounds are those of the rate, turned over: the slowest round is the dearest."""
    price = BY_NAME["price_per_million"].value(replace(VGG, price_per_million=10.0))
    assert price
    assert price.typical == 10.0
    assert (price.low, price.high) == pytest.approx((10 / 1.02, 10 / 0.98))


def test_batches() -> None:
    """Each batch size that any card was measured at is two figures."""
    names = [figure.name for figure in batch_figures((VGG, BARE))]
    assert names[:2] == ["batch_1_p50_seconds", "batch_1_per_second"]
    assert len(names) == 8
    assert batch_figures((BARE,)) == ()


def test_spread_is_shown_where_rounds_differ() -> None:
    """Rounds that differ by more than a tenth have half their distance shown beside the figure; others have not."""
    column = next(column for column in COLUMNS if column.title == "memory added")
    noisy = replace(VGG, memory=Memory(Repeated((40 * MIB, 42.8 * MIB, 45.1 * MIB))))
    assert column.show(noisy) == "42.8 ±6 %"
    assert column.show(replace(VGG, memory=Memory(Repeated((42 * MIB, 42.8 * MIB, 43 * MIB))))) == "42.8"
    assert column.show(BARE) == DASH


def test_columns_that_nobody_has_are_left_out() -> None:
    """A column is there if a card has its figure; the published accuracy, if it was not measured here."""
    titles = [column.label for column in columns_of((VGG, RESNET))]
    assert "agreement" not in titles
    assert "energy J" not in titles
    assert "published top-1" not in titles
    assert "held-out correct" in titles
    assert "agreement" in [column.label for column in columns_of((VGG, INT8))]
    assert [column.label for column in columns_of((UNTRAINED,))][-1] == "published top-1"
    whole = replace(VGG, price_per_million=3.0, gpu_memory=VGG.memory)
    assert {"price per million", "GPU peak MiB"} <= {column.label for column in columns_of((whole,))}


def test_megabytes_and_mebibytes() -> None:
    """The same bytes stand in MB and in MiB, each with its own number."""
    values = {column.label: column.show(VGG) for column in COLUMNS}
    assert values["ONNX MB"] == show_number(553_000_000 / 10**6) == "553.0"
    assert values["ONNX MiB"] == show_number(553_000_000 / 2**20) == "527.4"
    assert in_words("onnx_bytes", 5 * MB) == "5.00 MB"
    assert in_words("memory_peak_bytes", 5 * MIB) == "5.00 MiB"


def test_ratios_are_to_the_lightest_that_was_called() -> None:
    """A file that nobody called is no measure for the others, however small."""
    assert lightest((VGG, BARE, MOBILENET)) is MOBILENET
    assert lightest((BARE,)) is BARE
    assert by_weight((VGG, BARE, MOBILENET)) == [BARE, MOBILENET, VGG]
    onnx = next(column for column in COLUMNS if column.label == "ONNX MB")
    assert onnx.ratio(VGG, MOBILENET) == f"40{TIMES}"
    p50 = next(column for column in COLUMNS if column.title == "p50")
    assert p50.ratio(BARE, MOBILENET) == p50.ratio(VGG, BARE) == ""


def test_figures_in_words() -> None:
    """Names for people have no unit, numbers have theirs."""
    assert in_title("cold_start_session_seconds") == "cold start session"
    assert in_title("batch_8_per_second") == "batch 8 rate"
    assert in_words("cold_start_seconds", 0.246) == "0.246 s"
    assert in_words("p99_seconds", 0.0428) == "42.8 ms"
    assert in_words("offline_per_second", 1234.5) == "1,234/s"
    assert in_words("top1", 0.98611) == "98.6 %"
    assert in_words("saturation_joules", 1.5) == "1.50 J"
    assert in_words("parameters", 138_357_544) == "138,357,544"

"""What became better or worse from one comparison to another, beyond the noise."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from compare import comparison as store
from compare.comparison import Comparison
from compare.cost import Accuracy, Busy, CostCard, Disk, Repeated, Saturation, Server
from compare.diff import SCHEMA, differences, run
from compare.figures import BY_NAME
from compare.noise import Change, change
from tests.costs import INT8, MOBILENET, RESNET, VGG, comparison, cost_card

RATE = BY_NAME["saturation_per_second"]


def rated(*rounds: float, callers: int = 32) -> CostCard:
    blank = Repeated((1.0,))
    return replace(VGG, saturation=Saturation(callers, Repeated(rounds), blank, blank))


def verdict(old: CostCard, new: CostCard, name: str = "saturation_per_second") -> str:
    found = change(BY_NAME[name], old, new)
    assert found
    return found.verdict


def by_figure(old: Comparison, new: Comparison) -> dict[tuple[str, str], Change]:
    return {(each.model, each.figure): each for each in differences(old, new).changes}


def printed(
    old: Comparison, new: Comparison, folder: Path, fail_over: float | None, **options: bool
) -> tuple[int, str]:
    for name, each in (("old", old), ("new", new)):
        store.write(folder / f"{name}.json", each)
    written = StringIO()
    console = Console(file=written, width=120, color_system=None)
    code = run(folder / "old.json", folder / "new.json", fail_over, console=console, **options)
    return code, written.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ((99, 100, 101), (119, 120, 121), "better"),
        ((99, 100, 101), (79, 80, 81), "worse"),
        ((99, 100, 101), (101, 102, 103), "within noise"),  # the ranges touch
        ((99, 100, 101), (102, 102.5, 103), "within noise"),  # apart, but by less than 3 %
        ((99, 100, 101), (103.2, 103.5, 104), "better"),
        ((80, 100, 101), (102, 110, 111), "within noise"),  # apart, but by less than one side's spread
        ((80, 100, 101), (125, 126, 127), "better"),
        ((100,), (110,), "within noise"),  # of one round the spread is not known: 15 %
        ((100,), (120,), "better"),
        ((100, 101), (90, 91), "within noise"),
        ((100, 100, 100), (100, 100, 100), "same"),
    ],
)
def test_rounds(old: tuple[float, ...], new: tuple[float, ...], seen: str) -> None:
    """A change counts where the ranges do not overlap and it exceeds the larger spread and 3 % (15 % for few rounds)."""
    assert verdict(rated(*old), rated(*new)) == seen


def test_on_a_busy_machine_less_counts() -> None:
    """Where either was measured on a busy machine, the spread counts twice, and a change from 15 % on."""
    old, new = comparison(rated(98, 100, 101)), comparison(rated(87, 88, 89))
    assert by_figure(old, new)["vgg16", "saturation_per_second"].verdict == "worse"
    busy = replace(new, busy=Busy(1.0, 0.0, is_busy=True))
    assert by_figure(old, busy)["vgg16", "saturation_per_second"].verdict == "within noise"
    wide = [comparison(rated(*each), busy=busy.busy) for each in ((90, 100, 110), (60, 61, 62), (58, 59, 59))]
    assert by_figure(wide[0], wide[1])["vgg16", "saturation_per_second"].verdict == "within noise"
    assert by_figure(wide[0], wide[2])["vgg16", "saturation_per_second"].verdict == "worse"


def test_noise_alone_seldom_counts() -> None:
    """Of rounds drawn twice from the same bell curve, under 6 % of three and under 1 % of five are called a change."""
    drawn = np.random.default_rng(7).normal(100, 5, size=(2, 1500, 5))
    for rounds, most in ((3, 0.06), (5, 0.01)):
        seen = [verdict(rated(*old[:rounds]), rated(*new[:rounds])) for old, new in zip(*drawn, strict=True)]
        assert sum(each in ("better", "worse") for each in seen) / len(seen) < most


def test_direction() -> None:
    """Fewer seconds and bytes are better, more inferences and more right answers are."""
    changes = by_figure(comparison(VGG), comparison(cost_card(onnx_bytes=500_000_000, seconds=0.25, correct=250)))
    seen = {name: each.verdict for (_, name), each in changes.items()}
    assert {seen[name] for name in ("onnx_bytes", "parameters", "memory_peak_bytes")} == {"better"}
    worse = (
        "p50_seconds",
        "p99_seconds",
        "saturation_per_second",
        "highest_rate_per_second",
        "top1",
        "batch_8_per_second",
    )
    assert {seen[name] for name in worse} == {"worse"}
    assert "memory_given_back_bytes" not in seen, "a lighter model gives back less, and that is no loss"
    assert changes["vgg16", "p50_seconds"].worse_percent == pytest.approx(100 * (0.25 / 0.18 - 1))
    assert changes["vgg16", "saturation_per_second"].worse_percent == pytest.approx(28)


def test_exact_figures_have_no_noise() -> None:
    """One byte more is worse, and one failed request; the same is the same."""
    larger = replace(VGG, disk=replace(VGG.disk, onnx_bytes=553_000_001), errors=1)
    changes = by_figure(comparison(VGG), comparison(larger))
    assert changes["vgg16", "onnx_bytes"].verdict == "worse"
    assert changes["vgg16", "onnx_bytes"].noise == 0
    assert changes["vgg16", "errors"].verdict == "worse"
    assert changes["vgg16", "compressed_bytes"].verdict == "same"


def test_accuracy_has_the_noise_of_a_share() -> None:
    """Of 360 images two more wrong are noise (twice the standard error), of 36,000 the same share is not."""

    def right(correct: int, images: int) -> CostCard:
        return replace(VGG, accuracy=Accuracy(correct, images))

    assert verdict(right(356, 360), right(354, 360), "top1") == "within noise"
    assert verdict(right(35600, 36000), right(35400, 36000), "top1") == "worse"
    assert verdict(right(356, 360), right(320, 360), "top1") == "worse"
    assert verdict(right(356, 360), right(99, 100), "top1") == "not comparable", "other images"
    found = change(BY_NAME["top1"], right(356, 360), right(354, 360))
    assert found
    assert found.noise == pytest.approx(2 * ((356 / 360 * 4 / 360 + 354 / 360 * 6 / 360) / 360) ** 0.5)


def test_measured_in_another_way_is_not_compared() -> None:
    """Rates under another bound, or with another number of callers, are told apart, not judged."""
    assert verdict(rated(100, 100, 100), rated(10, 10, 10, callers=4)) == "not comparable"
    assert VGG.server
    other = replace(VGG, server=Server(0.05, Repeated((1.0, 1.0, 1.0)), ()))
    changes = by_figure(comparison(VGG), comparison(other, settings=replace(comparison().settings, bound_seconds=0.05)))
    assert changes["vgg16", "highest_rate_per_second"].verdict == "not comparable"
    priced = [replace(VGG, price_per_million=price) for price in (3.0, 6.0)]
    settings = [replace(comparison().settings, hourly_price=price) for price in (1.0, 2.0)]
    found = differences(comparison(priced[0], settings=settings[0]), comparison(priced[1], settings=settings[1]))
    assert not any(each.figure == "price_per_million" for each in found.changes)
    assert "hourly_price differs: 1.0 then, 2.0 now" in found.warnings


def test_from_nothing() -> None:
    """From a rate of 0 any is better, to 0 it is all lost; neither is a division by zero."""
    found = change(RATE, rated(0, 0, 0), rated(5, 5, 5))
    assert found
    assert (found.verdict, found.ratio) == ("better", None)
    lost = change(RATE, rated(5, 5, 5), rated(0, 0, 0))
    assert lost
    assert (lost.verdict, lost.worse_percent) == ("worse", 100)


def test_models_of_one_side_are_listed() -> None:
    """A model that only one comparison has is named, and is neither better nor worse."""
    found = differences(comparison(VGG, RESNET), comparison(VGG, INT8))
    assert (found.only_old, found.only_new) == (("resnet50",), ("vgg16.int8",))
    assert {each.model for each in found.changes} == {"vgg16"}
    assert not found.worse()


def test_other_circumstances_are_told() -> None:
    """Another machine, another version, other settings, a busy machine and figures that one side lacks are told."""
    old = comparison(VGG)
    packages = {"packages": {"onnxruntime": "1.31.0"}, "cpu": "Another processor"}
    new = comparison(
        replace(VGG, provider="CUDAExecutionProvider", server=None, disk=Disk(553_000_000)),
        environment={**old.environment, **packages},
        settings=replace(old.settings, rounds=5),
        busy=Busy(1.0, 0.0, is_busy=True),
    )
    warnings = differences(old, new).warnings
    assert "cpu differs: A processor then, Another processor now" in warnings
    assert "onnxruntime differs: 1.32.0 then, 1.31.0 now" in warnings
    assert "rounds differs: 3 then, 5 now" in warnings
    assert any(each.startswith("the new comparison was measured on a busy machine") for each in warnings)
    assert "vgg16: provider differs: CPUExecutionProvider then, CUDAExecutionProvider now" in warnings
    lacking = "vgg16: only the old comparison has compressed_bytes, checkpoint_bytes, highest_rate_per_second"
    assert lacking in warnings
    assert differences(old, old).warnings == ()


def test_exit_code(tmp_path: Path) -> None:
    """1 where something is worse by more than --fail-over, which is named; 0 where nothing is, or without the option."""
    old, new = comparison(VGG, MOBILENET), comparison(cost_card(seconds=0.25), MOBILENET)
    code, text = printed(old, new, tmp_path, 30)
    assert code == 1
    assert "FAILED: more than 30 % worse: vgg16: " in text
    assert "p99 +38.9 %" in text.split("FAILED")[1]
    assert "saturation rate" not in text.split("FAILED")[1], "28 % is allowed"
    assert "mobilenet_v2" not in text
    assert printed(old, new, tmp_path, 50)[0] == 0
    assert printed(old, new, tmp_path, None)[0] == 0
    assert printed(new, old, tmp_path, 0)[0] == 0, "better is no failure"
    assert printed(old, old, tmp_path, 0) == (
        0,
        "0 better, 0 worse, 70 the same, within the noise or not comparable.\n",
    )


def test_table(tmp_path: Path) -> None:
    """A line says model, figure, old, new, change and noise, with units."""
    _, text = printed(comparison(VGG, RESNET), comparison(cost_card(seconds=0.25), MOBILENET), tmp_path, None)
    lines = [line.split() for line in text.splitlines()]
    assert ["vgg16", "p99", "201.6", "ms", "280.0", "ms", "+38.9", "%", "5.4", "%", "worse"] in lines
    assert "Only in the old comparison: resnet50." in text
    assert "Only in the new comparison: mobilenet_v2." in text


def test_json(tmp_path: Path) -> None:
    """The JSON holds every figure, with its noise and verdict, and what failed."""
    _, text = printed(comparison(VGG), comparison(cost_card(seconds=0.25)), tmp_path, 30, as_json=True)
    values = json.loads(text)
    assert values["schema"] == SCHEMA
    (p99,) = [each for each in values["changes"] if each["figure"] == "p99_seconds"]
    assert p99["verdict"] == "worse"
    assert p99["ratio"] == pytest.approx(0.25 / 0.18, rel=1e-3)
    assert p99 in values["failed"]
    assert len(values["changes"]) > 30

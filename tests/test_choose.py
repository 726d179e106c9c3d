"""Which model to deploy, why each other fell out, and what VGG would need."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from compare import comparison as store
from compare.bounds import Bounds, misses
from compare.choose import Choice, choose, newest, run
from compare.comparison import Comparison
from compare.cost import Accuracy, Busy, CostCard, Disk, Layer
from compare.vgg import wanted
from models.spec import NetweightError
from tests.costs import BARE, INT8, MOBILENET, RESNET, UNTRAINED, VGG, comparison, cost_card

BOUNDS = Bounds(max_mb=50, p99_ms=20, min_accuracy=0.97)
LAYERS = (
    Layer("features.0", "Conv", 14_714_688, 58_858_752, 15_000_000_000),
    Layer("classifier.0", "Gemm", 123_642_856, 494_571_424, 123_633_664),
)
VGG16 = replace(VGG, disk=Disk(553_430_240, layers=LAYERS), parameters=138_357_544)
POOL = cost_card("vgg16.pool.int8", "VGG-16", onnx_bytes=14_800_000, seconds=0.015, reference="vgg16", variant="int8")


def told(card: CostCard, bounds: Bounds) -> list[str]:
    return [miss.told for miss in misses(card, bounds)]


def printed(
    shown: Comparison, bounds: Bounds, folder: Path, width: int = 140, *, as_json: bool = False
) -> tuple[int, str]:
    store.write(folder / "comparison.json", shown)
    written = StringIO()
    console = Console(file=written, width=width, color_system=None)
    return run(folder / "comparison.json", bounds, console=console, as_json=as_json), written.getvalue()


def names(choice: Choice) -> list[str]:
    return [each.card.model for each in choice.judged]


def test_the_lightest_that_keeps_every_bound() -> None:
    """Of those that pass the one with the fewest bytes is chosen; of equals the shorter p99, then the name."""
    choice = choose(comparison(), BOUNDS)
    assert choice.chosen is not None
    assert choice.chosen.model == "mobilenet_v2"
    assert [card.model for card in choice.passing] == ["mobilenet_v2"]
    twin, slower = replace(MOBILENET, model="a_twin"), cost_card("a", onnx_bytes=14_000_000, seconds=0.006)
    assert names(choose(comparison(MOBILENET, slower, twin), BOUNDS)) == ["a_twin", "mobilenet_v2", "a"]


def test_every_missed_bound_is_told_with_how_far() -> None:
    """A model that misses three bounds is told three times, each with its figure, the factor and the bound."""
    assert told(VGG16, Bounds(max_mb=50, p99_ms=20, min_accuracy=0.995)) == [
        "ONNX 553.4 MB, 11.1 times the 50 MB allowed",
        "p99 201.6 ms, 10.1 times the 20 ms allowed",
        "accuracy 98.9 %, 0.61 points under the 99.5 % asked for",
    ]
    assert told(VGG16, Bounds(max_mb=540)) == ["ONNX 553.4 MB, 2.5 % over the 540 MB allowed"]
    assert told(VGG, Bounds(max_memory_mib=512)) == ["peak memory 876.9 MiB, 1.71 times the 512 MiB allowed"]
    assert told(replace(VGG, price_per_million=6.0), Bounds(max_price=2)) == [
        "price 6.00 for a million, 3 times the 2 for a million allowed"
    ]
    assert told(VGG, Bounds(max_mb=553, min_accuracy=356 / 360)) == [], "on the bound is within it"


def test_not_measured_is_not_passed() -> None:
    """What was not measured does not pass, and published accuracy is told but does not count."""
    assert told(UNTRAINED, Bounds(min_accuracy=0.1)) == [
        "accuracy was not measured (untrained; published 71.6 % on ImageNet-1K)"
    ]
    everything = Bounds(max_memory_mib=1e6, p99_ms=1e6, max_price=1e6, min_rate=0.001, min_accuracy=0.001)
    assert told(BARE, everything) == [
        "peak memory was not measured",
        "p99 was not measured",
        "price was not measured",
        "its highest rate under a p99 of 1e+06 ms was not measured",
        "accuracy was not measured (whether it is trained is not known)",
    ]
    assert told(BARE, Bounds(min_rate=1)) == ["its rate at saturation was not measured"]


def test_rate_under_the_bound() -> None:
    """With a p99 the rate is the Poisson rate measured under that p99 or a shorter one; without, that at saturation."""
    assert told(VGG, Bounds(min_rate=6)) == [], "6.1/s at saturation"
    assert told(VGG, Bounds(min_rate=10)) == ["6.11/s, 0.61 of the 10/s asked for"]
    assert told(VGG, Bounds(p99_ms=500, min_rate=6)) == ["4.28/s, 0.71 of the 6/s asked for"]
    assert told(VGG, Bounds(p99_ms=800, min_rate=4)) == [], "measured under 500 ms, so under 800 ms too"
    assert told(VGG, Bounds(p99_ms=300, min_rate=4)) == [
        "its highest rate under a p99 of 300 ms was not measured (only under 500 ms)"
    ]


def test_none_passes(tmp_path: Path) -> None:
    """Where none keeps every bound, the exit code is 1 and the nearest is named with what it misses."""
    code, text = printed(comparison(), Bounds(max_mb=10, min_accuracy=0.5), tmp_path)
    assert code == 1
    assert text.startswith(
        "No model keeps every bound. Nearest: mobilenet_v2: ONNX 14.0 MB, 1.4 times the 10 MB allowed."
    )


def test_nearest_prefers_what_is_known() -> None:
    """A model whose bounds can all be judged is nearer than one of which something was not measured."""
    assert names(choose(comparison(BARE, VGG, RESNET), Bounds(p99_ms=1))) == ["resnet50", "vgg16", "elsewhere"]


def test_answer(tmp_path: Path) -> None:
    """The answer comes first, then each model with its reasons, the rule, and what p99 is meant."""
    code, text = printed(comparison(), BOUNDS, tmp_path)
    assert code == 0
    assert text.startswith("Deploy mobilenet_v2 (MobileNetV2): ONNX 14.0 MB, peak memory 105.9 MiB, p99 5.60 ms, ")
    assert "It is the only one that keeps every bound." in text
    assert "Rule: of the models that keep every bound, the fewest ONNX bytes; then the shortest p99" in text
    assert "p99: of one caller at a time, batch 1 (single stream)" in text
    assert "under 20 ms was not measured: compare with --p99-ms 20" in text
    shown = printed(comparison(), Bounds(p99_ms=500), tmp_path)[1]
    assert "mobilenet_v2: its p99 stays under 500 ms up to 154.0/s (Poisson arrivals)." in shown


def test_what_others_are_better_in(tmp_path: Path) -> None:
    """Of several that pass it is told in which figures each is the best."""
    better = replace(RESNET, accuracy=Accuracy(359, 360))
    _, text = printed(comparison(better, MOBILENET), Bounds(max_mb=200), tmp_path)
    assert "Of the 2 that keep every bound it has the best ONNX, peak memory, p99, saturation rate." in text
    assert "resnet50 passes too, with the best accuracy." in text


@pytest.mark.parametrize("width", [120, 80, 60])
def test_width(width: int, tmp_path: Path) -> None:
    """No line is wider than the terminal, and every model stands there whole."""
    _, text = printed(comparison(VGG16, POOL, INT8, MOBILENET, BARE), BOUNDS, tmp_path, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert {"vgg16", "vgg16.pool.int8", "vgg16.int8", "mobilenet_v2", "elsewhere"} <= set(text.split())
    assert "…" not in text


def test_doubt_and_busy_machine(tmp_path: Path) -> None:
    """An accuracy within one standard error of the bound is told, and so is a busy machine."""
    near = comparison(MOBILENET, busy=Busy(1.0, 0.0, is_busy=True))
    _, text = printed(near, Bounds(min_accuracy=0.985), tmp_path)
    assert text.startswith("BUSY MACHINE")
    assert "mobilenet_v2: 98.6 % of 360 images is within one standard error (0.62 points) of the bound." in text
    assert "standard error" not in printed(near, Bounds(min_accuracy=0.9), tmp_path)[1]


def test_what_vgg_would_need() -> None:
    """It is told by what factors VGG misses, which models made from it do not, and what there is room for."""
    needs = wanted((VGG16, INT8, POOL, MOBILENET), BOUNDS)
    assert needs is not None
    assert list(needs.lines()) == [
        "What vgg16 would need: ONNX 553.4 MB, 11.1 times the 50 MB allowed; p99 201.6 ms, 10.1 times the 20 ms allowed.",
        "  vgg16.pool.int8 does: 14.8 MB, p99 16.8 ms, 98.9 % right.",
        (
            "  vgg16.int8 does not: ONNX 138.0 MB, 2.76 times the 50 MB allowed; p99 56.0 ms, 2.8 times the 20 ms "
            "allowed."
        ),
        (
            "  fp32 (4 bytes a parameter): room for 12.5 M; its convolutions hold 14.7 M (58.9 MB): too many whatever "
            "the head; only fewer channels, or fewer bytes each, would do."
        ),
        (
            "  fp16 (2 bytes a parameter): room for 25.0 M; its convolutions hold 14.7 M (29.4 MB), which leaves 10.3 M "
            "for a head that now holds 123.6 M."
        ),
        (
            "  int8 (1 byte a parameter): room for 50.0 M; its convolutions hold 14.7 M (14.7 MB), which leaves 35.3 M "
            "for a head that now holds 123.6 M."
        ),
    ]


def test_room_follows_the_card() -> None:
    """The room is computed from the layers that the card tells; without layers only the bound is."""
    needs = wanted((VGG16,), Bounds(max_mb=150))
    assert needs is not None
    assert [room.parameters for room in needs.room] == [37_500_000, 75_000_000, 150_000_000]
    assert needs.room[-1].told.endswith("the rest 123.6 M: all of it fits.")
    assert "nothing made from vgg16 was measured:" in " ".join(needs.lines())
    blind = wanted((replace(VGG16, disk=Disk(553_430_240)),), Bounds(max_mb=150))
    assert blind is not None
    assert blind.room[0].told == "fp32 (4 bytes a parameter): room for 37.5 M."
    easy = wanted((VGG16,), Bounds(max_mb=600))
    assert easy is not None
    assert list(easy.lines()) == ["vgg16 keeps every bound."]
    assert wanted((MOBILENET, INT8), BOUNDS) is None, "no VGG, only what was made from one"


def test_json(tmp_path: Path) -> None:
    """The JSON names what was chosen, every miss with its numbers, and what VGG would need."""
    code, text = printed(comparison(VGG16, POOL, MOBILENET, UNTRAINED), BOUNDS, tmp_path, as_json=True)
    values = json.loads(text)
    assert (code, values["chosen"], values["nearest"]) == (0, "mobilenet_v2", None)
    by_model = {each["model"]: each for each in values["models"]}
    assert by_model["vgg16"]["misses"][0] | {"factor": 11.1, "told": ""} == {
        "bound": "max_mb", "limit": 50, "value": 553.43024, "factor": 11.1, "told": "",
    }  # fmt: skip
    assert by_model["alexnet"]["misses"][1]["value"] is None
    assert by_model["mobilenet_v2"]["best_in"]
    assert values["vgg"]["room"][0]["convolutions"] == 14_714_688
    assert printed(comparison(VGG16), BOUNDS, tmp_path, as_json=True)[0] == 1


def test_patterns() -> None:
    """Models are restricted by name or pattern; a pattern that fits none says what there is."""
    choice = choose(comparison(), Bounds(max_mb=1000), ["vgg*", "alexnet"])
    assert set(names(choice)) == {"vgg16", "vgg16.int8", "alexnet"}
    with pytest.raises(NetweightError, match=r"no measured model is called squeeze\*; measured: vgg16, resnet50"):
        choose(comparison(), Bounds(max_mb=1), ["squeeze*"])


def test_bounds_are_checked() -> None:
    """No bound at all, a bound of nothing, and 97 for 97 % are refused with what was expected."""
    with pytest.raises(NetweightError, match="expected at least one bound, such as --max-mb 50"):
        Bounds()
    with pytest.raises(
        NetweightError, match=r"--min-accuracy: expected more than 0 and at most 1 \(0.97 is 97 %\), got 97"
    ):
        Bounds(min_accuracy=97)
    with pytest.raises(NetweightError, match="--max-mb: expected more than 0, got 0"):
        Bounds(max_mb=0)
    with pytest.raises(NetweightError, match="--p99-ms: expected more than 0, got nan"):
        Bounds(p99_ms=float("nan"))


def test_newest_comparison(tmp_path: Path) -> None:
    """Without --results the comparison that was written last is taken; where there is none, it is said how to make one."""
    with pytest.raises(NetweightError, match="make one with `netweight compare --output out/mine`"):
        newest(tmp_path)
    paths = [tmp_path / name / "comparison.json" for name in (".", "out/demo", "out/mine")]
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (1000 + age % 2, 1000 + age % 2))
    assert newest(tmp_path) == paths[1]

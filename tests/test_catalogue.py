"""compare/catalogue.py and compare/exported.py: the stored comparisons, made on stand-ins of training and export."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compare import catalogue, comparison
from compare.card import model_names
from compare.catalogue import VARIANTS, Steps, main, suffix
from compare.demo import Layout
from compare.exported import Export
from compare.families import FAMILIES
from compare.plan import PLANS
from compare.run import UnfinishedError
from models import catalog
from models.spec import NetweightError
from tests import fake_netweight
from tests.costs import comparison as made_up
from tests.plans import ONCE
from tests.published import card_values

FAKE = (sys.executable, "-m", "tests.fake_exports")
FILES = {f".{ending}" for ending in ("json", "csv", "md", "html", "svg")}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls"
    monkeypatch.setenv("FAKE_NETWEIGHT_CALLS", str(path))
    return path


def take(calls: Path) -> list[str]:
    """Return the calls since the last take, those of serve left out."""
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [line for line in lines if not line.startswith("serve")]


def steps(tmp_path: Path, lines: list[str] | None = None) -> Steps:
    return Steps(tmp_path / "docs/results", ONCE, (lines if lines is not None else []).append, FAKE)


def test_the_catalogue_is_exported_once_measured_and_stored(tmp_path: Path, calls: Path) -> None:
    """Every network is exported untrained, in order; all files are there; a second call exports nothing again."""
    names = ["vgg16", "resnet50"]
    measured = steps(tmp_path).catalogue(tmp_path / "out", names)
    assert take(calls) == ["export vgg16", "export resnet50"]
    assert [(card.model, card.trained, card.accuracy) for card in measured.cards] == [(n, False, None) for n in names]
    stored = tmp_path / "docs/results"
    assert {path.suffix for path in stored.glob("catalogue.*")} == FILES
    assert [card["model"] for card in json.loads((stored / "catalogue.json").read_text())["cards"]] == names
    assert all((tmp_path / "docs" / name).read_text().startswith("<svg") for name in ("cost.svg", "cost-dark.svg"))
    lines: list[str] = []
    (tmp_path / "out/model_repository/vgg16/1/model.onnx").write_bytes(b"")
    steps(tmp_path, lines).export([Export(name, (name,)) for name in names], tmp_path / "out/model_repository")
    assert take(calls) == ["export vgg16"]
    assert "[2/2] export resnet50: done before" in lines


def test_what_is_not_whole_is_kept_aside(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model fails, what was measured of the others does not take the place of what is stored."""

    def fail(*_: Any, **__: Any) -> None:
        raise UnfinishedError("1 of 2 models failed", made_up(), interrupted=False)

    monkeypatch.setattr(catalogue, "compare", fail)
    with pytest.raises(UnfinishedError):
        steps(tmp_path).catalogue(tmp_path / "out", ["vgg16"])
    aside = comparison.read(tmp_path / "out/catalogue-unfinished.json")
    assert [card.model for card in aside.cards] == [card.model for card in made_up().cards]
    assert not (tmp_path / "docs").exists()


def test_digits_are_trained_exported_with_variants_and_asked(tmp_path: Path, calls: Path) -> None:
    """Each is trained and exported, int8 beside; all answer the held-out images; a second call does nothing again."""
    measured = steps(tmp_path).digits(tmp_path / "out", ["mobilenet_v2"])
    assert take(calls) == [
        "train mobilenet_v2",
        "export mobilenet_v2",
        "export mobilenet_v2 --variant int8 --calibration digits",
    ]
    assert [(card.model, card.reference) for card in measured.cards] == [
        ("mobilenet_v2", None),
        ("mobilenet_v2.int8", "mobilenet_v2"),
    ]
    assert [card.accuracy and (card.accuracy.top1, card.accuracy.agreement) for card in measured.cards] == [
        (0.9, None),
        (0.9, 1.0),
    ]
    assert {path.suffix for path in (tmp_path / "docs/results").glob("digits.*")} == FILES
    layout = Layout(tmp_path / "out")
    assert all(export.stands(layout.repository) for export in catalogue.trained(layout, "mobilenet_v2"))


def test_vgg_has_lighter_heads_to_choose_from(tmp_path: Path, calls: Path) -> None:
    """The trained VGG is exported as it is and with each head, in fp32 and int8, each of its own call."""
    layout, networks = Layout(tmp_path), ("vgg16_bn", "lenet5")
    for network in networks:
        fake_netweight.train(network, layout.run(network))
    steps(tmp_path).export(
        [each for network in networks for each in catalogue.trained(layout, network)], layout.repository
    )
    int8 = "--variant int8 --calibration digits"
    assert take(calls) == [
        "export vgg16_bn",
        f"export vgg16_bn --head pool {int8}",
        f"export vgg16_bn --head svd --rank 64 --head-epochs 2 {int8}",
        "export lenet5",
    ]
    ends = ("", ".pool", ".pool.int8", ".svd", ".svd.int8")
    assert model_names(layout.repository) == ["lenet5", *(f"vgg16_bn{end}" for end in ends)]


def test_a_step_that_fails_is_named(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that failed stands in the message, and what comes after it is not tried."""
    monkeypatch.setenv("FAKE_NETWEIGHT_FAILS", "vgg11")
    with pytest.raises(
        NetweightError, match=r"^netweight export vgg11 --weights random .* failed with exit code 1; mend"
    ):
        steps(tmp_path).catalogue(tmp_path / "out", ["vgg11", "vgg16"])
    assert take(calls) == ["export vgg11"]


def test_names_are_the_catalogues() -> None:
    """Every network is measured, as the command line lists them; what has variants is trained on the digits."""
    assert Steps(Path(), ONCE).names() == list(catalog.names())
    assert set(VARIANTS) <= set(FAMILIES)


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({}, True),
        ({"sha256": "other"}, False),
        ({"bytes": 4}, False),
        ({"schema": "other"}, False),
        ({"origin": "trained"}, False),
        ({"sha256": "lighter", "origin": "given"}, True),
    ],
)
def test_what_stands_is_whole_and_of_these_weights(tmp_path: Path, change: dict[str, Any], stands: bool) -> None:
    """Its files have their bytes, and its checkpoint, or the one before a lighter head was made, is the one given."""
    folder = tmp_path / "net/2"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"123")
    card = card_values("net", sha256=change.get("sha256", "given")) | {
        "schema": change.get("schema", "netweight-card/1")
    }
    card["graph"]["files"] = {"model.onnx": {"bytes": change.get("bytes", 3)}}
    card["head"] = {"origin": {"sha256": change["origin"]}} if "origin" in change else None
    (folder / "card.json").write_text(json.dumps(card))
    export = Export("net", ("net",), Path("best.pt"), "given")
    assert export.stands(tmp_path) is stands
    assert not replace(export, makes=("net", "net.int8")).stands(tmp_path)


def test_an_unfinished_training_is_told(tmp_path: Path) -> None:
    """A run without a whole checkpoint is not exported."""
    with pytest.raises(NetweightError, match="left no finished run"):
        catalogue.trained(Layout(tmp_path), "lenet5")


def test_results_of_a_gpu_have_names_of_their_own() -> None:
    """Where a model ran on a GPU the files do not take the place of those of a CPU."""
    told = made_up()
    on = [
        replace(told, cards=tuple(replace(card, provider=provider) for card in told.cards))
        for provider in ("CPUExecutionProvider", "CUDAExecutionProvider", None)
    ]
    assert [suffix(each) for each in on] == ["", "-gpu", ""]


def test_files_are_drawn_anew_from_the_stored_json(tmp_path: Path) -> None:
    """`--redraw` measures nothing; without the stored JSON it says in one line what it expected."""
    stored = tmp_path / "docs/results"
    comparison.write(stored / "catalogue.json", made_up())
    before = comparison.read(stored / "catalogue.json")
    asked = ["--redraw", "--only", "catalogue", "--results", str(stored)]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    assert {path.suffix for path in stored.glob("catalogue.*")} == FILES
    assert comparison.read(stored / "catalogue.json") == before
    assert (tmp_path / "docs/cost.svg").exists()
    missing = CliRunner().invoke(main, ["--redraw", "--only", "digits", "--results", str(stored)])
    assert missing.exit_code == 1
    assert "digits.json: expected a comparison" in missing.output


@pytest.mark.parametrize(
    ("arguments", "plan", "rounds", "chosen"),
    [
        ([], "standard", PLANS["standard"].rounds, ["catalogue", "digits"]),
        (["--plan", "quick", "--rounds", "7", "--only", "digits"], "quick", 7, ["digits"]),
    ],
)
def test_options(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], plan: str, rounds: int, chosen: list[str]
) -> None:
    """Both comparisons by the plan `standard`, unless told otherwise."""
    asked: list[Any] = []
    monkeypatch.setattr(catalogue, "measure", lambda *given, **_: asked.extend(given))
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (asked[0].plan.name, asked[0].plan.rounds, asked[1]) == (plan, rounds, chosen)


STORED = Path(__file__).parents[1] / "docs/results"
MOST_BYTES = 3_000_000


def stored(name: str) -> comparison.Comparison:
    path = STORED / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there: make results-comparison")
    assert path.stat().st_size < MOST_BYTES
    assert {each.suffix for each in STORED.glob(f"{name}.*")} == FILES
    return comparison.read(path)


def test_the_stored_catalogue_is_the_catalogue() -> None:
    """docs/results/catalogue.json has every network, untrained, with what it costs, on the machine that it names."""
    told = stored("catalogue")
    assert [card.model for card in told.cards] == list(catalog.names())
    for card in told.cards:
        record = catalog.get(card.model)
        assert (card.trained, card.accuracy) == (False, None), card.model
        assert (card.parameters, card.multiply_accumulates) == (record.parameters, record.multiply_accumulates)
        assert card.single_stream, card.model
        assert card.saturation, card.model
        assert card.cold_start, card.model
        assert card.memory, card.model
        assert card.published, card.model
    assert told.environment["cpu"]


def test_the_stored_digits_were_asked() -> None:
    """docs/results/digits.json has a network of each family and the variants, each with the accuracy measured."""
    told = stored("digits")
    assert set(FAMILIES) < {card.model for card in told.cards}
    assert {"mobilenet_v2.int8", "resnet50.int8", "vgg16_bn.pool.int8", "vgg16_bn.svd"} < {c.model for c in told.cards}
    for card in told.cards:
        assert card.trained, card.model
        assert card.accuracy, card.model
        assert card.accuracy.images == 360
        assert (card.accuracy.agreed is None) == (card.reference is None), card.model

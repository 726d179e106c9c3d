"""The command line of the comparison: what it hands on, prints, writes and exits with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import compare.run
import netweight
from compare import comparison as comparisons
from compare.commands import _changed
from compare.plan import PLANS
from compare.run import UnfinishedError
from tests.costs import MOBILENET, VGG, comparison, cost_card

SLOW = cost_card("vgg16", "VGG-16", seconds=0.54)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netweight.main, arguments)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the options that measuring would get; nothing is measured."""
    options: dict[str, Any] = {}

    def measure(**values: Any) -> Any:
        options.update(values)
        values["report"]("measuring")
        return comparison()

    monkeypatch.setattr(compare.run, "compare", measure)
    return options


def test_options_are_handed_on(given: dict[str, Any], tmp_path: Path) -> None:
    """The plan with what the user wants otherwise, the bound in seconds; every file is written under the name."""
    options = ["--full", "--p99-ms", "20", "--hourly-price", "3", "--callers", "7", "--rounds", "2", "--seconds", "0.5"]
    done = run("compare", "vgg*", "lenet5", *options, "--output", str(tmp_path), "--name", "mine")
    assert done.exit_code == 0, done.output
    assert given["models"] == ("vgg*", "lenet5")
    assert given["bound_seconds"] == 0.02
    assert given["hourly_price"] == 3.0
    plan = given["plan"]
    assert (plan.name, plan.callers, plan.fewest_callers, plan.rounds, plan.seconds) == ("full", 7, 7, 2, 0.5)
    assert {path.name for path in tmp_path.iterdir()} == {f"mine.{end}" for end in ("json", "csv", "md", "html", "svg")}
    assert "measuring" in done.output
    assert str(tmp_path / "mine.json") in done.output.replace("\n", "")


def test_json_alone_is_on_stdout(given: dict[str, Any]) -> None:
    """With --json stdout is the comparison's schema, progress goes to stderr; the plan is standard unless said."""
    done = run("compare", "--json")
    assert json.loads(done.stdout)["schema"] == comparisons.SCHEMA
    assert "measuring" in done.stderr
    assert given["plan"] == PLANS["standard"]
    assert given["bound_seconds"] == compare.run.BOUND_SECONDS


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 1)])
def test_what_was_measured_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, interrupted: bool, code: int
) -> None:
    """Where models failed or the user interrupted, the others are shown and written, and the exit code tells."""

    def measure(**_values: Any) -> Any:
        raise UnfinishedError("1 of 2 models failed: lenet5: gone", comparison(VGG), interrupted=interrupted)

    monkeypatch.setattr(compare.run, "compare", measure)
    done = run("compare", "--output", str(tmp_path))
    assert done.exit_code == code
    assert "lenet5: gone" in done.stderr
    assert [card.model for card in comparisons.read(tmp_path / "comparison.json").cards] == ["vgg16"]


def test_plans_are_changed_only_where_asked() -> None:
    """Without options a plan stays as it is."""
    assert _changed(PLANS["quick"], None, None, None) == PLANS["quick"]
    assert _changed(PLANS["quick"], None, 3.0, None) == replace(PLANS["quick"], seconds=3.0, offline_seconds=3.0)


def test_difference(tmp_path: Path) -> None:
    """--diff measures nothing; beyond --fail-over the exit code is 1; --fail-over alone is misuse."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    comparisons.write(old, comparison(VGG))
    comparisons.write(new, comparison(SLOW))
    assert run("compare", "--diff", str(old), str(old), "--fail-over", "5").exit_code == 0
    assert run("compare", "--diff", str(old), str(new)).exit_code == 0
    failed = run("compare", "--diff", str(old), str(new), "--fail-over", "5")
    assert (failed.exit_code, "vgg16" in failed.output) == (1, True)
    assert json.loads(run("compare", "--diff", str(old), str(new), "--json").stdout)["changes"]
    assert run("compare", "--fail-over", "5").exit_code == 2


def test_choice(tmp_path: Path) -> None:
    """`netweight choose` names the model; without one that keeps the bounds, or without a bound, the exit code is 1."""
    path = tmp_path / "comparison.json"
    comparisons.write(path, comparison(VGG, MOBILENET))
    done = run("choose", "--results", str(path), "--max-mb", "50", "--p99-ms", "30", "--json")
    assert (done.exit_code, json.loads(done.stdout)["chosen"]) == (0, "mobilenet_v2")
    assert run("choose", "vgg*", "--results", str(path), "--max-mb", "50").exit_code == 1
    bare = run("choose", "--results", str(path))
    assert (bare.exit_code, "expected at least one bound" in bare.output) == (1, True)

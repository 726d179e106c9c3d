"""Plain ONNX Runtime as the limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from compare.bench import limit
from compare.limit import BATCHES, QUICK_BATCHES, Setting, main, settings
from models.spec import NetweightError
from tests.graphs import slow
from tests.published import publish


def test_settings() -> None:
    """One caller, a caller for each core and a thread for each core are tried, with external weights unpacked too."""
    plain = settings(2, external_weights=False)
    assert {(each.threads, each.callers) for each in plain} == {(1, 1), (1, 2), (2, 1)}
    assert all(each.prepacking for each in plain)
    external = settings(2, external_weights=True)
    assert len(set(external)) == len(external) == 2 * len(plain)
    assert {(each.threads, each.callers) for each in settings(1, external_weights=False)} == {(1, 1)}
    assert [Setting.parse(each.text) for each in external] == external


def test_limit(tmp_path: Path) -> None:
    """The limit comes from a process of its own, with every setting's figures and the best of them."""
    folder = publish(tmp_path, "tiny")
    answer = limit(folder / "model.onnx", 0.02)
    results = answer["settings"]
    assert {result["batch"] for result in results} == set(QUICK_BATCHES), "a quick model is tried at larger batches"
    assert answer["best"]["inferences_per_second"] == max(result["inferences_per_second"] for result in results) > 0
    assert (answer["best_one_caller"]["callers"], answer["best_one_caller"]["batch"]) == (1, 1)
    assert all(result["executions"] >= result["callers"] for result in results)
    assert all(result["cpu_seconds_per_inference"] > 0 for result in results)
    with pytest.raises(NetweightError, match="no such file"):
        limit(tmp_path / "absent.onnx", 0.02)


def test_chosen_settings(tmp_path: Path) -> None:
    """Settings that are named are the only ones measured; one caller with batch 1 must be among them."""
    folder = publish(tmp_path, "tiny")
    chosen = ["1,1,1,1", "1,2,8,1"]
    answer = limit(folder / "model.onnx", 0.02, chosen)
    assert [result["setting"] for result in answer["settings"]] == chosen
    with pytest.raises(NetweightError, match="expected one with 1 caller and batch 1"):
        limit(folder / "model.onnx", 0.02, ["1,2,8,1"])


def test_larger_batches_only_where_cheap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that takes milliseconds is not tried at the batches of a quick one."""
    path = slow(tmp_path, rounds=40)
    main([str(path), "--seconds", "0.01"])
    told = capsys.readouterr().out
    assert {f'"batch": {batch},' in told for batch in BATCHES} == {True}
    assert '"batch": 32,' not in told

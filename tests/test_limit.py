"""Plain ONNX Runtime as the limit, and the server beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compare.bench import BenchRow, bench, limit, main
from compare.limit import settings
from models.spec import NetweightError
from tests.published import publish


def test_settings() -> None:
    """One caller, a caller for each core and a thread for each core are tried, with external weights unpacked too."""
    plain = settings(2, external_weights=False)
    assert {(each.threads, each.callers) for each in plain} == {(1, 1), (1, 2), (2, 1)}
    assert all(each.prepacking for each in plain)
    external = settings(2, external_weights=True)
    assert len(set(external)) == len(external) == 2 * len(plain)
    assert {(each.threads, each.callers) for each in settings(1, external_weights=False)} == {(1, 1)}


def test_limit(tmp_path: Path) -> None:
    """The limit comes from a process of its own, with every setting's figures and the best of them."""
    folder = publish(tmp_path, "tiny")
    answer = limit(folder / "model.onnx", 0.02)
    rates = [result["inferences_per_second"] for result in answer["settings"]]
    assert answer["best"]["inferences_per_second"] == max(rates) > 0
    assert (answer["best_one_caller"]["callers"], answer["best_one_caller"]["batch"]) == (1, 1)
    assert all(result["executions"] >= result["callers"] for result in answer["settings"])
    with pytest.raises(NetweightError, match="no such file"):
        limit(tmp_path / "absent.onnx", 0.02)


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each model has a row for each number of callers, medians over the rounds, and the ratio is theirs."""
    publish(tmp_path, "tiny")
    path = tmp_path / "out" / "results.json"
    times = ["--seconds", "0.1", "--rounds", "2", "--callers", "1", "4"]
    main(["--repository", str(tmp_path), *times, "--output", str(path), "tiny"])
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = [BenchRow(**row) for row in results["rows"]]
    assert results["environment"]["cores"]
    assert [(row.network, row.callers, row.errors) for row in rows] == [("tiny", 1, 0), ("tiny", 4, 0)]
    for row in rows:
        assert row.ratio == pytest.approx(row.throughput_per_second / row.limit_per_second)
        assert len(row.throughputs) == len(row.limits) == len(row.limit_settings) == 2
    assert capsys.readouterr().out.count("tiny") == 2


def test_bench_of_nothing(tmp_path: Path) -> None:
    """An unknown model fails before a server is started."""
    with pytest.raises(NetweightError, match="vgg99: not in repository"):
        bench(["vgg99"], tmp_path)

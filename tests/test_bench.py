"""The benchmark: rows out of samples, targets, and one run of it with the real server."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.measure import Measurement

from compare import h2load, process_tree
from compare.bench import (
    EXPORTS,
    Case,
    Export,
    Plan,
    _default_cases,
    _H2loadWindow,
    bench,
    best_settings,
    main,
    prepare,
)
from compare.bench_row import BenchRow, ModelFacts, Sample, Samples, load_table, make_row, notes, start_table
from compare.metrics_page import Counts
from compare.process_tree import TreeMemory
from compare.startup import Startup
from compare.targets import TARGETS, judge
from models.spec import NetweightError
from tests.published import publish

MIB = 2**20
MEMORY = TreeMemory(resident=700 * MIB, anonymous=200 * MIB, peak_resident=720 * MIB, proportional=690 * MIB)
STARTUP = Startup((0.5, 0.9, 0.4), (0.6, 1.0, 0.7), MEMORY, 150 * MIB)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def best(rate: float, *, p50: float = 0.01, cpu: float = 0.009) -> dict[str, Any]:
    return {
        "setting": f"1,1,1,{int(rate)}",
        "threads": 1,
        "callers": 1,
        "batch": 1,
        "prepacking": True,
        "inferences_per_second": rate,
        "latency_p50_seconds": p50,
        "cpu_seconds_per_inference": cpu,
    }


def sample(rate: float, cpu: float | None = 0.010, **facts: Any) -> Sample:
    return Sample(rate, np.array([0.1, 0.2, 0.3]) / rate, cpu, **facts)


def row(network: str = "tiny", *, callers: int = 32, frontends: int = 1, **values: Any) -> BenchRow:
    """Return a row of three rounds, with some of its values replaced."""
    samples = Samples(
        {(frontends, callers): [sample(80), sample(100), sample(90)]},
        [{"best": best(rate), "best_one_caller": best(rate / 2)} for rate in (100, 120, 110)],
    )
    facts = ModelFacts(network, trained=False, file_bytes=500 * MIB, message_bytes=1057)
    made = make_row(facts, STARTUP, samples, callers=callers, frontends=frontends, caller="h2load")
    return replace(made, **values)


def test_row() -> None:
    """Rates are medians over the rounds and the ratio is theirs; latencies are all requests'; figures keep their unit."""
    made = row()
    assert (made.throughput_per_second, made.limit_per_second) == (90, 110)
    assert made.ratio == pytest.approx(90 / 110)
    assert made.latency_samples == 9
    assert made.latency_p50_seconds == pytest.approx(0.2 / 90)
    assert made.cpu_beyond_network_seconds == pytest.approx(0.001)
    assert (made.start_to_ready_seconds, made.start_to_first_answer_seconds) == (0.5, 0.7)
    assert (made.resident_bytes, made.anonymous_bytes) == (700 * MIB, 200 * MIB)


def test_limit_of_one_caller() -> None:
    """Beside one caller stands the limit's best single caller."""
    assert row(callers=1).limit_per_second == 55


def test_row_with_a_problem() -> None:
    """One window that does not count takes the row with it, and its errors are added up."""
    samples = Samples(
        {(1, 8): [sample(80, None), sample(90, None, errors=3, problem="the server answered 3 x INTERNAL")]},
        [{"best": best(100)}],
    )
    facts = ModelFacts("tiny", trained=True, file_bytes=1, message_bytes=1)
    made = make_row(facts, STARTUP, samples, callers=8, frontends=1, caller="h2load")
    assert (made.errors, made.problem) == (3, "the server answered 3 x INTERNAL")
    assert made.server_cpu_seconds_per_request is None
    assert made.cpu_beyond_network_seconds is None
    assert "tiny at 8 callers does not count: the server answered 3 x INTERNAL" in notes([made])


def test_window_that_the_server_contradicts() -> None:
    """h2load's HTTP 200 with a gRPC error inside is an error all the same."""
    window = _H2loadWindow(h2load.Summary(20, 20, 20), h2load.parse_log("1000000\t200\t1000\n2000000\t200\t1000\n"))
    seen = window.sample(Counts({"OK": 12, "INTERNAL": 8}, 12), 0.6, callers=4)
    assert seen.problem == "the server answered 8 x INTERNAL"
    assert seen.errors == 8
    assert seen.cpu_seconds_per_request == pytest.approx(0.05)


def test_best_settings() -> None:
    """The fastest three and one caller's best are measured again, in the order in which they were."""
    results = [best(rate) for rate in (50, 10, 40, 20, 60)]
    assert best_settings({"settings": results, "best_one_caller": results[1]}) == [
        f"1,1,1,{rate}" for rate in (50, 10, 40, 60)
    ]


def test_targets() -> None:
    """A target is met on its bound, missed beyond it, and unknown without its row, or with a row that does not count."""
    rows = [
        row("mobilenet_v2", callers=1, latency_p50_seconds=0.0111),
        row("mobilenet_v2", ratio=0.92),
        row("vgg16", ratio=0.99, problem="the server answered 1 x INTERNAL"),
        row("lenet5", callers=64, throughput_per_second=6499.0),
    ]
    verdicts = {verdict.target.title: verdict for verdict in judge(rows)}
    assert verdicts["MobileNetV2, 32 callers, share of the limit"].met is True
    assert verdicts["MobileNetV2, 1 caller, p50 beyond the limit's"].met is False
    assert verdicts["VGG-16, 32 callers, share of the limit"].met is None
    assert verdicts["VGG-16, anonymous memory"].measured == 200
    assert verdicts["VGG-16, peak memory ÷ file"].met is False
    assert verdicts["LeNet-5, 64 callers, two front ends"].met is None
    missed = verdicts["LeNet-5, 64 callers, one process"]
    assert missed.line == "NOT met  LeNet-5, 64 callers, one process: 6,499 /s (≥ 6,500 /s)"
    assert not any("ResNet" in title for title in verdicts), "what was not measured at all is not judged"


def test_default_plan_covers_every_target() -> None:
    """Each target has a case that measures it, with one process or with two."""
    cases = {case.network: case for case in _default_cases(None, [1, 2])}
    assert set(cases) == {export.name for export in EXPORTS}
    for target in TARGETS:
        case = cases[target.network]
        assert target.callers is None or target.callers in case.callers, target.title
        assert target.frontends in case.frontends, target.title


def test_tables_fit() -> None:
    """No figure is cut off in 100 columns, and a row that does not count says so."""
    wide = row("mobilenet_v2.float32", throughput_per_second=11312.0, limit_per_second=60200.0)
    console = Console(width=200)
    for table in (load_table([wide]), start_table([wide])):
        assert Measurement.get(console, console.options, table).maximum <= 100
    assert list(load_table([row(problem="x")]).columns[5].cells) == ["error"]


def test_prepare(tmp_path: Path) -> None:
    """Models that are not there are exported under their own name, those that are there stay."""
    publish(tmp_path, "there")
    calls = tmp_path / "calls"
    code = f"import sys; open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))"
    exports = (Export("there", "there"), Export("absent.float32", "absent", "float32"))
    prepare(tmp_path, exports, command=(sys.executable, "-c", code))
    assert calls.read_text().splitlines() == [
        f"export absent --name absent.float32 --input float32 --repository {tmp_path}"
    ]
    with pytest.raises(NetweightError, match="export absent failed with exit code 3"):
        prepare(tmp_path, exports, command=(sys.executable, "-c", "import sys; sys.exit(3)"))


@linux
def test_process_tree() -> None:
    """CPU seconds grow with work, and the parts of memory are no larger than the whole."""
    before = process_tree.cpu_seconds(os.getpid())
    while process_tree.cpu_seconds(os.getpid()) < before + 0.02:
        sum(range(100_000))
    memory = process_tree.memory(os.getpid())
    assert memory.anonymous is not None
    assert memory.peak_resident is not None
    assert 0 < memory.anonymous < memory.resident <= memory.peak_resident * 1.01


@pytest.mark.parametrize("caller", ["netweight", "h2load"])
def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], caller: str) -> None:
    """Each model has a row for each number of callers out of a real server, every reply OK, with every figure."""
    if caller == "h2load" and not h2load.available():
        pytest.skip("h2load is not on PATH (Debian: nghttp2-client)")
    publish(tmp_path, "tiny", trained=False)
    path = tmp_path / "out" / "results.json"
    times = ["--seconds", "0.1", "--rounds", "2", "--starts", "1", "--callers", "1", "4"]
    main(["tiny", "--repository", str(tmp_path), *times, "--caller", caller, "--output", str(path)])
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = [BenchRow(**values) for values in results["rows"]]
    assert results["schema"] == "netweight-bench/2"
    assert results["environment"]["cores"]
    assert [(each.network, each.callers, each.errors, each.problem) for each in rows] == [
        ("tiny", 1, 0, None),
        ("tiny", 4, 0, None),
    ]
    for each in rows:
        assert each.ratio == pytest.approx(each.throughput_per_second / each.limit_per_second)
        assert len(each.throughputs) == len(each.limits) == len(each.limit_settings) == 2
        assert each.caller == caller
        assert each.latency_samples > 0
        assert each.server_cpu_seconds_per_request is not None
        assert each.server_cpu_seconds_per_request > 0
        assert each.start_to_first_answer_seconds >= each.start_to_ready_seconds > 0
    said = capsys.readouterr().out
    assert said.count("tiny†") == 3
    assert "untrained" in said


def test_bench_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown model fails in one line before a server is started or a model exported."""
    with pytest.raises(NetweightError, match="vgg99: not in repository"):
        bench([Case("vgg99")], tmp_path, Plan())
    with pytest.raises(SystemExit):
        main(["vgg99"])
    assert "vgg99: expected one of lenet5" in capsys.readouterr().err

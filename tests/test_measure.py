"""Records, units, and what is read off the metrics page, the repository and the machine."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from compare.card import model_names, read_card, read_max_batch_size
from compare.measure import Accuracy, FileSize, Latency, Memory, Row, Throughput
from compare.metrics_page import ModelFigures, parse_figures, read_figures
from models.environment import cpu_quota_cores, environment, memory_limit_bytes, usable_cores
from models.spec import NetweightError
from tests.published import card_values, publish


def latency(*samples: float) -> Latency:
    return Latency(np.array(samples, np.float64))


@pytest.mark.parametrize(
    ("samples", "p50", "p90", "p99"),
    [
        (range(1, 101), 50, 90, 99),
        (range(1, 1001), 500, 900, 990),
        (range(1, 11), 5, 9, 10),
        ([7], 7, 7, 7),
        ([3, 1, 2], 2, 3, 3),
    ],
)
def test_percentiles(samples: list[int], p50: float, p90: float, p99: float) -> None:
    """Percentiles are nearest-rank: the smallest sample that so many percent do not exceed, in any order of samples."""
    measured = latency(*samples)
    assert (measured.p50_seconds, measured.p90_seconds, measured.p99_seconds) == (p50, p90, p99)


def test_no_samples() -> None:
    """Without samples a percentile is unknown, not zero."""
    assert latency().p99_seconds is None


def test_units() -> None:
    """VGG-16's 138,357,544 fp32 parameters are 553.4 MB and 527.8 MiB: the two units are never mixed."""
    size = FileSize(138_357_544 * 4)
    assert (round(size.megabytes, 1), round(size.mebibytes, 1)) == (553.4, 527.8)
    assert Memory(3 * 2**20).mebibytes == 3


def test_rates() -> None:
    """Throughput counts inferences over seconds, accuracy the right images over all."""
    assert Throughput(callers=8, inferences=300, seconds=1.5).per_second == 200
    assert Throughput(callers=8, inferences=0, seconds=0.0).per_second == 0
    assert Accuracy(correct=353, images=360).top1 == 353 / 360


def test_row_as_json() -> None:
    """A row's JSON has the fields that a reader of results.json looks for, and each throughput with its rate."""
    row = Row(
        "lenet5", 61_706, None, 253_120, None, None, 0.001, 0.002, 900.0, None, throughputs=(Throughput(8, 9, 2),)
    )
    values = json.loads(json.dumps(row.to_dict()))
    assert values["throughputs"] == [{"callers": 8, "inferences": 9, "seconds": 2, "per_second": 4.5}]
    assert {"network", "parameters", "checkpoint_bytes", "onnx_bytes", "load_seconds", "resident_bytes"} <= set(values)
    assert {"latency_p50_seconds", "latency_p99_seconds", "throughput_per_second", "accuracy"} <= set(values)


def page() -> str:
    """Return a metrics page of two models, written by prometheus_client."""
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(f"netweight_model_{name}", name, labels, registry=registry)
        for name, labels in {
            "load_seconds": ("model", "version"),
            "resident_bytes": ("model", "version"),
            "file_bytes": ("model", "version"),
            "provider_info": ("model", "version", "provider"),
        }.items()
    }
    for name, value in (("load_seconds", 0.25), ("resident_bytes", 553_430_176), ("file_bytes", 1.5e10)):
        gauges[name].labels("vgg16", "2").set(value)
    gauges["provider_info"].labels("vgg16", "2", "CUDAExecutionProvider").set(0)
    gauges["provider_info"].labels("vgg16", "2", "CPUExecutionProvider").set(1)
    gauges["load_seconds"].labels("lenet5", "1").set(0.5)
    return generate_latest(registry).decode()


def test_metrics_page() -> None:
    """Figures are told apart by model and version; what the page does not say is unknown; other metrics are left."""
    assert parse_figures(page() + "process_open_fds 12\n") == {
        ("vgg16", "2"): ModelFigures(0.25, 553_430_176, 15_000_000_000, "CPUExecutionProvider"),
        ("lenet5", "1"): ModelFigures(load_seconds=0.5),
    }


def test_metrics_page_over_http() -> None:
    """The page is read by HTTP; a wrong path, a closed port and a wrong address are one line each."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(page().encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert set(read_figures(f"{address}/metrics")) == {("vgg16", "2"), ("lenet5", "1")}
        with pytest.raises(NetweightError, match="expected status 200, got 404"):
            read_figures(f"{address}/wrong")
        server.shutdown()
    with pytest.raises(NetweightError, match="is the server running"):
        read_figures(f"{address}/metrics")
    with pytest.raises(NetweightError, match="expected an address like"):
        read_figures("127.0.0.1:8002")


def test_card(tmp_path: Path) -> None:
    """The newest version's card is read unless a version is named: 10 is newer than 9."""
    for version in (9, 10):
        publish(tmp_path, "tiny", version=version, parameters=version)
    publish(tmp_path, "other")
    assert model_names(tmp_path) == ["other", "tiny"]
    assert read_card(tmp_path, "tiny").parameters == 10
    assert read_card(tmp_path, "tiny", 9).parameters == 9
    assert read_max_batch_size(tmp_path, "tiny") == 8


def test_bad_cards(tmp_path: Path) -> None:
    """A model that is not there, a card that is none, another schema: one line that says what and how to mend."""
    with pytest.raises(NetweightError, match=r"tiny: no card.json in repository .* no model with a card; export it"):
        read_card(tmp_path, "tiny")
    publish(tmp_path, "tiny")
    with pytest.raises(NetweightError, match=r"tiny version 3: no card.json in repository .*, which has tiny"):
        read_card(tmp_path, "tiny", 3)
    path = tmp_path / "tiny" / "1" / "card.json"
    for text, message in (
        ("{", "not a card that netweight wrote"),
        (json.dumps({**card_values("tiny"), "schema": "netweight-card/9"}), "expected schema netweight-card/1"),
        (json.dumps({**card_values("tiny"), "graph": {}}), "not a card that netweight wrote"),
    ):
        path.write_text(text)
        with pytest.raises(NetweightError, match=message) as failure:
            read_card(tmp_path, "tiny")
        assert "\n" not in str(failure.value)


def test_max_batch_size(tmp_path: Path) -> None:
    """A model without a configuration counts as not batching; a broken configuration is named."""
    assert read_max_batch_size(tmp_path, "tiny") == 0
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(NetweightError, match="not a model configuration"):
        read_max_batch_size(tmp_path, "tiny")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names machine and versions, is plain JSON, and says nothing about who or where."""
    monkeypatch.setenv("NETWEIGHT_THREADS", "3")
    monkeypatch.setenv("NETWEIGHT_CLIENT_TOKEN", "secret")
    values = json.loads(json.dumps(environment()))
    assert values["settings"]["NETWEIGHT_THREADS"] == "3"
    assert "secret" not in str(values)
    assert {"date", "cpu", "cores", "cpu_quota_cores", "memory_bytes", "gpus", "load_average", "python"} <= set(values)
    assert values["packages"]["grpcio"]
    assert values["date"].endswith("+00:00")
    assert 1 <= usable_cores() <= values["cores"]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    """The quota is read in both versions of cgroups; none means unlimited."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota_cores(tmp_path) == cores


def test_memory_limit(tmp_path: Path) -> None:
    """A limit above the machine's memory, which is how version 1 of cgroups says 'none', is none."""
    assert memory_limit_bytes(1000, tmp_path) is None
    for text, limit in (("max\n", None), ("9223372036854771712\n", None), ("500\n", 500)):
        (tmp_path / "memory.max").write_text(text)
        assert memory_limit_bytes(1000, tmp_path) == limit

"""Records, and what is read off the metrics page, the repository and the machine."""

from __future__ import annotations

import http.server
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from compare.card import Card, Reference, model_names, read_card, read_max_batch_size
from compare.cost import Layer, Published
from compare.measure import Latency, Throughput, nearest_rank
from compare.metrics_page import ModelFigures, ProcessFigures, parse_figures, parse_process, read_page
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
    assert [measured.percentile(each) for each in (50, 90, 99)] == [p50, p90, p99]


def test_no_samples() -> None:
    """Without samples a percentile is unknown, not zero."""
    assert latency().p50_seconds is None
    assert math.isnan(nearest_rank([], 99))


def test_what_never_came() -> None:
    """Infinities are latencies of requests that were not answered: they count as values."""
    assert nearest_rank([1.0, math.inf, 2.0], 50) == 2.0
    assert nearest_rank([1.0, math.inf, 2.0], 99) == math.inf


def test_rates() -> None:
    """Throughput counts inferences over seconds."""
    assert Throughput(callers=8, inferences=300, seconds=1.5).per_second == 200
    assert Throughput(callers=8, inferences=0, seconds=0.0).per_second == 0


def page() -> str:
    """Return a metrics page of two models, written by prometheus_client."""
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(f"netweight_model_{name}", name, labels, registry=registry)
        for name, labels in {
            "load_seconds": ("model", "version"),
            "session_seconds": ("model", "version"),
            "warm_up_seconds": ("model", "version"),
            "gpu_memory_bytes": ("model", "version"),
            "resident_bytes": ("model", "version"),
            "file_bytes": ("model", "version"),
            "provider_info": ("model", "version", "provider"),
        }.items()
    }
    values = {"load_seconds": 0.25, "session_seconds": 0.125, "warm_up_seconds": 0.0625, "gpu_memory_bytes": 6e8}
    for name, value in {**values, "resident_bytes": 553_430_176, "file_bytes": 1.5e10}.items():
        gauges[name].labels("vgg16", "2").set(value)
    gauges["provider_info"].labels("vgg16", "2", "CUDAExecutionProvider").set(0)
    gauges["provider_info"].labels("vgg16", "2", "CPUExecutionProvider").set(1)
    gauges["load_seconds"].labels("lenet5", "1").set(0.5)
    return generate_latest(registry).decode()


def test_metrics_page() -> None:
    """Figures are told apart by model and version; what the page does not say is unknown; other metrics are left."""
    assert parse_figures(page() + "process_open_fds 12\n") == {
        ("vgg16", "2"): ModelFigures(
            load_seconds=0.25,
            session_seconds=0.125,
            warm_up_seconds=0.0625,
            resident_bytes=553_430_176,
            gpu_memory_bytes=600_000_000,
            file_bytes=15_000_000_000,
            provider="CPUExecutionProvider",
        ),
        ("lenet5", "1"): ModelFigures(load_seconds=0.5),
    }


def test_what_the_page_says_of_the_process() -> None:
    """The phases of the start are told by their names, GPU memory is that of all GPUs; without both nothing is known."""
    registry = CollectorRegistry()
    phases = Gauge("netweight_startup_seconds", "", ("phase",), registry=registry)
    phases.labels("process").set(0.25)
    phases.labels("imports").set(0.5)
    memory = Gauge("netweight_gpu_process_memory_bytes", "", ("gpu_uuid",), registry=registry)
    for gpu in ("GPU-1", "GPU-2"):
        memory.labels(gpu).set(300_000_000)
    cpu = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\n"
    told = parse_process(page() + generate_latest(registry).decode() + cpu)
    assert told == ProcessFigures({"process": 0.25, "imports": 0.5}, 600_000_000, 12.5)
    assert parse_process(page()) == ProcessFigures({}, None)


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
        assert set(parse_figures(read_page(f"{address}/metrics"))) == {("vgg16", "2"), ("lenet5", "1")}
        with pytest.raises(NetweightError, match="expected status 200, got 404"):
            read_page(f"{address}/wrong")
        server.shutdown()
    with pytest.raises(NetweightError, match="is the server running"):
        read_page(f"{address}/metrics")
    with pytest.raises(NetweightError, match="expected an address like"):
        read_page("127.0.0.1:8002")


def test_card(tmp_path: Path) -> None:
    """The newest version's card is read unless a version is named: 10 is newer than 9."""
    for version in (9, 10):
        publish(tmp_path, "tiny", version=version, parameters=version)
    publish(tmp_path, "other")
    assert model_names(tmp_path) == ["other", "tiny"]
    assert read_card(tmp_path, "tiny").parameters == 10
    assert read_card(tmp_path, "tiny", 9).parameters == 9
    assert read_max_batch_size(tmp_path, "tiny") == 8


def test_card_of_a_variant(tmp_path: Path) -> None:
    """A variant's card names its reference; of what was published the highest top-1 counts, with its source."""
    publish(tmp_path, "tiny.int8", variant="int8", reference="tiny")
    card = read_card(tmp_path, "tiny.int8")
    assert (card.variant, card.reference, card.family) == ("int8", Reference("tiny", 1), "Tiny")
    assert card.published == Published(73.0, None, "ImageNet-1K", "second")
    assert card.layers == (Layer("fc", "Gemm", 192, 768, 192),)
    values = {**card_values("bare"), "published": [], "layers": None, "architecture": None}
    bare = Card.from_dict(values)
    assert (bare.published, bare.layers, bare.family, bare.reference, bare.title) == (None, (), None, None, "bare")


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

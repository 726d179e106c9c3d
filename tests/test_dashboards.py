"""Every query of both dashboards, and each console page, against a real Prometheus that scrapes a real, busy server."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deploy.dashboards.__main__ import BOARDS
from deploy.dashboards.panel import Board, Panel, Query
from server.gpu import GpuMetrics, Gpus
from server.metrics import Load, Metrics, Spent
from tests.fake_nvml import FakeNvml
from tests.graphs import scale
from tests.prometheus import Prometheus, free_port, running_prometheus
from tests.published import SIDE, publish
from tests.servers import running_server

MODELS = ("mobilenet_v2", "resnet50", "vgg16")
"""By name: each is the tiny classifier with a card that says what a card says."""
LABEL = re.compile(r"\{\{(\w+)\}\}")
GPU_METRICS = ("netweight_model_gpu_memory_bytes", *(f"netweight_gpu_{each}" for each in (
    "memory_used_bytes", "memory_total_bytes", "process_memory_bytes", "utilization_ratio", "power_watts"
)))  # fmt: skip


def of_gpu(query: Query) -> bool:
    """Whether a query asks for what only a GPU has."""
    return any(metric in query.expression for metric in GPU_METRICS)


@pytest.fixture(scope="module")
def gpu_port() -> Iterator[int]:
    """The metrics page of a server as if it had a GPU: what it shows of a GPU, made by the server's own code."""
    registry = prometheus_client.CollectorRegistry(auto_describe=True)  # so that a scrape may choose names
    load = Load(1.0, Spent(), 1, 1, "CUDAExecutionProvider", fell_back=False, gpu_bytes=10**9)
    Metrics(registry).loaded("vgg16", "1", load)
    registry.register(GpuMetrics(Gpus(FakeNvml())))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(gpu_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after a server was started twice, and was busy, called wrongly, and asked for what it cannot load."""
    directory = tmp_path_factory.mktemp("dashboards")
    port = free_port()
    repository = directory / "models"
    for place, name in enumerate((*MODELS, "spare")):
        card = publish(repository, name, parameters=10**place) / "card.json"
        accuracy = {"split": "held-out", "top1": 0.9 + place / 100, "images": 100}
        told = {"multiply_accumulates": 2 * 10**place, "accuracy": accuracy}
        card.write_text(json.dumps(json.loads(card.read_text()) | told))
    broken = scale(repository, "broken")
    broken.write_bytes(broken.read_bytes()[:20])
    jobs: dict[str, Any] = {
        "netweight": {"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
        "gpu": {
            "static_configs": [{"targets": [f"127.0.0.1:{gpu_port}"]}],
            "params": {"name[]": list(GPU_METRICS)},
        },
    }
    started = [word for name in (*MODELS, "spare") for word in ("--model", name)]
    options = ("--metrics-port", str(port), "--model-control", "explicit", *started)
    with running_prometheus(directory, jobs) as found:
        with running_server(repository, directory, *options) as server:
            found.wait_for('up{job="netweight"} == 1')
            busy(server.address, 2)
        with running_server(repository, directory, *options) as server:
            busy(server.address, 3)
            change(server.address)
            busy(server.address, 6)
            yield found


def change(address: str) -> None:
    """Load what cannot be loaded; unload what is there, load it again, and unload it."""
    with triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException):
            client.load_model("broken")
        client.unload_model("spare")
        client.load_model("spare")
        time.sleep(1.5)
        client.unload_model("spare")


def busy(address: str, seconds: float) -> None:
    """Call each model for some seconds, some callers asking for what is not there or more than is allowed."""
    until = time.monotonic() + seconds

    def call(model: str, batch: int) -> None:
        given = triton.InferInput("image", (batch, SIDE, SIDE, 1), "UINT8")
        given.set_data_from_numpy(np.zeros((batch, SIDE, SIDE, 1), np.uint8))
        with triton.InferenceServerClient(address) as client:
            while time.monotonic() < until:
                try:
                    client.infer(model, [given])
                except InferenceServerException as error:
                    assert error.status() in {  # noqa: PT017  what these callers ask for
                        "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNAVAILABLE"
                    }  # fmt: skip
                time.sleep(0.02)

    asked = [*((name, batch) for name in MODELS for batch in (1, 2)), ("unknown", 1), (MODELS[0], 9), ("spare", 1)]
    callers = [threading.Thread(target=call, args=each) for each in asked]
    for each in callers:
        each.start()
    for each in callers:
        each.join()


def problems(prometheus: Prometheus, board: Board) -> list[str]:
    """Return what is wrong with a board's queries: no figure came, or a series lacks a label of its legend."""
    asked = [(panel.title, query) for panel in board.panels for query in panel.queries]
    asked += [(each.label, Query(each.metric, f"{{{{{each.name}}}}}")) for each in board.variables]
    asked += [(each.title, Query(each.expression, "{{instance}}")) for each in board.annotations]
    found = []
    for title, query in asked:
        series = prometheus.series(query.expression)
        if not any(math.isfinite(float(value)) for each in series for _, value in each["values"]):
            found.append(f"{title}: no data: {query.expression}")
        found += [
            f"{title}: no label {label}: {query.expression}"
            for each in series
            for label in LABEL.findall(query.legend)
            if not each["metric"].get(label)
        ]
    return found


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_query_has_data(prometheus: Prometheus, board: Board) -> None:
    """Every query of panels, variables and annotations has figures under load, with the labels that its legend names."""
    assert problems(prometheus, board) == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_have_all_models_side_by_side(prometheus: Prometheus, board: Board) -> None:
    """Where a panel is by model, VGG, ResNet and MobileNet are all in it."""
    for panel in board.panels:
        for query in panel.queries:
            names = {each["metric"].get("model") for each in prometheus.series(query.expression)}
            if names != {None} and not of_gpu(query):
                assert names >= set(MODELS), panel.title


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (Query("sum by (model) (netweight_model_flie_bytes)", "{{model}}"), "no data"),
        (Query('sum by (model) (netweight_model_file_bytes{model="vgg"})', "{{model}}"), "no data"),
        (Query("0 * netweight_model_file_bytes / 0", "{{model}}"), "no data"),
        (Query("sum(netweight_model_file_bytes)", "{{model}}"), "no label model"),
    ],
    ids=["misspelt", "wrong-label", "not-a-number", "label-summed-away"],
)
def test_a_wrong_query_is_found(prometheus: Prometheus, query: Query, problem: str) -> None:
    """A misspelt metric, a label that nothing has, a figure that is none, a legend without its label: each is found."""
    board = BOARDS[0]
    panel = replace(board.panels[1], queries=(query,))
    wrong = problems(prometheus, replace(board, variables=(), annotations=(), rows=(("", (panel,)),)))
    assert wrong
    assert all(each.startswith(f"{panel.title}: {problem}") for each in wrong)


def test_only_queries_of_gpus_may_be_empty() -> None:
    """The queries that are marked to have no data without a GPU are exactly those that ask for a GPU's metric."""
    panels = [panel for board in BOARDS for panel in board.panels]
    for panel in panels:
        for query in panel.queries:
            assert bool(query.empty_without) == of_gpu(query), panel.title
        if all(map(of_gpu, panel.queries)):
            assert panel.explanation.endswith("No data without a GPU."), panel.title
    assert sum(of_gpu(query) for panel in panels for query in panel.queries) == 7


def test_figures_are_the_servers(prometheus: Prometheus) -> None:
    """The costs that a panel shows are those that the server was given: bytes, parameters, accuracy by the card."""
    found = {}
    for title in ("On disk", "Parameters", "Held-out accuracy", "Multiply-accumulates"):
        (panel,) = [panel for panel in BOARDS[0].panels if panel.title == title]
        found[title] = last(prometheus, panel)
    assert found["Parameters"] == {"mobilenet_v2": 1, "resnet50": 10, "vgg16": 100}
    assert found["Multiply-accumulates"] == {"mobilenet_v2": 2, "resnet50": 20, "vgg16": 200}
    assert found["Held-out accuracy"] == pytest.approx({"mobilenet_v2": 0.9, "resnet50": 0.91, "vgg16": 0.92})
    assert set(found["On disk"]) == set(MODELS)
    assert all(400 < value < 4000 for value in found["On disk"].values())


def test_errors_are_shown_by_code(prometheus: Prometheus) -> None:
    """The calls that failed are in the panel of errors, each under its own code; the failed load fires its alert."""
    panels = {panel.title: panel for panel in BOARDS[1].panels}
    errors = prometheus.series(panels["Error ratio"].queries[0].expression)
    assert {each["metric"]["code"] for each in errors} >= {"NOT_FOUND", "INVALID_ARGUMENT"}
    firing = prometheus.series(panels["Alerts"].queries[0].expression)
    assert [each["metric"]["alertname"] for each in firing] == ["NetweightModelLoadFailed"]


def last(prometheus: Prometheus, panel: Panel) -> dict[str, float]:
    """Return a panel's present values by model."""
    series = prometheus.series(panel.queries[0].expression)
    now = max(each["values"][-1][0] for each in series)
    return {each["metric"]["model"]: float(each["values"][-1][1]) for each in series if each["values"][-1][0] == now}


def test_consoles_show_the_same_figures(prometheus: Prometheus) -> None:
    """Each console page is rendered without an error, with every panel, and the table of costs has every figure."""
    pages = {board.name: prometheus.get(f"/consoles/{board.name}.html") for board in BOARDS}
    for board in BOARDS:
        page = pages[board.name]
        assert page.rstrip().endswith("</html>"), page[:2000]
        assert "error executing" not in page
        assert "NaN" not in page
        assert all(f"<h3>{panel.title}</h3>" in page for panel in board.panels)
        assert all(name in page for name in MODELS)
    rows = dict(re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", pages["costs"], re.DOTALL))
    assert set(rows) >= {*MODELS, "spare"}
    for name in MODELS:
        assert rows[name].count("not measured") == (name != "vgg16"), rows[name]  # the fake GPU holds only VGG
    assert ">91%<" in rows["resnet50"]
    assert "not measured" in rows["spare"]
    assert "NetweightModelLoadFailed (warning)" in pages["serving"]
    judged = {"Up", "Ready", "Alerts firing", "Failed by our fault"}  # latency depends on the machine
    assert red(pages["serving"]) & judged == {"Alerts firing", "Failed by our fault"}
    assert "is up" in prometheus.get("/consoles/index.html")


def test_memory_is_in_powers_of_1024_and_files_in_powers_of_ten(prometheus: Prometheus) -> None:
    """The console pages have memory in KiB, MiB and GiB, and bytes on disk in kB, MB and GB."""
    costs = prometheus.get("/consoles/costs.html")
    assert set(shown(costs, "GPU memory")) == {"953.7MiB"}  # 10^9 bytes, of the GPU that is none
    files = shown(costs, "On disk")
    assert len(files) >= len(MODELS)
    assert all(re.fullmatch(r"[\d.]+k?B", each) for each in files), files
    memory = shown(prometheus.get("/consoles/serving.html"), "Resident memory")
    assert memory
    assert all(re.fullmatch(r"[\d.]+[MG]iB", each) for each in memory), memory


def shown(page: str, title: str) -> list[str]:
    """Return the values that a console page's panel of bars or lines shows."""
    (section,) = [part for part in page.split("<h3>") if part.startswith(f"{title}</h3>")]
    return [each.strip() for each in re.findall(r"<b>(.*?)</b>", section, re.DOTALL)]


def test_consoles_of_a_prometheus_that_knows_nothing(tmp_path: Path) -> None:
    """Without a server the pages are rendered all the same, with dashes for figures."""
    with running_prometheus(tmp_path, {}) as found:
        for name in ("index", *(board.name for board in BOARDS)):
            page = found.get(f"/consoles/{name}.html")
            assert page.rstrip().endswith("</html>"), page[:2000]
            assert "none" in page if name == "index" else page.count("not measured") > 10


def red(page: str) -> set[str]:
    """Return the titles of a console page's panels whose figure is shown to be wrong."""
    return {part.partition("<")[0] for part in page.split("<h3>") if 'class="big wrong"' in part}


def test_consoles_graphs_are_drawn(prometheus: Prometheus) -> None:
    """In a browser each panel over time has a graph with a line for every series that it names; nothing is cut off."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    cut = "parts => parts.filter(part => part.scrollWidth > part.clientWidth).map(part => part.innerText)"
    count = """graphs => graphs.map(graph => [graph.dataset.title, graph.querySelectorAll("path[style]").length,
        graph.nextElementSibling.querySelectorAll("li[data-name]").length])"""
    told: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        for board in BOARDS:
            page.goto(f"{prometheus.url}/consoles/{board.name}.html")
            page.wait_for_function("document.querySelectorAll('.graph:empty').length === 0")
            found = page.eval_on_selector_all(".graph", count)
            assert [title for title, _, _ in found] == [panel.title for panel in board.panels if panel.kind == "lines"]
            assert page.eval_on_selector_all("section", cut) == []
            for title, drawn, named in found:
                assert drawn >= named >= 1, title
        browser.close()
    assert told == []

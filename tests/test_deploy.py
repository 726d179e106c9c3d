"""What deploys netweight is checked without a container engine: dashboards, compose file, alerts, the image's recipe."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from ruamel.yaml import YAML

from deploy.dashboards import __main__ as dashboards
from deploy.dashboards.grafana import SOURCE
from deploy.dashboards.promql import filled
from deploy.dashboards.serving import BOUND_RATIO, BOUND_SECONDS, OURS
from deploy.image import record, requirements
from server.gpu import GpuMetrics, Gpus
from server.metrics import Metrics
from tests.fake_nvml import FakeNvml

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LABEL = re.compile(r"\{\{(\w+)\}\}")
GRAFANA = [json.loads(text) for name, text in dashboards.generate().items() if name.startswith("grafana/")]
OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus itself makes."""


def drawn(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a board's panels in Grafana's JSON."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def panels() -> list[dict[str, Any]]:
    return [panel for board in GRAFANA for panel in drawn(board)]


def exported() -> set[str]:
    """Return the names of all samples that the server can export, with those of its process."""
    registry = CollectorRegistry()
    Metrics(registry)
    ProcessCollector(registry=registry)
    registry.register(GpuMetrics(Gpus(FakeNvml())))
    kinds = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    return {family.name + suffix for family in registry.collect() for suffix in kinds[family.type]}


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Yield every selector of an expression, with values for Grafana's variables."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(filled(expression, "20s", "20s")), visit)
    return iter(found)


def works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    """Run promtool in the repository's root; skip aloud without it."""
    if not shutil.which("promtool"):
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    return subprocess.run(["promtool", *words], capture_output=True, text=True, cwd=ROOT, check=False)


def compose_command() -> list[str]:
    """Return `docker compose`, or the plugin by itself where there is no docker command; skip aloud without either."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and works([*command, "version"]):
            return command
    pytest.skip("no docker compose here: `make lint-deploy` fetches it")


def test_dashboards_are_what_the_code_generates() -> None:
    """The committed dashboards and console pages are, byte for byte, what deploy/dashboards generates, and no others."""
    assert dashboards.check(dashboards.DEPLOY) == []


def test_check_names_the_command_that_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What was edited by hand, is missing or is left over fails --check with one line that says how to mend it."""
    monkeypatch.setattr(dashboards, "DEPLOY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["dashboards"])
    assert dashboards.main() == 0
    texts = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert texts == dashboards.generate()
    (tmp_path / "grafana/dashboards/netweight-costs.json").write_text("{}\n", encoding="utf-8")
    (tmp_path / "consoles/index.html").unlink()
    (tmp_path / "consoles/old.html").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["dashboards", "--check"])
    assert dashboards.main() == 1
    told = capsys.readouterr().err
    names = ("consoles/index.html", "consoles/old.html", "grafana/dashboards/netweight-costs.json")
    assert told.startswith(", ".join(f"deploy/{name}" for name in names) + ": ")
    assert told.endswith("generates: python -m deploy.dashboards\n")
    monkeypatch.setattr(sys, "argv", ["dashboards"])
    assert dashboards.main() == 0
    assert dashboards.check(tmp_path) == []


@pytest.mark.parametrize("expression", sorted({each for board in dashboards.BOARDS for each in board.expressions}))
def test_expression_uses_metrics_that_the_server_exports(expression: str) -> None:
    """Every expression parses as PromQL and asks only for what the server, its process or Prometheus itself tells."""
    names = {selector.name for selector in selectors(expression)}
    assert names
    assert names <= exported() | OF_PROMETHEUS


def test_grafana_asks_what_the_boards_ask() -> None:
    """Grafana's JSON has every expression of the boards, those of variables and annotations among them, and no other."""
    for board, made in zip(dashboards.BOARDS, GRAFANA, strict=True):
        assert made["uid"] == f"netweight-{board.name}"
        asked = [target["expr"] for panel in drawn(made) for target in panel["targets"]]
        offered = [each["query"] for each in made["templating"]["list"]]
        marks = [each["expr"] for each in made["annotations"]["list"]]
        assert asked == [query.expression for panel in board.panels for query in panel.queries]
        assert offered == [f"label_values({each.metric}, {each.name})" for each in board.variables]
        assert marks == [each.expression for each in board.annotations]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_can_be_read(panel: dict[str, Any]) -> None:
    """Every panel has a description, a unit where it shows a value, and a legend for each query."""
    assert panel["description"].endswith(".")
    shows_names = panel.get("options", {}).get("textMode") == "name"
    assert shows_names or panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap() -> None:
    """No two panels of a board share a cell of its grid, and none leaves its 24 columns."""
    for board in GRAFANA:
        cells: set[tuple[int, int]] = set()
        for panel in drawn(board):
            at = panel["gridPos"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert max(x for x, _ in own) < 24
            assert not own & cells, panel["title"]
            cells |= own


def test_table_names_every_column() -> None:
    """Each query of the table of costs is a column with its own title, place and unit."""
    (panel,) = [panel for panel in panels() if panel["type"] == "table"]
    organized = panel["transformations"][1]["options"]
    columns = [f"Value #{target['refId']}" for target in panel["targets"]]
    assert set(organized["indexByName"]) == set(organized["renameByName"]) == {"model", "version", *columns}
    with_unit = [each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]]
    assert with_unit == [organized["renameByName"][column] for column in columns]


def test_the_board_and_the_alerts_have_the_same_bounds() -> None:
    """Latencies and errors are drawn wrong where their alerts fire, and both count the same codes as our fault."""
    (group,) = YAML(typ="safe").load(ROOT / "deploy/alerts.yml")["groups"]
    rules = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert rules["NetweightLatencyHigh"].endswith(f" > {BOUND_SECONDS}")
    assert rules["NetweightErrorRatio"].endswith(f" > {BOUND_RATIO}")
    assert f"{{{OURS}}}" in rules["NetweightErrorRatio"]
    bounds = {"Latency": BOUND_SECONDS, "Latency p99": BOUND_SECONDS, "Failed by our fault": BOUND_RATIO}
    (serving,) = [board for board in GRAFANA if board["uid"] == "netweight-serving"]
    steps = {each["title"]: each["fieldConfig"]["defaults"]["thresholds"]["steps"] for each in drawn(serving)}
    assert {title: steps[title][-1]["value"] for title in bounds} == bounds


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_only_lines_show_the_past(panel: dict[str, Any]) -> None:
    """What is not drawn over time asks for this moment: of a server that died it shows nothing, not its last figure."""
    over_time = panel["type"] == "timeseries"
    assert all((each["range"], each["instant"]) == (over_time, not over_time) for each in panel["targets"])
    assert panel["type"] != "stat" or panel["options"]["graphMode"] == "none"


def test_every_mounted_file_is_there() -> None:
    """Every file and folder of deploy/ that docker-compose.yml mounts or names exists; the home page is a dashboard."""
    services = YAML(typ="safe").load(COMPOSE)["services"]
    mounted = {}
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            source, _, rest = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                mounted[rest.partition(":")[0]] = ROOT / source
    (consoles,) = [word for word in services["prometheus"]["command"] if word.startswith("--web.console.templates=")]
    assert (mounted[consoles.partition("=")[2]] / "index.html").is_file()
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).is_file()


def test_grafana_and_dashboards_name_the_same_source() -> None:
    """The data source that the dashboards ask is the one that is provisioned, at the scrape interval in use."""
    yaml = YAML(typ="safe")
    source = yaml.load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    scrape = yaml.load(ROOT / "deploy/prometheus.yml")["global"]["scrape_interval"]
    assert (source["type"], source["uid"]) == (SOURCE.type_val, SOURCE.uid)
    assert source["jsonData"]["timeInterval"] == scrape


def test_every_service_is_confined() -> None:
    """Each service has a read-only root, no capability and no new privileges, and publishes on loopback by default."""
    for name, service in YAML(typ="safe").load(COMPOSE)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("${NETWEIGHT_LISTEN:-127.0.0.1}:") for port in service["ports"]), name
        assert "privileged" not in service, name


@pytest.mark.parametrize(("profile", "server"), [(None, "server"), ("cpu", "server"), ("gpu", "server-gpu")])
def test_each_profile_starts_one_server(profile: str | None, server: str) -> None:
    """`docker compose config` accepts the file, and each profile, `cpu` being the default, has exactly one server."""
    chosen = ["--profile", profile] if profile else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    command = [*compose_command(), "--file", str(COMPOSE), *chosen, "config", "--services"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {server, "prometheus", "grafana"}


@pytest.mark.parametrize(
    "words", [("check", "config", "deploy/prometheus.yml"), ("test", "rules", "deploy/alerts.test.yml")]
)
def test_prometheus_accepts_its_settings_and_its_alerts(words: tuple[str, ...]) -> None:
    """Promtool finds no error in deploy/prometheus.yml, and every alert fires when it should and only then."""
    done = promtool(*words)
    assert done.returncode == 0, done.stdout + done.stderr


COSTS: dict[str, dict[str, float]] = {
    "Compute for each inference": {"m": 0.5},
    "Bytes on disk for each inference by second": {"m": 200},
    "Resident memory for each inference by second": {"m": 100},
    "Resident memory, times the lightest": {"m": 3, "light": 1, "nothing": 0},
}
"""Panels of costs, and what they show of the servers of the next test."""


def test_costs_of_several_servers_and_batches(tmp_path: Path) -> None:
    """Two servers of one model, one of which batches: a ratio is of sums over both; a 0 is not taken for the lightest."""
    series = {
        'netweight_model_file_bytes{instance="a",model="m",version="1"}': "400x20",
        'netweight_model_file_bytes{instance="b",model="m",version="1"}': "400x20",
        'netweight_model_resident_bytes{instance="a",model="m",version="1"}': "300x20",
        'netweight_model_resident_bytes{instance="b",model="m",version="1"}': "100x20",
        'netweight_model_resident_bytes{instance="a",model="light",version="1"}': "100x20",
        'netweight_model_resident_bytes{instance="a",model="nothing",version="1"}': "0x20",
        'netweight_inferences_total{instance="a",model="m",version="1"}': "0+45x20",
        'netweight_inferences_total{instance="b",model="m",version="1"}': "0+15x20",
        'netweight_execution_seconds_total{instance="a",model="m",version="1"}': "0+7.5x20",
        'netweight_execution_seconds_total{instance="b",model="m",version="1"}': "0+22.5x20",
    }
    (asked,) = [
        {each.title: each.queries[0].expression for each in board.panels}
        for board in dashboards.BOARDS
        if board.name == "costs"
    ]
    expected = [
        {
            "expr": f"round({filled(asked[title], '1m', '5m')}, 0.001)",
            "eval_time": "4m",
            "exp_samples": [
                {"labels": f'{{model="{model}", version="1"}}', "value": value} for model, value in values.items()
            ],
        }
        for title, values in COSTS.items()
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    case = {"tests": [{"interval": "15s", "input_series": given, "promql_expr_test": expected}]}
    (tmp_path / "costs.yml").write_text(json.dumps(case), encoding="utf-8")  # JSON is YAML
    done = promtool("test", "rules", str(tmp_path / "costs.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_has_its_paragraph() -> None:
    """Each alert fires in one case of deploy/alerts.test.yml and not in another, and docs/runbook.md says what to do."""
    yaml = YAML(typ="safe")
    (group,) = yaml.load(ROOT / "deploy/alerts.yml")["groups"]
    cases = yaml.load(ROOT / "deploy/alerts.test.yml")["tests"]
    tried = [(each["alertname"], "exp_alerts" in each) for case in cases for each in case["alert_rule_test"]]
    alerts = [rule["alert"] for rule in group["rules"]]
    for rule in group["rules"]:
        name = rule["alert"]
        assert {fires for alert, fires in tried if alert == name} == {True, False}, name
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"warning", "critical"}
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == alerts


@pytest.mark.parametrize(
    "alert", YAML(typ="safe").load(ROOT / "deploy/alerts.yml")["groups"][0]["rules"], ids=lambda each: each["alert"]
)
def test_alert_asks_for_metrics_that_the_server_exports(alert: dict[str, Any]) -> None:
    """Every rule asks only for what the server, its process or Prometheus itself tells."""
    assert {selector.name for selector in selectors(alert["expr"])} <= exported() | OF_PROMETHEUS


def test_image_installs_what_serving_needs_and_no_more() -> None:
    """The image's requirements are the project's own and its extra's: ONNX Runtime once, no torch, not the project."""
    for extra, runtime in (("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")):
        names = [re.split(r"[\[<>=;\s]", line)[0] for line in requirements(PROJECT, [extra, "tracing"])]
        assert [name for name in names if name.startswith("onnxruntime")] == [runtime]
        assert not {"torch", "onnx", "netweight", "setuptools"} & set(names)


def test_image_knows_its_version(tmp_path: Path) -> None:
    """What the image records of the project is found as an installed package's name and version are."""
    record(PROJECT, tmp_path)
    (found,) = distributions(path=[str(tmp_path)])
    assert (found.name, found.version) == ("netweight", PROJECT["version"])


def test_image_holds_every_source_that_the_server_imports() -> None:
    """What server/ and netweight.py import when they are loaded is copied: server itself, models.spec, no other stage."""
    loaded = [ROOT / "netweight.py", *(ROOT / "server").rglob("*.py")]
    own = {name for path in loaded for name in imported(path) if (ROOT / name.split(".")[0]).is_dir()}
    assert {name for name in own if not name.startswith("server")} <= {"models.spec"}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names

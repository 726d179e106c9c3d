"""What deploys netweight is checked without a container engine: dashboard, compose file, Prometheus, the image's recipe."""

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

from deploy import dashboard
from deploy.image import record, requirements
from server.metrics import Metrics

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LABEL = re.compile(r"\{\{(\w+)\}\}")


def panels() -> list[dict[str, Any]]:
    board = json.loads(dashboard.PATH.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def exported() -> set[str]:
    """Return the names of all samples that the server can export, with those of its process."""
    registry = CollectorRegistry()
    Metrics(registry)
    ProcessCollector(registry=registry)
    kinds = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    return {family.name + suffix for family in registry.collect() for suffix in kinds[family.type]}


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Yield every selector of an expression, with Grafana's interval put in."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "20s")), visit)
    return iter(found)


def works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def compose_command() -> list[str]:
    """Return `docker compose`, or the plugin by itself where there is no docker command; skip aloud without either."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and works([*command, "version"]):
            return command
    pytest.skip("no docker compose here: `make lint-deploy` fetches it")


def test_dashboard_is_what_the_code_generates() -> None:
    """The committed dashboard is, byte for byte, what deploy/dashboard.py generates."""
    assert dashboard.PATH.read_text(encoding="utf-8") == dashboard.generate()


def test_check_names_the_command_that_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A dashboard that was edited by hand fails --check with one line that says how to generate it, and is mended."""
    edited = tmp_path / "netweight.json"
    edited.write_text("{}\n", encoding="utf-8")
    monkeypatch.setattr(dashboard, "PATH", edited)
    monkeypatch.setattr(sys, "argv", ["dashboard", "--check"])
    assert dashboard.main() == 1
    assert capsys.readouterr().err.endswith("generates: python -m deploy.dashboard\n")
    monkeypatch.setattr(sys, "argv", ["dashboard"])
    assert dashboard.main() == 0
    assert edited.read_text(encoding="utf-8") == dashboard.generate()
    assert list(tmp_path.iterdir()) == [edited]


@pytest.mark.parametrize("expression", expressions())
def test_expression_uses_metrics_that_the_server_exports(expression: str) -> None:
    """Every expression parses as PromQL and asks only for samples that server.metrics or its process exports."""
    names = {selector.name for selector in selectors(expression)}
    assert names
    assert names <= exported()


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_can_be_read(panel: dict[str, Any]) -> None:
    """Every panel has a description, a unit where it shows a value, and a legend for each query."""
    assert panel["description"].endswith(".")
    shows_names = panel["options"].get("textMode") == "name"
    assert shows_names or panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_legend_labels_survive_the_aggregation() -> None:
    """A legend names only labels that its expression keeps: those of its outermost `by`, or the target's own."""
    for panel in panels():
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) or {"instance"}
            assert set(LABEL.findall(target["legendFormat"])) <= kept, panel["title"]


def test_panels_do_not_overlap() -> None:
    """No two panels share a cell of the dashboard's grid, and none leaves its 24 columns."""
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in own) < 24
        assert not own & cells, panel["title"]
        cells |= own


def test_grafana_and_dashboard_name_the_same_source() -> None:
    """The data source that the dashboard asks is the one that is provisioned, at the scrape interval in use."""
    yaml = YAML(typ="safe")
    source = yaml.load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    scrape = yaml.load(ROOT / "deploy/prometheus.yml")["global"]["scrape_interval"]
    assert (source["type"], source["uid"]) == (dashboard.SOURCE.type_val, dashboard.SOURCE.uid)
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
    if not shutil.which("promtool"):
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_has_its_paragraph() -> None:
    """Each alert of deploy/alerts.yml fires in deploy/alerts.test.yml, and docs/runbook.md says what to do."""
    rules, tried, runbook = (
        (ROOT / path).read_text(encoding="utf-8")
        for path in ("deploy/alerts.yml", "deploy/alerts.test.yml", "docs/runbook.md")
    )
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) >= 7
    for alert in alerts:
        assert re.search(rf"alertname: {alert}(, |\n\s+)exp_alerts", tried), alert
        assert f"\n## {alert}\n" in runbook, alert
        assert f"runbook: docs/runbook.md#{alert.lower()}\n" in rules, alert


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

"""`docker compose up` on a real engine: server, Prometheus with its console pages, each panel, Grafana where it is."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deploy.dashboards.__main__ import BOARDS
from deploy.dashboards.panel import Board
from deploy.dashboards.promql import filled
from tests import graphs

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MODELS = ("digits", "letters")
CLASSES = 10
SIDE = 32
IMAGE_BYTES = 400_000_000
"""What the CPU image may weigh."""
LOAD_SECONDS = 25
INTERVAL = "20s"
"""What rates are taken over: four scrapes."""
NEEDS_MORE = {
    "Alerts",
    "Held-out accuracy",
    "Parameters",
    "Multiply-accumulates",
    "Multiply-accumulates, times the lightest",
}
"""Panels that are empty here: nothing is wrong, and the models have no cards. tests/test_dashboards.py fills them."""
LOCAL_PROMETHEUS = "prom/prometheus:latest"
"""Taken where the version that docker-compose.yml names cannot be pulled; it may hold nothing but the program."""


def docker(*arguments: str, timeout_seconds: float = 600) -> subprocess.CompletedProcess[str]:
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_seconds)


def available(image: str) -> bool:
    """Whether the engine has an image or can pull it."""
    return docker("image", "inspect", image).returncode == 0 or docker("pull", "--quiet", image).returncode == 0


@dataclass(frozen=True)
class Stack:
    """One compose project of docker-compose.yml, on free ports."""

    command: tuple[str, ...]
    environment: dict[str, str]
    grafana: bool
    """Whether Grafana's image can be had."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` for this project."""
        return subprocess.run(
            [*self.command, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def compose(self, *arguments: str) -> str:
        """Run `docker compose`, which must succeed, and return what it prints."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def inside(self, script: str) -> str:
        """Run a shell script in the server's container and return what it prints."""
        return self.compose("exec", "-T", "server", "sh", "-c", script)

    def address(self, service: str, port: int) -> str:
        """Return HOST:PORT where a container's port is published."""
        return self.compose("port", service, str(port))

    def get(self, service: str, port: int, path: str, **query: str) -> Any:
        """Return the JSON that a service answers on a GET."""
        url = f"http://{self.address(service, port)}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of a range query over the seconds of load, a point for each scrape."""
        now = time.time()
        asked = filled(expression, INTERVAL, "5m")
        query = {"query": asked, "start": str(now - 2 * LOAD_SECONDS), "end": str(now), "step": "5"}
        result = self.get("prometheus", 9090, "/api/v1/query_range", **query)["data"]["result"]
        assert isinstance(result, list)
        return result


@pytest.fixture(scope="module")
def engine() -> None:
    if docker("info").returncode or docker("compose", "version").returncode:
        pytest.skip("no container engine with compose v2 here: set DOCKER_HOST, or `make test-containers`")


@pytest.fixture(scope="module")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, healthy, with two random models; taken down with its volumes at the end."""
    directory = tmp_path_factory.mktemp("compose")
    repository = directory / "models"
    for name in MODELS:
        graphs.image_classifier(repository, name, classes=CLASSES, side=SIDE)
    stack = project(directory, repository)
    started = ["server", "prometheus", *(["grafana"] if stack.grafana else [])]
    try:
        stack.compose("build", "server")
        up = stack.run("up", "--detach", "--wait", "--wait-timeout", "120", *started)
        assert up.returncode == 0, f"{up.stderr}\n{stack.run('logs').stdout}\n{health(stack)}"
        yield stack
    finally:
        stack.run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def health(stack: Stack) -> str:
    """Return what the server's health checks have said, as JSON."""
    return docker(
        "inspect", "--format", "{{json .State.Health}}", stack.run("ps", "-aq", "server").stdout.strip()
    ).stdout


def project(directory: Path, repository: Path) -> Stack:
    """Return a project of its own beside any other, with the images that can be had here."""
    wanted = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml")]
    services = json.loads(
        subprocess.run([*wanted, "config", "--format", "json"], capture_output=True, check=True).stdout
    )
    prometheus = services["services"]["prometheus"]["image"]
    override: dict[str, Any] = {"server": {"build": {"network": "host"}}}
    if not available(prometheus):
        prometheus = LOCAL_PROMETHEUS
        override["prometheus"] = {"healthcheck": {"test": ["CMD", "/bin/prometheus", "--version"]}}  # no promtool in it
    file = directory / "override.json"
    file.write_text(json.dumps({"services": override}), encoding="utf-8")
    environment = {
        "COMPOSE_PROJECT_NAME": f"netweight-test-{os.getpid()}",
        "COMPOSE_PROFILES": "cpu",
        "NETWEIGHT_MODELS": str(repository),
        "PROMETHEUS_IMAGE": prometheus,
        **dict.fromkeys(("NETWEIGHT_GRPC_PORT", "NETWEIGHT_METRICS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"), "0"),
    }
    return Stack((*wanted, "--file", str(file)), environment, available(services["services"]["grafana"]["image"]))


def pictures(rows: list[int]) -> triton.InferInput:
    """Return UINT8 [batch, side, side, 1]: black but for one white row each, which is the picture's class."""
    images = np.zeros((len(rows), SIDE, SIDE, 1), np.uint8)
    images[np.arange(len(rows)), rows] = 255
    made = triton.InferInput("image", images.shape, "UINT8")
    made.set_data_from_numpy(images)
    return made


@pytest.fixture(scope="module")
def loaded(stack: Stack) -> Stack:
    """The stack after some seconds of a few callers, some of whom ask for what is not there."""
    until = time.monotonic() + LOAD_SECONDS
    failures: list[str] = []

    def call(model: str, rows: list[int]) -> None:
        with triton.InferenceServerClient(stack.address("server", 8001)) as client:
            while time.monotonic() < until:
                try:
                    client.infer(model, [pictures(rows)])
                except InferenceServerException as error:
                    failures.append(f"{model}: {error.status()}")
                time.sleep(0.05)

    asked = [*((model, [each]) for model in MODELS for each in range(2)), ("unknown", [0]), (MODELS[0], list(range(9)))]
    callers = [threading.Thread(target=call, args=each) for each in asked]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert {failure.partition(": ")[0] for failure in failures} == {"unknown", MODELS[0]}, set(failures)
    return stack


def queries() -> list[Any]:
    """Return each panel's queries as test parameters: expression and legend."""
    return [
        pytest.param(
            query.expression, query.legend if panel.kind != "table" else "{{model}}", id=f"{panel.title}-{query.legend}"
        )
        for board in BOARDS
        for panel in board.panels
        if panel.title not in NEEDS_MORE
        for query in panel.queries
        if not query.empty_without and query.legend not in {"Accuracy", *NEEDS_MORE, "MACs"}
    ]


def test_infers_through_the_published_port(stack: Stack) -> None:
    """NVIDIA's client gets the right classes, as logits and as probabilities, through the port on loopback."""
    address = stack.address("server", 8001)
    assert address.startswith("127.0.0.1:")
    rows = [3, 1, 4, 1, 5]
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        answer = client.infer(MODELS[0], [pictures(rows)])
    logits, probabilities = answer.as_numpy("logits"), answer.as_numpy("probabilities")
    assert logits is not None
    assert probabilities is not None
    assert logits.shape == probabilities.shape == (len(rows), CLASSES)
    assert logits.argmax(axis=1).tolist() == rows
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_server_is_healthy_and_knows_its_version(stack: Stack) -> None:
    """The container's own health check passes, and the command line in it works."""
    container = stack.compose("ps", "--quiet", "server")
    assert docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip() == "healthy"
    assert re.fullmatch(r"netweight, version \d+\.\d+\.\d+", stack.inside("netweight --version"))


def test_server_is_confined(stack: Stack) -> None:
    """The server is not root, has no capability, gains no privilege, and can write to /tmp alone."""
    assert int(stack.inside("id -u")) != 0
    status = dict(line.split(":\t") for line in stack.inside("cat /proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    writable = stack.inside("for d in / /models /opt/netweight /var /home; do test -w $d && echo $d; done; true")
    assert writable == ""
    assert stack.inside("touch /tmp/written && echo yes") == "yes"


def test_root_is_read_only(stack: Stack) -> None:
    """Root itself could not write to the container's root or to the models."""
    for mount in ("/", "/models"):
        options = stack.inside(f"awk '$2 == \"{mount}\" {{ print $4 }}' /proc/1/mounts")
        assert "ro" in options.split(","), mount


def test_image_is_light(stack: Stack) -> None:
    """The CPU image weighs at most 400 MB and holds neither torch nor pip nor the other stages."""
    found = json.loads(docker("image", "inspect", "netweight:cpu").stdout)[0]["Size"]
    print(f"netweight:cpu {found / 1e6:.1f} MB, {found / 2**20:.1f} MiB")
    assert found <= IMAGE_BYTES
    names = ("torch", "pip", "setuptools", "export", "compare", "models.train")
    script = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert stack.inside(f'python -c "{script}"') == "[]"


def test_prometheus_scrapes_its_targets(loaded: Stack) -> None:
    """Prometheus says that the server and itself are up."""
    targets = loaded.get("prometheus", 9090, "/api/v1/targets", state="active")["data"]["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == {"netweight": "up", "prometheus": "up"}


def test_dashboard_can_choose_each_model(loaded: Stack) -> None:
    """The dashboards' variable offers every model."""
    found = loaded.get("prometheus", 9090, "/api/v1/label/model/values", **{"match[]": "netweight_model_state"})
    assert found["data"] == sorted(MODELS)


@pytest.mark.parametrize(("expression", "legend"), queries())
def test_panel_shows_data(loaded: Stack, expression: str, legend: str) -> None:
    """The panel's query returns numbers under load, each series with the labels that its legend names."""
    found = loaded.series(expression)
    labels = re.findall(r"\{\{(\w+)\}\}", legend)
    assert any(math.isfinite(float(value)) for series in found for _, value in series["values"]), expression
    for series in found:
        assert all(series["metric"].get(label) for label in labels), series["metric"]
    if "model" in labels:
        assert {series["metric"]["model"] for series in found} == set(MODELS)


def test_errors_are_shown_by_code(loaded: Stack) -> None:
    """The calls that failed under load are in the panel of errors, each under its own code."""
    (errors,) = [panel for board in BOARDS for panel in board.panels if panel.title == "Error ratio"]
    found = loaded.series(errors.queries[0].expression)
    assert {series["metric"]["code"] for series in found} == {"NOT_FOUND", "INVALID_ARGUMENT"}


@pytest.mark.parametrize("name", ["index", *(board.name for board in BOARDS)])
def test_console_page_is_rendered(loaded: Stack, name: str) -> None:
    """Prometheus in its container renders each console page to its end, with the models in it."""
    url = f"http://{loaded.address('prometheus', 9090)}/consoles/{name}.html"
    with urllib.request.urlopen(url, timeout=20) as answer:
        page = answer.read().decode()
    assert page.rstrip().endswith("</html>")
    assert name == "index" or all(model in page for model in MODELS)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_grafana_shows_the_dashboard(loaded: Stack, board: Board) -> None:
    """Grafana has each dashboard and the data source provisioned, and shows them to anyone who may reach its port."""
    if not loaded.grafana:
        pytest.skip("grafana's image cannot be had here")
    made = loaded.get("grafana", 3000, f"/api/dashboards/uid/netweight-{board.name}")
    assert made["meta"]["provisioned"] is True
    assert len(made["dashboard"]["panels"]) == len(board.panels) + len(board.rows)
    path = "/api/datasources/proxy/uid/prometheus/api/v1/query"
    found = loaded.get("grafana", 3000, path, query="netweight_model_state")
    assert {series["metric"]["model"] for series in found["data"]["result"]} == set(MODELS)


def test_models_that_are_not_there_are_an_error(stack: Stack, tmp_path: Path) -> None:
    """A wrong path to the models stops `docker compose up` with a message that names it."""
    missing = tmp_path / "missing"
    names = {"COMPOSE_PROJECT_NAME": f"{stack.environment['COMPOSE_PROJECT_NAME']}-missing"}
    other = Stack(stack.command, {**stack.environment, **names, "NETWEIGHT_MODELS": str(missing)}, grafana=False)
    try:
        done = other.run("up", "--detach", "server")
        assert done.returncode != 0
        assert str(missing) in done.stderr
    finally:
        other.run("down", "--volumes", "--timeout", "5")
    assert not missing.exists()


def test_stop_drains_and_exits_0(loaded: Stack) -> None:
    """`docker compose stop` ends the server in order, well inside its grace period."""
    container = loaded.compose("ps", "--quiet", "server")
    began = time.monotonic()
    loaded.compose("stop", "server")
    assert time.monotonic() - began < 20
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "0"

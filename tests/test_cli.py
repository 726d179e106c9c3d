"""The command line: its help, its exit codes, its one-line errors, its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import netweight

COMMANDS = (
    "serve",
    "health",
    "token",
    "models",
    "train",
    "export",
    "adopt",
    "weigh",
    "infer",
    "cards",
    "compare",
    "choose",
    "demo",
    "completion",
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netweight.main, arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """Each command tells what it does and each option what it is for."""
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 5
    found = netweight.main.get_command(click.Context(netweight.main), command)
    assert found is not None
    assert found.help


def test_the_help_lists_every_command() -> None:
    """`netweight --help` names each command, in the order of the stages."""
    shown = run("--help").output
    assert [line.split()[0] for line in shown.partition("Commands:")[2].splitlines() if line] == list(COMMANDS)


def test_the_command_line_imports_no_stage() -> None:
    """Help, and the list of the catalogue, come without torch, ONNX Runtime, grpc and numpy."""
    code = (
        "import sys, netweight\n"
        "try: netweight.main(['models', '--json'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnxruntime', 'grpc', 'numpy', 'lightning'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)


def test_models_lists_and_shows() -> None:
    """The catalogue as a table, as a page, as JSON; MB and MiB are told apart."""
    table = run("models").output
    assert "138,357,544" in table
    assert "553.4" in table
    assert "527.8" in table
    page = run("models", "show", "vgg16").output
    assert "553,430,176 bytes = 553.4 MB = 527.8 MiB" in page
    assert "published" in page
    listed = json.loads(run("models", "list", "--json").output)
    assert {"lenet5", "vgg16", "resnet50", "mobilenet_v2"} <= {each["name"] for each in listed}
    (shown,) = json.loads(run("models", "show", "resnet50", "--json").output)
    assert shown["fp32_bytes"] == 4 * shown["parameters"] == 102_228_128


FAILURES: dict[str, tuple[list[str], int, str]] = {
    "unknown network": (["models", "show", "vgg61"], 1, "did you mean vgg"),
    "unknown network to train": (["train", "lenet"], 1, "did you mean lenet5"),
    "unknown network to export": (["export", "resnet"], 1, "unknown network 'resnet'"),
    "missing checkpoint": (["export", "lenet5", "--weights", "nosuch.pt"], 1, "no checkpoint at nosuch.pt"),
    "no server": (["infer", "m", "x.npy", "--address", "127.0.0.1:1"], 1, "no server answers at 127.0.0.1:1"),
    "no healthy server": (["health", "--address", "127.0.0.1:1"], 1, "no healthy server at 127.0.0.1:1"),
    "no such command": (["weight"], 2, "No such command"),
    "no such option": (["serve", "--port", "1"], 2, "No such option"),
    "missing argument": (["train"], 2, "Missing argument"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_one_line(case: str) -> None:
    """What a user did wrong is told in one line that begins with Error; 1 is failed, 2 is misused."""
    arguments, code, text = FAILURES[case]
    failed = run(*arguments)
    assert failed.exit_code == code
    (line,) = [line for line in failed.output.splitlines() if line.startswith("Error: ")]
    assert text in line
    assert "Traceback" not in failed.output


def test_a_missing_stage_names_the_extra(tmp_path: Path) -> None:
    """Where torch is not installed, a command that needs it names the extra that brings it."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "netweight", "export", "lenet5", "--repository", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: this needs the package torch, which is not installed: pip install 'netweight[train]'"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The completion script is printed for each shell, and completes networks by the catalogue."""
    assert "_NETWEIGHT_COMPLETE" in run("completion", shell).output
    done = CliRunner(
        env={"_NETWEIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "netweight train vgg", "COMP_CWORD": "2"}
    )
    completed = done.invoke(netweight.main, prog_name="netweight").output
    assert "plain,vgg16" in completed.splitlines()

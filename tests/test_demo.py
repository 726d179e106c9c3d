"""The main job: its steps in order, what is used again, and how it ends when something fails or is interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from compare.comparison import Comparison
from compare.demo import Layout, demo, exported_version, finished_weights
from models.spec import NetweightError
from tests.plans import ONCE
from tests.published import held_out, publish

FAKE = (sys.executable, "-m", "tests.fake_netweight")
NETWORKS = ("lenet5", "vgg16_bn")


class Calls:
    """What the fake netweight was called with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self) -> list[str]:
        """Return the calls since the last take, those of serve left out."""
        calls = self.path.read_text().splitlines() if self.path.exists() else []
        self.path.unlink(missing_ok=True)
        return [call for call in calls if not call.startswith("serve")]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    path = tmp_path / "calls"
    monkeypatch.setenv("FAKE_NETWEIGHT_CALLS", str(path))
    return Calls(path)


def run(directory: Path, lines: list[str] | None = None) -> tuple[Comparison, str]:
    """Run the demo of two networks; return what it measured and the table."""
    shown = io.StringIO()
    measured = demo(
        directory,
        networks=NETWORKS,
        plan=ONCE,
        report=(lines if lines is not None else []).append,
        console=Console(width=120, file=shown),
        command=FAKE,
    )
    return measured, shown.getvalue()


def test_demo(tmp_path: Path, calls: Calls) -> None:
    """Networks are trained, exported, served and compared in that order, and a second run does only what is undone.

    A changed checkpoint is exported again as version 2, a truncated one is trained again.
    """
    lines: list[str] = []
    directory = tmp_path / "demo"
    measured, table = run(directory, lines)
    assert calls.take() == [f"{stage} {network}" for stage in ("train", "export") for network in NETWORKS]
    assert [line for line in lines if line.endswith(" ...")] == [
        "[1/5] train lenet5 on the digits ...",
        "[2/5] train vgg16_bn on the digits ...",
        "[3/5] export lenet5 to ONNX ...",
        "[4/5] export vgg16_bn to ONNX ...",
        "[5/5] serve and compare lenet5, vgg16_bn ...",
    ]
    assert "27 of 30 held-out images right (90.0%)" in "\n".join(lines)
    assert "What Vgg16_Bn costs" in table
    results = json.loads((directory / "comparison.json").read_text())
    assert [(card["model"], card["accuracy"]["top1"]) for card in results["cards"]] == [
        (name, 0.9) for name in NETWORKS
    ]
    assert [card.model for card in measured.cards] == list(NETWORKS)
    assert (directory / "comparison.md").read_text().count("| vgg16_bn |") == 1
    assert {path.suffix for path in directory.glob("comparison.*")} == {".json", ".csv", ".md", ".html", ".svg"}

    layout = Layout(directory)
    layout.weights("lenet5").write_bytes(b"len")
    best = {"bytes": 3, "sha256": "of another training"}
    (layout.run("lenet5") / "run.json").write_text(json.dumps({"finished": True, "best": best}))
    layout.weights("vgg16_bn").write_bytes(b"cut")
    lines.clear()
    measured, _ = run(directory, lines)
    assert calls.take() == ["train vgg16_bn", "export lenet5"]
    assert lines[1] == f"[1/5] train lenet5 on the digits: done before, {directory / 'runs' / 'lenet5' / 'best.pt'}"
    assert [card.version for card in measured.cards] == [2, 1]


def test_failing_step(tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails is named with its command; what was done before it is used again."""
    monkeypatch.setenv("FAKE_NETWEIGHT_FAILS", "vgg16_bn")
    with pytest.raises(NetweightError, match=r"netweight train vgg16_bn .* failed with exit code 1"):
        run(tmp_path / "demo")
    assert calls.take() == ["train lenet5", "train vgg16_bn"]
    with pytest.raises(NetweightError):
        run(tmp_path / "demo")
    assert calls.take() == ["train vgg16_bn"]


def test_interrupt(tmp_path: Path, calls: Calls) -> None:
    """Ctrl-C ends the demo with exit code 130, one line and no process left; meanwhile a second demo is kept out."""
    code = (
        "import sys; from pathlib import Path; from compare.demo import demo;"
        f"demo(Path(sys.argv[1]), networks={NETWORKS}, command={FAKE})"
    )
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(tmp_path / "demo")],
        env={**os.environ, "FAKE_NETWEIGHT_SLEEPS": "lenet5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    )
    assert child.stdout is not None
    with child:
        assert child.stdout.readline().startswith("netweight demo in ")
        assert child.stdout.readline().startswith("[1/5] train lenet5")
        assert child.stdout.readline() == "training\n"
        with pytest.raises(NetweightError, match="another netweight demo is at work there"):
            run(tmp_path / "demo")
        began = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        assert child.wait(20) == 130
        assert time.monotonic() - began < 5
        assert child.stdout.read() == "interrupted: type the command again, and it goes on from here\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
    run(tmp_path / "demo")
    assert calls.take() == ["train lenet5", *(f"{s} {n}" for s in ("train", "export") for n in NETWORKS)]


def finished_run(directory: Path, weights: bytes = b"weights", **facts: object) -> Path:
    """Write a finished run by hand."""
    held_out(directory / "heldout.npz", 3)
    (directory / "best.pt").write_bytes(weights)
    record = {"finished": True, "best": {"bytes": 7, "sha256": "abc"}, **facts}
    (directory / "run.json").write_text(json.dumps(record))
    return directory


def test_finished_weights(tmp_path: Path) -> None:
    """A run counts as finished only when it says so and its checkpoint and held-out images are whole."""
    assert finished_weights(finished_run(tmp_path / "whole")) == "abc"
    assert finished_weights(tmp_path / "absent") is None
    assert finished_weights(finished_run(tmp_path / "unfinished", finished=False)) is None
    assert finished_weights(finished_run(tmp_path / "truncated", b"weig")) is None
    for name in ("best.pt", "heldout.npz"):
        (finished_run(tmp_path / name) / name).unlink()
        assert finished_weights(tmp_path / name) is None
    (finished_run(tmp_path / "broken") / "run.json").write_text("{")
    assert finished_weights(tmp_path / "broken") is None


def test_exported_version(tmp_path: Path) -> None:
    """An export is used again only when the newest version was made of this checkpoint and its files are whole."""
    assert exported_version(tmp_path, "tiny", "abc") is None
    publish(tmp_path, "tiny", sha256="abc")
    assert exported_version(tmp_path, "tiny", "abc") == 1
    assert exported_version(tmp_path, "tiny", "def") is None
    assert exported_version(tmp_path, "tiny", None) is None
    folder = publish(tmp_path, "tiny", version=2, sha256="def")
    assert exported_version(tmp_path, "tiny", "abc") is None
    assert exported_version(tmp_path, "tiny", "def") == 2
    (folder / "model.onnx").write_bytes(b"cut")
    assert exported_version(tmp_path, "tiny", "def") is None

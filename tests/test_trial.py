"""Whether a graph that a caller sent can be opened: found out in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from server import trial
from server.errors import ModelLoadError
from tests import graphs


def test_a_graph_that_runs_is_taken(tmp_path: Path) -> None:
    """Nothing is said of a graph that can be opened and run."""
    trial.check(graphs.scale(tmp_path))


def test_a_graph_that_ends_its_process_is_refused(tmp_path: Path) -> None:
    """The signal is named, in one line, and this process goes on."""
    with pytest.raises(ModelLoadError, match=r"^model\.onnx ends the process that opens it \(SIGABRT\)") as caught:
        trial.check(graphs.aborting(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_no_graph_is_left_to_the_server(tmp_path: Path) -> None:
    """It fails in an orderly way there too, with the cause in its message."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    trial.check(path)


def test_one_that_never_ends_is_refused(tmp_path: Path) -> None:
    """It is killed after its time."""
    forever = (sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(ModelLoadError, match=r"takes more than 0\.2 s to open and to run once"):
        trial.check(tmp_path / "model.onnx", forever, timeout_seconds=0.2)

"""Networks of any weight: beyond protobuf's 2 GiB the weights lie beside the graph, and are mapped rather than copied."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from export import convert
from export.pipeline import export
from models import catalog
from models.weights import parse
from tests.giant import PIXELS

if TYPE_CHECKING:
    from export.publish import Publication

GIANT = replace(catalog.get("lenet5"), name="giant", builder="tests.giant:giant")
EVERYTHING_INSIDE = 1e12

PROGRAM = """
import sys, threading, time
from pathlib import Path
peak = 0
def sample():
    global peak
    while True:
        status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
        peak = max(peak, int(status.split()[0]) * 1024)
        time.sleep(0.02)
from tests.test_large import GIANT, EVERYTHING_INSIDE, export, parse, replace
hidden, checkpoint, repository = sys.argv[1:]
architecture = replace(GIANT, options=(("hidden", int(hidden)),))
threading.Thread(target=sample, daemon=True).start()
time.sleep(0.1)
before = peak
proven = 0
def report(line):
    global proven
    proven = peak if ": weigh" in line else proven
export(architecture, parse(checkpoint), Path(repository), external_data_above=EVERYTHING_INSIDE, report=report)
print(proven - before, peak - before)
"""
"""Exports in a process of its own and prints by how many bytes its own memory grew, mapped files not counted: until the
file was proven, and to the end."""


def check_files(version: Path, card: dict[str, object]) -> int:
    """See that the card's files are those of the version's directory, with their hashes; return the weights' bytes."""
    graph = card["graph"]
    assert isinstance(graph, dict)
    assert set(graph["files"]) == {"model.onnx", "model.onnx.data"}
    for name, facts in graph["files"].items():
        with (version / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]
        assert (version / name).stat().st_size == facts["bytes"]
    return int(graph["files"]["model.onnx.data"]["bytes"])


def test_what_a_message_cannot_hold_lies_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the weights pass protobuf's limit (lowered here) they lie beside, even when they were asked for inside."""
    monkeypatch.setattr(convert, "PROTOBUF_BYTES", 2**24 + 100_000)
    exported = export(GIANT, parse("random"), tmp_path, external_data_above=EVERYTHING_INSIDE)
    published: Publication = exported.fp32
    assert check_files(published.path, published.card) > 4 * 1000 * PIXELS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_network_of_over_two_gigabytes(tmp_path: Path) -> None:
    """2.2 GB of weights are exported from a checkpoint and proven without a copy of them in memory.

    Weighing makes one, in ONNX Runtime, which writes its optimised graph.
    """
    hidden = 535_000
    tensors = {"1.weight": (hidden, PIXELS), "1.bias": (hidden,), "3.weight": (10, hidden), "3.bias": (10,)}
    content = {
        name: torch.zeros(shape) for name, shape in tensors.items()
    }  # zeros take no memory until they are written
    for tensor in content.values():
        tensor[:1000].uniform_(-1e-3, 1e-3)
    torch.save(content, tmp_path / "it.pth")
    command = [sys.executable, "-c", PROGRAM, str(hidden), str(tmp_path / "it.pth"), str(tmp_path / "repository")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version = tmp_path / "repository" / "giant" / "1"
    weights = check_files(version, json.loads((version / "card.json").read_text()))
    assert weights > 2**31
    proven, peak = map(int, done.stdout.split()[-2:])
    assert 0 < proven < weights / 4
    assert peak < 1.25 * weights

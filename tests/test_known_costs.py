"""Each figure of a cost card that the kernel counts, against a process that takes a known amount.

CPU time is counted by the kernel, whoever else uses the machine, and memory in pages: these errors are the server's own
(gRPC in Python, its metrics page), not the machine's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compare.cold_start import cut, first_answer_seconds
from compare.cost import MIB
from compare.energy import meter
from compare.held_memory import Memories
from compare.metrics_page import parse_figures, parse_process, read_page
from compare.place import Place
from compare.plan import QUICK
from compare.server_process import ServerProcess
from compare.windows import Windows
from tests import known_process
from tests.known_process import MODEL

COMMAND = (sys.executable, known_process.__file__)
REQUESTS = {1: [b"request"]}


@contextmanager
def known(monkeypatch: pytest.MonkeyPatch, **takes: float) -> Iterator[Place]:
    """Serve a model that takes what is told; see `tests.known_process`."""
    for name, value in takes.items():
        monkeypatch.setenv(f"KNOWN_{name.upper()}", str(value))
    with ServerProcess(Path(), command=COMMAND) as server:
        yield Place(server.address, server.metrics_url, server)


def windows(place: Place, energy: Any) -> Windows:
    subject: Any = SimpleNamespace(name=MODEL, single=REQUESTS[1], requests=REQUESTS, callers=2, largest_batch=1)
    return Windows(place, subject, replace(QUICK, seconds=0.5, warm_up_seconds=0.4), energy)


def test_cpu_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that burns 10 ms of CPU for each request: the card says 10 ms, and up to 3 ms more for gRPC and Python.

    Below, the error is that of the kernel's clock ticks: two of 10 ms over the whole window.
    """
    with known(monkeypatch, cpu_seconds=0.01) as place:
        for window in (windows(place, meter(tmp_path)).one_caller, windows(place, meter(tmp_path)).saturation):
            load, taken = window()
            assert taken.cpu_seconds is not None
            assert 0.01 - 0.02 / load.count <= taken.cpu_seconds <= 0.013
            assert taken.joules is None


def test_joules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A counter of energy that grows by 5 J for each inference: the card says 5 J."""
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    for name, content in (("name", "package-0"), ("max_energy_range_uj", 10**12), ("energy_uj", 0)):
        (package / name).write_text(f"{content}\n")
    with known(monkeypatch) as place:
        measure = windows(place, meter(tmp_path))
        read = measure.meter.read

        def use_energy() -> dict[str, float] | None:
            assert place.metrics_url is not None
            answered = read_page(place.metrics_url).split()[-1]
            (package / "energy_uj").write_text(f"{5_000_000 * int(answered)}\n")
            return read()

        monkeypatch.setattr(measure.meter, "read", use_energy)
        _, taken = measure.one_caller()
    assert taken.joules == pytest.approx(5.0)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that holds 96 MiB, 64 MiB more during one request, and gives the 96 back: each within 4 MiB.

    The 16 MiB that it keeps from that request on are neither the model's nor given back with it. The error is that of the threads and buffers which its first requests need.
    """
    error = 4 * MIB
    with known(monkeypatch, held_bytes=0, peak_bytes=0) as place:
        bare = measure_memory(place)
    with known(monkeypatch, held_bytes=96 * MIB, peak_bytes=64 * MIB, kept_bytes=16 * MIB) as place:
        held = measure_memory(place)
    assert held.added_bytes == 96 * MIB  # as the server's page says
    for value in (bare.process_bytes, held.process_bytes, held.peak_bytes, held.given_back_bytes):
        assert value is not None
    assert held.process_bytes - bare.process_bytes == pytest.approx(96 * MIB, abs=error)
    assert held.peak_bytes - held.process_bytes == pytest.approx(64 * MIB, abs=error)
    assert held.given_back_bytes == pytest.approx(96 * MIB, abs=error)


def measure_memory(place: Place) -> Any:
    """Return what a comparison says of the memory, after one request."""
    assert place.metrics_url is not None
    figures = parse_figures(read_page(place.metrics_url))[MODEL, "1"]
    memories = Memories(place)
    first_answer_seconds(place.address, REQUESTS[1][0])
    return memories.end(MODEL, figures)[0]


def test_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sleeps half a second before it is ready and 0.2 before its first answer: both are in its cold start.

    The parts add up to the whole without a gap. Lower bounds are exact; starting Python and gRPC is in `other` here,
    and takes seconds at most.
    """
    with known(monkeypatch, start_seconds=0.5, answer_seconds=0.2) as place:
        assert place.server is not None
        assert place.metrics_url is not None
        first = first_answer_seconds(place.address, REQUESTS[1][0])
        page = read_page(place.metrics_url)
        start = cut(place.server.ready_seconds, first, parse_process(page), parse_figures(page)[MODEL, "1"])
    assert start is not None
    parts = (start.process, start.imports, start.session, start.warm_up)
    assert parts == (0.01, 0.02, 0.03, 0.04)
    assert 0.2 <= start.first_answer < 1.2
    assert start.other + sum(parts) >= 0.5
    assert sum(parts) + start.other + start.first_answer == pytest.approx(start.total)
    assert 0.7 <= start.total < 10

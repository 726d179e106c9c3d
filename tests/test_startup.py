"""The phases of a start."""

from __future__ import annotations

import time

import pytest

from server import first_line, startup


def test_the_phases_have_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process, imports, loading and the rest are the whole; a process that is 10 s old began 10 s ago."""
    now = time.monotonic()
    monkeypatch.setattr(first_line, "RAN", now - 9)
    monkeypatch.setattr(startup, "process_age_seconds", lambda: 10.0)
    took = startup.startup(now - 7, load_seconds=4)
    assert took is not None
    assert took.total == 10
    assert took.imports == pytest.approx(2)
    assert took.process == pytest.approx(1, abs=0.5)
    assert took.process + took.imports + took.other + 4 == pytest.approx(10)


def test_no_phase_is_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells a process's age to 0.01 s only, and loads may overlap: what would be below 0 is 0."""
    now = time.monotonic()
    monkeypatch.setattr(first_line, "RAN", now - 1)
    monkeypatch.setattr(startup, "process_age_seconds", lambda: 0.995)
    took = startup.startup(now, load_seconds=5)
    assert took is not None
    assert (took.process, took.other) == (0, 0)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no figure at all."""
    monkeypatch.setattr(startup, "process_age_seconds", lambda: 0.0)
    assert startup.startup(time.monotonic(), 1) is None

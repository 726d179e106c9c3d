"""Joules from RAPL's files and from NVML, where there are any; a reason where there are none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compare.energy import meter, used

RANGE = 262_143_328_850


class NoGpu(Exception):  # noqa: N818 (it is NVML's error in the tests below)
    """What the library says where it finds nothing."""


def no_driver() -> None:
    raise NoGpu("Driver Not Loaded")


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NoGpu, nvmlInit=no_driver))


def domain(root: Path, folder: str, name: str, microjoules: int) -> Path:
    """Make a RAPL domain as the kernel shows it; return its counter."""
    path = root / folder
    path.mkdir()
    for file, content in (("name", name), ("max_energy_range_uj", RANGE), ("energy_uj", microjoules)):
        (path / file).write_text(f"{content}\n")
    return path / "energy_uj"


def gpus(monkeypatch: pytest.MonkeyPatch, *millijoules: int) -> list[int]:
    """Put a made-up NVML in place whose GPUs have used that much; return the counters."""
    counters = list(millijoules)
    nvml: Any = SimpleNamespace(
        NVMLError=NoGpu,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(counters),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
        nvmlDeviceGetTotalEnergyConsumption=lambda index: counters[index],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return counters


def test_packages(tmp_path: Path) -> None:
    """Two packages count, each once: their cores, the platform and the second way to the same package don't."""
    first = domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    others = [
        domain(tmp_path, "intel-rapl:0:0", "core", 1),
        domain(tmp_path, "intel-rapl:2", "psys", 1),
        domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1),
    ]
    energy = meter(tmp_path)
    before = energy.read()
    assert before == {"rapl:package-0": 0.0, "rapl:package-1": 0.0}
    first.write_text("8000000\n")
    second.write_text("7500000\n")
    for other in others:
        other.write_text("900000000\n")
    assert used(before, energy.read()) == pytest.approx(3.5)
    assert energy.reason is None


def test_counter_that_wraps_around(tmp_path: Path) -> None:
    """A counter that began anew goes on from its range; readings never go back."""
    counter = domain(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    energy = meter(tmp_path)
    before = energy.read()
    counter.write_text("2000000\n")
    between = energy.read()
    counter.write_text("2500000\n")
    assert used(before, between) == pytest.approx(3.0)
    assert used(before, energy.read()) == pytest.approx(3.5)


def test_counter_that_we_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that only root may read are no counters, and the reason says which."""
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, **options: Any) -> str:
        if path == counter:
            raise PermissionError
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    energy = meter(tmp_path)
    assert energy.read() is None
    assert energy.reason is not None
    assert "intel-rapl:0/energy_uj is for root only; no GPU that tells (Driver Not Loaded)" in energy.reason


def test_nothing_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither RAPL nor the NVML library: None, never 0, and a reason for each."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy = meter(tmp_path)
    assert energy.read() is None
    assert used(energy.read(), energy.read()) is None
    assert energy.reason == f"energy: no RAPL packages in {tmp_path}; no NVML (nvidia-ml-py is not installed)"


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs count beside the packages, by their UUID."""
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    millijoules = gpus(monkeypatch, 1_000_000, 2_000_000)
    energy = meter(tmp_path)
    before = energy.read()
    assert before == {"rapl:package-0": 0.0, "nvml:GPU-0": 1000.0, "nvml:GPU-1": 2000.0}
    counter.write_text("1000000")
    millijoules[:] = [1_500_000, 2_000_250]
    assert used(before, energy.read()) == pytest.approx(1 + 500 + 0.25)


def test_source_that_goes_away(tmp_path: Path) -> None:
    """A counter that is no longer there ends the measurement of energy, not the comparison."""
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    energy = meter(tmp_path)
    before = energy.read()
    counter.unlink()
    after = energy.read()
    assert after is None
    assert used(before, after) is None
    assert energy.reason is not None
    assert "no longer readable" in energy.reason

"""The energy that the machine has used, where it tells: joules of CPU packages (RAPL) and of NVIDIA GPUs (NVML).

It is the whole machine's: idle power and other processes are in it. Only packages are read, since a package's counter
holds those of its cores and graphics, and the counter of the platform (psys) holds the packages.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6
MILLI = 1e-3


@dataclass(frozen=True)
class Domain:
    """A RAPL package: where its counter stands, and where it wraps around, microjoules."""

    name: str
    counter: Path
    range: int

    def read(self) -> int:
        """Return the counter, microjoules."""
        return int(self.counter.read_text(encoding="ascii"))


class EnergyMeter:
    """Counts joules by source from when it was made; without a source, `reason` says why there is none."""

    def __init__(self, domains: dict[Domain, int], gpus: dict[str, tuple[Any, Any]], reason: str | None) -> None:
        """Take what can be read: packages with where they stand, GPUs with the library and their handle."""
        self.reason = reason
        self._last = domains
        self._gpus = gpus
        self._joules = dict.fromkeys((domain.name for domain in domains), 0.0)

    def read(self) -> dict[str, float] | None:
        """Return joules so far by source; None where nothing tells, or does not any more.

        Between two readings a package's counter may wrap around once (a matter of minutes under full load).
        """
        if not self._last and not self._gpus:
            return None
        try:
            self._read_packages()
            gpus = {
                name: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) * MILLI for name, (nvml, gpu) in self._gpus.items()
            }
        except Exception as error:  # noqa: BLE001 (a figure that is not there must not end a measurement)
            self.reason = f"energy: no longer readable ({error})"
            return None
        return {**self._joules, **gpus}

    def _read_packages(self) -> None:
        for domain, last in self._last.items():
            now = domain.read()
            self._joules[domain.name] += (now - last if now >= last else now - last + domain.range) * MICRO
            self._last[domain] = now


def meter(root: Path = POWERCAP) -> EnergyMeter:
    """Return a meter of all that can be read."""
    domains, no_packages = _packages(root)
    gpus, no_gpus = _gpus()
    reason = None if domains or gpus else f"energy: {no_packages}; {no_gpus}"
    return EnergyMeter(domains, gpus, reason)


def used(before: dict[str, float] | None, after: dict[str, float] | None) -> float | None:
    """Return joules of all sources from one reading to a later one; None where either lacks a source."""
    if before is None or after is None or before.keys() != after.keys():
        return None
    return sum(after[name] - before[name] for name in before)


def _packages(root: Path) -> tuple[dict[Domain, int], str]:
    """Return the packages of the control type intel-rapl, which AMD's have too, or why there are none."""
    found: dict[Domain, int] = {}
    for path in sorted(root.glob("intel-rapl:*")):
        try:
            name = (path / "name").read_text(encoding="ascii").strip()
            if not name.startswith("package"):
                continue
            limit = int((path / "max_energy_range_uj").read_text(encoding="ascii"))
            domain = Domain(f"rapl:{name}", path / "energy_uj", limit)
            found[domain] = domain.read()
        except PermissionError:
            return {}, f"RAPL's {path.name}/energy_uj is for root only"
        except (OSError, ValueError) as error:
            return {}, f"RAPL's {path.name} is not readable ({error})"
    return found, f"no RAPL packages in {root}"


def _gpus() -> tuple[dict[str, tuple[Any, Any]], str]:
    """Return the GPUs that count their energy by UUID, or why there are none."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return {}, "no NVML (nvidia-ml-py is not installed)"
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        found = {f"nvml:{nvml.nvmlDeviceGetUUID(handle)}": (nvml, handle) for handle in handles}
        for _, handle in found.values():
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return {}, f"no GPU that tells ({error})"
    return found, "no NVIDIA GPU"

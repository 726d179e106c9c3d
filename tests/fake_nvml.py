"""NVML as `server.gpu` asks it: two GPUs, this process on the first."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class FakeNvml:
    """Answers as the module pynvml does; ``fails`` names what it cannot tell."""

    class NVMLError(Exception):
        """NVML's."""

    def __init__(self, *fails: str, own_pid: int | None = None) -> None:
        self.fails = {f"nvmlDeviceGet{each}" for each in fails}
        self.own_bytes: int | None = 2 * GIB
        own = SimpleNamespace(pid=own_pid or os.getpid())
        self._processes = [[own, SimpleNamespace(pid=1, usedGpuMemory=5 * GIB)], []]
        self._own = own

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  NVML's name
        return 2

    def __getattr__(self, name: str) -> Any:
        def ask(index: int) -> Any:
            if name in self.fails:
                raise self.NVMLError("Not Supported")
            self._own.usedGpuMemory = self.own_bytes
            return {
                "HandleByIndex": index,
                "UUID": f"GPU-{index}",
                "MemoryInfo": SimpleNamespace(used=15 * GIB, total=80 * GIB),
                "UtilizationRates": SimpleNamespace(gpu=37),
                "PowerUsage": 123_456,
                "TotalEnergyConsumption": 98_765_432_100,
                "ComputeRunningProcesses": self._processes[index],
            }[name.removeprefix("nvmlDeviceGet")]

        return ask

"""What NVIDIA's management library, NVML, says of the GPUs: for the metrics page, and around each load.

NVML's Python module is imported only where there is a driver. Whatever NVML cannot tell (a part of a GPU does not tell
its load, a container may hide which processes use it) is left out.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)
DRIVER = ("/dev/nvidiactl", "/dev/dxg")
"""One of these is there where an NVIDIA driver is: on Linux, in WSL."""
LABEL = ("gpu_uuid",)
FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("netweight_gpu_memory_used_bytes", "GPU memory that is in use, by whomever.", "memory_used"),
    ("netweight_gpu_memory_total_bytes", "GPU memory that there is.", "memory_total"),
    ("netweight_gpu_process_memory_bytes", "GPU memory that this server's processes hold.", "process_memory"),
    ("netweight_gpu_utilization_ratio", "Share of the last second or so in which the GPU computed.", "utilization"),
    ("netweight_gpu_power_watts", "What the GPU draws now.", "power"),
    ("netweight_gpu_energy_joules", "What the GPU has drawn since its driver was loaded.", "energy"),
    ("nv_gpu_utilization", "As netweight_gpu_utilization_ratio; by the name that perf_analyzer reads.", "utilization"),
    ("nv_gpu_power_usage", "As netweight_gpu_power_watts; by the name that perf_analyzer reads.", "power"),
    ("nv_gpu_memory_used_bytes", "As netweight_gpu_memory_used_bytes; for perf_analyzer.", "memory_used"),
    ("nv_gpu_memory_total_bytes", "As netweight_gpu_memory_total_bytes; for perf_analyzer.", "memory_total"),
)
"""The metrics: name, text, and the field of `Reading` that each shows."""
COUNTED = "energy"
"""The field that only grows."""


@dataclass(frozen=True)
class Reading:
    """One GPU at one moment; None where NVML does not tell."""

    uuid: str
    memory_used: int | None
    """Bytes."""
    memory_total: int | None
    """Bytes."""
    process_memory: int | None
    """Bytes of this process and those that it started; None where NVML lists none of them, too: a container may hide
    which processes use a GPU."""
    utilization: float | None
    """0 to 1."""
    power: float | None
    """Watts."""
    energy: float | None
    """Joules."""


class Gpus:
    """The GPUs of this machine.

    Args:
        nvml: the module `pynvml`, initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def readings(self) -> list[Reading]:
        """Return what NVML tells now; what it does not tell is None."""
        own = processes()
        count = self._ask("nvmlDeviceGetCount") or 0
        devices = [self._ask("nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        found = [self._reading(device, own) for device in devices if device is not None]
        return [each for each in found if each.uuid]

    def process_bytes(self) -> int | None:
        """Return the bytes that this process and those that it started hold on all GPUs; None: on none of them."""
        told = [each.process_memory for each in self.readings() if each.process_memory is not None]
        return sum(told) if told else None

    def _reading(self, device: Any, own: set[int]) -> Reading:
        ask = self._ask
        memory, rates = ask("nvmlDeviceGetMemoryInfo", device), ask("nvmlDeviceGetUtilizationRates", device)
        milliwatts = ask("nvmlDeviceGetPowerUsage", device)
        millijoules = ask("nvmlDeviceGetTotalEnergyConsumption", device)
        uuid = ask("nvmlDeviceGetUUID", device) or ""
        return Reading(
            uuid.decode() if isinstance(uuid, bytes) else uuid,
            None if memory is None else memory.used,
            None if memory is None else memory.total,
            self._process_memory(device, own),
            None if rates is None else rates.gpu / 100,
            None if milliwatts is None else milliwatts / 1000,
            None if millijoules is None else millijoules / 1000,
        )

    def _process_memory(self, device: Any, own: set[int]) -> int | None:
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses", device)
        used = [each.usedGpuMemory for each in listed or () if each.pid in own]
        return sum(used) if used and None not in used else None

    def _ask(self, question: str, *arguments: Any) -> Any:
        """Return NVML's answer; None where it has none, for whatever reason: a scrape and a load go on without it."""
        try:
            return getattr(self._nvml, question)(*arguments)
        except Exception as error:  # noqa: BLE001  its module raises others than NVMLError too
            log.debug("%s: %s", question, error)
            return None


class GpuMetrics(Collector):
    """The GPUs as metric families, read at each scrape."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def collect(self) -> Iterator[Metric]:
        """Yield the families; what is not known of a GPU has no sample."""
        readings = self._gpus.readings()
        for name, text, field in FAMILIES:
            family = (CounterMetricFamily if field == COUNTED else GaugeMetricFamily)(name, text, labels=LABEL)
            for reading in readings:
                value = getattr(reading, field)
                if value is not None:
                    family.add_metric([reading.uuid], value)
            yield family


@functools.cache
def find() -> Gpus | None:
    """Return the GPUs; None where there is no NVIDIA driver, or NVML cannot be used."""
    if not any(Path(each).exists() for each in DRIVER):
        return None
    try:
        import pynvml
    except ModuleNotFoundError:
        log.info("there is an NVIDIA driver, but not the package nvidia-ml-py: no figures of the GPU")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("NVML cannot be used, no figures of the GPU: %s", error)
        return None
    return Gpus(pynvml)


def processes() -> set[int]:
    """Return the ids of this process and of all that it started, and they in turn."""
    found, open_ones = set(), [os.getpid()]
    while open_ones:
        process = open_ones.pop()
        found.add(process)
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                open_ones += [int(each) for each in children.read_text(encoding="ascii").split()]
            except OSError:  # it has ended
                continue
    return found

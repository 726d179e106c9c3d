"""The machine that a result was measured on."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "grpcio", "protobuf", "numpy", "prometheus-client", "torch")
SETTINGS = ("CUDA_GRAPHS", "FRONTENDS", "INLINE_MICROSECONDS", "PROVIDER", "PROVIDER_OPTIONS", "THREADS", "WAY")
"""Of the server, those that its speed depends on; others may tell who or where."""
CGROUPS = Path("/sys/fs/cgroup")


def environment() -> dict[str, Any]:
    """Return CPU, cores, quota, memory, GPUs, versions, date (UTC), load average and settings, as plain values for JSON.

    Quota (cores) and memory limit (bytes) are those of this process's cgroup; None: unlimited or not told. The load
    average (1, 5, 15 minutes) tells whether the machine was busy with something else before the measurement. Settings are
    those of the server that stand in the environment; a measurement hands them on.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota_cores": cpu_quota_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": memory_limit_bytes(psutil.virtual_memory().total),
        "gpus": gpus(),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _versions(),
        "settings": _settings(),
    }


def cpu_model() -> str:
    """Return the CPU's name as the kernel tells it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_quota_cores(root: Path = CGROUPS) -> float | None:
    """Return how many cores the cgroup may use in all (version 2, then version 1); None: as many as there are."""
    words = _cgroup_file("cpu.max", root=root).split()
    if not words:
        words = [_cgroup_file(f"cpu/cpu.cfs_{name}_us", root=root).strip() for name in ("quota", "period")]
    quota, period = (_number(word) for word in (*words, "", "")[:2])
    return quota / period if quota and quota > 0 and period else None


def memory_limit_bytes(total: int, root: Path = CGROUPS) -> int | None:
    """Return how much memory the cgroup may use in all; None where that is no less than the machine's `total`."""
    limit = _number(_cgroup_file("memory.max", "memory/memory.limit_in_bytes", root=root))
    return limit if limit is not None and limit < total else None


def usable_cores() -> int:
    """Return how many cores this process may keep busy: its affinity, cut by the quota (rounded up), at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota_cores()
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def gpus() -> list[dict[str, str]]:
    """Return name, memory and driver of each NVIDIA GPU; empty where there is none or no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(("name", "memory", "driver"), line.split(", "), strict=False)) for line in lines]


def _cgroup_file(*names: str, root: Path = CGROUPS) -> str:
    for name in names:
        try:
            return (root / name).read_text(encoding="ascii")
        except OSError:
            continue
    return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().lstrip("-").isdigit() else None


def _settings() -> dict[str, str]:
    names = [f"NETWEIGHT_{name}" for name in SETTINGS]
    return {name: os.environ[name] for name in names if name in os.environ}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

"""What NVML says of GPUs, on the metrics page and around a load; where there is no GPU, before a fake of NVML."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server import gpu, loading, metrics_page, providers, served
from server.gpu import GpuMetrics, Gpus
from server.metrics import Load, Metrics, Spent
from tests import graphs
from tests.fake_nvml import GIB, FakeNvml
from tests.test_control import Parts, build

__all__ = ["build"]  # a fixture
FIRST, SECOND = {"gpu_uuid": "GPU-0"}, {"gpu_uuid": "GPU-1"}


def page(nvml: FakeNvml) -> CollectorRegistry:
    """Return the metrics of these GPUs."""
    registry = CollectorRegistry()
    registry.register(GpuMetrics(Gpus(nvml)))
    return registry


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """The server finds these GPUs."""
    nvml = FakeNvml()
    monkeypatch.setattr(gpu, "find", lambda: Gpus(nvml))
    return nvml


def test_each_gpu_is_on_the_page() -> None:
    """In bytes, watts, joules and a share of 1; of the processes' memory, the server's own."""
    sample = page(FakeNvml()).get_sample_value
    assert sample("netweight_gpu_memory_used_bytes", FIRST) == 15 * GIB
    assert sample("netweight_gpu_memory_total_bytes", FIRST) == 80 * GIB
    assert sample("netweight_gpu_process_memory_bytes", FIRST) == 2 * GIB
    assert sample("netweight_gpu_process_memory_bytes", SECOND) is None  # none of ours is listed there
    assert sample("netweight_gpu_utilization_ratio", FIRST) == 0.37
    assert sample("netweight_gpu_power_watts", SECOND) == 123.456
    assert sample("netweight_gpu_energy_joules_total", SECOND) == 98_765_432.1
    for theirs, ours in {
        "nv_gpu_utilization": "netweight_gpu_utilization_ratio",
        "nv_gpu_power_usage": "netweight_gpu_power_watts",
        "nv_gpu_memory_used_bytes": "netweight_gpu_memory_used_bytes",
        "nv_gpu_memory_total_bytes": "netweight_gpu_memory_total_bytes",
    }.items():
        assert sample(theirs, FIRST) == sample(ours, FIRST)


def test_what_is_started_counts_as_the_servers() -> None:
    """A process that this one started, and that has GPU memory, is counted; a stranger's is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in gpu.processes()
        assert Gpus(FakeNvml(own_pid=child.pid)).process_bytes() == 2 * GIB
        assert Gpus(FakeNvml(own_pid=2**22 + 1)).process_bytes() is None
        child.communicate(b"\n")


def test_what_nvml_cannot_tell_is_left_out() -> None:
    """A sample that is not known is not there, never 0, and the others stay."""
    nvml = FakeNvml("UtilizationRates", "TotalEnergyConsumption", "ComputeRunningProcesses")
    sample = page(nvml).get_sample_value
    assert sample("netweight_gpu_power_watts", FIRST) == 123.456
    for name in ("gpu_utilization_ratio", "gpu_energy_joules_total", "gpu_process_memory_bytes"):
        assert sample(f"netweight_{name}", FIRST) is None
    assert Gpus(nvml).process_bytes() is None
    hidden = FakeNvml()
    hidden.own_bytes = None  # as where a driver does not tell it by process
    assert page(hidden).get_sample_value("netweight_gpu_process_memory_bytes", FIRST) is None


@pytest.mark.parametrize("what", ["HandleByIndex", "UUID"])
def test_gpus_that_cannot_be_named_do_not_break_the_page(what: str) -> None:
    """Then there is no sample, and no error."""
    registry = page(FakeNvml(what))
    assert [sample for family in registry.collect() for sample in family.samples] == []
    assert b"netweight_gpu_memory_used_bytes" in generate_latest(registry)


@pytest.fixture
def served_page(found: FakeNvml) -> Iterator[str]:
    """The page of a server that has found GPUs, asked for as Prometheus does, compression accepted."""
    registry = page(found)
    Metrics(registry).loaded("net", "1", Load(1.0, Spent(), 15 * GIB, 1, "CPUExecutionProvider", fell_back=False))
    server, thread = metrics_page.start("127.0.0.1", 0, registry, None)
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.server_port}/metrics", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310  our own server
        yield answer.read().decode()
    server.shutdown()
    server.server_close()
    thread.join()


def test_perf_analyzer_reads_plain_decimals(served_page: str) -> None:
    """The library writes large numbers with exponents, which perf_analyzer misreads: what it reads has none."""
    lines = dict(re.findall(r'^(\w+)\{gpu_uuid="GPU-0"\} (\S+)$', served_page, re.MULTILINE))
    assert lines["nv_gpu_memory_used_bytes"] == str(15 * GIB)
    assert lines["nv_gpu_memory_total_bytes"] == str(80 * GIB)
    assert (lines["nv_gpu_utilization"], lines["nv_gpu_power_usage"]) == ("0.37", "123.456")
    assert lines["netweight_gpu_memory_total_bytes"] == "8.589934592e+10"  # Prometheus reads that
    assert 'netweight_model_resident_bytes{model="net",version="1"} 1.610612736e+10' in served_page


def test_without_a_driver_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's module is looked for only where an NVIDIA driver is."""
    monkeypatch.setattr(gpu, "DRIVER", ("/nosuch",))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.find.__wrapped__() is None


def test_an_nvml_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver: no module, or one that cannot start, means no figures; one that starts is used."""
    monkeypatch.setattr(gpu, "DRIVER", ("/proc",))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.find.__wrapped__() is None
    module = ModuleType("pynvml")
    module.NVMLError, module.nvmlInit = OSError, _fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert gpu.find.__wrapped__() is None
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    assert isinstance(gpu.find.__wrapped__(), Gpus)


def _fail() -> None:
    raise OSError("Driver/library version mismatch")


def test_a_load_on_a_gpu_tells_what_it_added(
    tmp_path: Path, found: FakeNvml, build: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The growth of this process's GPU memory is the model's, until it is unloaded; on the CPU there is no figure."""
    graphs.scale(tmp_path)
    parts = build()
    parts.load()
    version = {"model": "scale", "version": "1"}
    assert parts.sample("model_gpu_memory_bytes", **version) is None
    parts.control.unload("scale")
    parts.settled()
    monkeypatch.setattr(served, "CPU", "another provider")
    monkeypatch.setattr(served, "load", _growing(found))
    parts.load()
    assert parts.sample("model_gpu_memory_bytes", **version) == GIB
    parts.control.unload("scale")
    parts.settled()
    assert parts.sample("model_gpu_memory_bytes", **version) is None


def _growing(nvml: FakeNvml) -> Callable[..., object]:
    def grow(*arguments: object, **named: object) -> object:
        model = loading.load(*arguments, **named)  # type: ignore[arg-type]
        assert nvml.own_bytes is not None
        nvml.own_bytes += GIB
        return model

    return grow


def test_a_process_that_nvml_does_not_list_has_no_figure() -> None:
    """Some containers hide processes from NVML: then the model's GPU memory is not known, rather than 0."""
    assert served._added(None, None) is None
    assert served._added(1, None) is None
    assert served._added(None, 5) == 5  # before its first load a process uses no GPU
    assert served._added(2, 5) == 3
    assert served._added(5, 3) == 0


@pytest.mark.gpu
@pytest.mark.skipif(bool(providers.cuda_absence()), reason=f"no GPU: {providers.cuda_absence()}")
def test_a_real_gpu_tells() -> None:
    """Its name, its memory and its draw are plausible, and all families are on the page."""
    gpus = gpu.find()
    assert gpus is not None
    first = gpus.readings()[0]
    assert first.uuid.startswith(("GPU-", "MIG-"))
    assert first.memory_used is not None
    assert first.memory_total is not None
    assert 0 < first.memory_used <= first.memory_total
    registry = CollectorRegistry()
    registry.register(GpuMetrics(gpus))
    assert {family.name for family in registry.collect()} == {name for name, _, _ in gpu.FAMILIES}

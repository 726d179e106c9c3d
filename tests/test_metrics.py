"""What the metrics show of loads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from server.metrics import Load, Metrics, Spent

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return what the page shows of the one version that there is; None: nothing."""
    return metrics.registry.get_sample_value(f"netweight_model_{name}", {"model": "net", "version": "1", **labels})


def test_a_reload_shows_the_newest_load() -> None:
    """Each figure is the new load's; what it does not know goes, and so does the provider that runs it no more."""
    metrics = Metrics(CollectorRegistry())
    metrics.loaded("net", "1", Load(1.0, Spent(), 5, 900, CUDA, fell_back=False, gpu_bytes=7))
    assert (value(metrics, "gpu_memory_bytes"), value(metrics, "provider_info", provider=CUDA)) == (7, 1)
    newest = Load(2.0, Spent(), 0, 800, CPU, fell_back=True)
    for each in (Load(3.0, Spent(), 6, 700, CPU, fell_back=False), newest):
        metrics.loaded("net", "1", each)
    assert metrics.held == {("net", "1"): newest}
    assert [value(metrics, name) for name in ("load_seconds", "file_bytes", "resident_bytes")] == [2, 800, 0]
    assert value(metrics, "gpu_memory_bytes") is None
    assert value(metrics, "provider_info", provider=CPU) == 1
    assert value(metrics, "provider_info", provider=CUDA) is None


def test_a_reload_leaves_no_gap() -> None:
    """Who asks while a version is loaded in place of itself sees what it was, or what it is: never nothing."""
    metrics = Metrics(CollectorRegistry())
    seen: list[tuple[bool, float | None, float | None]] = []

    class Asked(Load):
        """Looks at the page while it is being put there."""

        def figures(self) -> dict[str, float | None]:
            held, size = ("net", "1") in metrics.held, value(metrics, "file_bytes")
            seen.append((held, size, value(metrics, "provider_info", provider=CPU)))
            return super().figures()

    metrics.loaded("net", "1", Load(1.0, Spent(), 5, 900, CPU, fell_back=False))
    metrics.loaded("net", "1", Asked(1.0, Spent(), 5, 800, CPU, fell_back=False))
    assert seen == [(True, 900, 1)]
    assert value(metrics, "file_bytes") == 800

"""One row of the benchmark, made of what the rounds measured, and the tables that a person reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from compare.columns import DASH, show_number, show_ratio
from compare.cost import MB, MIB
from compare.measure import Latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from compare.startup import Startup

MICROSECONDS = 1e6
MILLISECONDS = 1e3


@dataclass(frozen=True, eq=False)
class Sample:
    """One window of one round.

    Attributes:
        per_second: replies for each second.
        latencies: float64 [count], seconds, of the replies with status OK.
        cpu_seconds_per_request: CPU that the server's processes took, warm-up included, for each inference.
        errors: requests that were not answered OK.
        problem: why the window does not count; None: it does.
    """

    per_second: float
    latencies: NDArray[np.float64]
    cpu_seconds_per_request: float | None
    errors: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a row takes over from its model."""

    network: str
    trained: bool
    file_bytes: int
    """The graph and the weights beside it."""
    message_bytes: int
    """One request with one sample, as it is sent."""


@dataclass
class Samples:
    """What the rounds measured so far for one model: by (front ends, callers), and the limit's answers."""

    windows: dict[tuple[int, int], list[Sample]] = field(default_factory=dict)
    limits: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class BenchRow:
    """One model at one number of callers: medians over the rounds, latencies over all their requests."""

    network: str
    callers: int
    throughput_per_second: float
    limit_per_second: float
    ratio: float
    latency_p50_seconds: float | None
    latency_p99_seconds: float | None
    server_cpu_seconds_per_request: float | None
    start_to_ready_seconds: float
    resident_bytes: int
    """Right after the ready line, as are the other memory figures; all the server's processes together."""
    anonymous_bytes: int | None
    frontends: int
    caller: str
    """What sent the requests: ``h2load`` or ``netweight``."""
    trained: bool
    limit_latency_p50_seconds: float
    network_cpu_seconds_per_inference: float
    """Of plain ONNX Runtime at the setting that is the limit."""
    start_to_first_answer_seconds: float
    peak_resident_bytes: int | None
    second_process_bytes: int | None
    model_file_bytes: int
    message_bytes: int
    latency_samples: int
    errors: int
    problem: str | None
    """Why the row does not count; None: it does."""
    throughputs: tuple[float, ...]
    """Of each round, inferences for each second."""
    limits: tuple[float, ...]
    limit_settings: tuple[str, ...]
    """The best setting of each round."""
    start_to_ready_all_seconds: tuple[float, ...]

    @property
    def cpu_beyond_network_seconds(self) -> float | None:
        """Server CPU for a request less the network's own; None where it was not measured."""
        if self.server_cpu_seconds_per_request is None:
            return None
        return self.server_cpu_seconds_per_request - self.network_cpu_seconds_per_inference


def make_row(
    facts: ModelFacts, startup: Startup, samples: Samples, *, callers: int, frontends: int, caller: str
) -> BenchRow:
    """Return the row of one number of callers; at one caller the limit is the best setting with one caller, batch 1."""
    windows = samples.windows[frontends, callers]
    bests = [answer["best_one_caller" if callers == 1 else "best"] for answer in samples.limits]
    latency = Latency(np.concatenate([window.latencies for window in windows]))
    throughput = median(window.per_second for window in windows)
    limit = median(best["inferences_per_second"] for best in bests)
    used = [each.cpu_seconds_per_request for each in windows if each.cpu_seconds_per_request is not None]
    return BenchRow(
        network=facts.network,
        callers=callers,
        throughput_per_second=throughput,
        limit_per_second=limit,
        ratio=throughput / limit,
        latency_p50_seconds=latency.p50_seconds,
        latency_p99_seconds=latency.percentile(99),
        server_cpu_seconds_per_request=median(used) if used else None,
        start_to_ready_seconds=startup.start_to_ready_seconds,
        resident_bytes=startup.memory.resident,
        anonymous_bytes=startup.memory.anonymous,
        frontends=frontends,
        caller=caller,
        trained=facts.trained,
        limit_latency_p50_seconds=median(best["latency_p50_seconds"] for best in bests),
        network_cpu_seconds_per_inference=median(best["cpu_seconds_per_inference"] for best in bests),
        start_to_first_answer_seconds=startup.start_to_first_answer_seconds,
        peak_resident_bytes=startup.memory.peak_resident,
        second_process_bytes=startup.second_process_bytes,
        model_file_bytes=facts.file_bytes,
        message_bytes=facts.message_bytes,
        latency_samples=int(latency.samples.size),
        errors=sum(window.errors for window in windows),
        problem=next((window.problem for window in windows if window.problem), None),
        throughputs=tuple(window.per_second for window in windows),
        limits=tuple(best["inferences_per_second"] for best in bests),
        limit_settings=tuple(_describe(best) for best in bests),
        start_to_ready_all_seconds=startup.ready_seconds,
    )


def load_table(rows: Sequence[BenchRow]) -> Table:
    """Return what each number of callers got, beside the limit."""
    table = _table(
        *("callers", "front\nends", "served\n/s", "limit\n/s", "of the\nlimit"),
        *("p50\nms", "p99\nms", "limit\np50", "CPU\nµs", "beyond\nµs"),
    )
    for row in rows:
        table.add_row(
            _marked(row),
            str(row.callers),
            str(row.frontends),
            *(show_number(figure) for figure in (row.throughput_per_second, row.limit_per_second)),
            "error" if row.problem else f"{row.ratio:.1%}",
            *(
                _figure(seconds, MILLISECONDS)
                for seconds in (row.latency_p50_seconds, row.latency_p99_seconds, row.limit_latency_p50_seconds)
            ),
            *(_whole(each) for each in (row.server_cpu_seconds_per_request, row.cpu_beyond_network_seconds)),
        )
    return table


def start_table(rows: Sequence[BenchRow]) -> Table:
    """Return what starting took and what the server then held, once for each model and number of front ends."""
    table = _table(
        *("front\nends", "file\nMB", "ready\ns", "first\nanswer s", "resident\nMiB"),
        *("anonymous\nMiB", "peak\nMiB", "peak ÷\nfile", "second\nMiB"),
    )
    for row in {(row.network, row.frontends): row for row in rows}.values():
        peak = None if row.peak_resident_bytes is None else row.peak_resident_bytes / row.model_file_bytes
        table.add_row(
            _marked(row),
            str(row.frontends),
            show_number(row.model_file_bytes / MB),
            *(show_number(seconds) for seconds in (row.start_to_ready_seconds, row.start_to_first_answer_seconds)),
            *(_figure(each, 1 / MIB) for each in (row.resident_bytes, row.anonymous_bytes, row.peak_resident_bytes)),
            DASH if peak is None else show_ratio(peak),
            _figure(row.second_process_bytes, 1 / MIB),
        )
    return table


def notes(rows: Sequence[BenchRow]) -> list[str]:
    """Return what has to be said beneath the tables."""
    said = ["CPU µs: of the server's processes for each request; beyond: less what the network takes at the limit"]
    said.append(f"requests were sent by {' and '.join(sorted({row.caller for row in rows}))}, one sample each")
    sizes = {row.network: row.message_bytes for row in rows}
    said.append("bytes of a request: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    said.append(
        "second: what another server on the same model adds to the memory of both; ready, first: from its start"
    )
    if not all(row.trained for row in rows):
        said.append("† untrained: random weights; it takes what a trained one takes, its answers mean nothing")
    said += [f"{row.network} at {row.callers} callers does not count: {row.problem}" for row in rows if row.problem]
    return said


def _describe(best: dict[str, Any]) -> str:
    prepacking = "" if best["prepacking"] else ", no prepacking"
    return f"{best['threads']} threads, {best['callers']} callers, batch {best['batch']}{prepacking}"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("network", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _marked(row: BenchRow) -> str:
    return row.network if row.trained else f"{row.network}†"


def _figure(value: float | None, scale: float) -> str:
    return DASH if value is None else show_number(value * scale)


def _whole(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds * MICROSECONDS:,.0f}"

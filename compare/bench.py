"""The server beside the limit: requests/s and latency at several numbers of callers, beside plain ONNX Runtime.

``python -m compare.bench --repository DIR MODEL...`` measures both in turn, several rounds in the same run, so that what
else the machine does hits both alike. At one caller the limit is one caller's (batch 1, best setting); above, it is the
best of all settings and batches that `compare.limit` tries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from compare.card import model_names, versions
from compare.environment import environment
from compare.images import input_tensor, random_images
from compare.load import Load, Window, closed_loop, one_at_a_time, serialise
from compare.measure import Latency, Throughput
from compare.report import DASH, show_figure, write_text
from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "netweight-bench/1"
CALLERS = (1, 8, 32)
DISTINCT_INPUTS = 32
WARM_UP_SECONDS = 0.5


@dataclass
class Samples:
    """What the rounds measured so far for one model: loads by number of callers, and the limit's answers."""

    requests: list[bytes]
    model_file: Path
    loads: dict[int, list[Load]] = field(default_factory=dict)
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
    latency_samples: int
    errors: int
    throughputs: tuple[float, ...]
    """Of each round, inferences for each second."""
    limits: tuple[float, ...]
    limit_settings: tuple[str, ...]
    """The best setting of each round."""


def bench(
    models: Sequence[str], repository: Path, *, callers: Sequence[int] = CALLERS, seconds: float = 3.0, rounds: int = 3
) -> list[BenchRow]:
    """Measure models through a server and without one, in turn, and return a row for each number of callers.

    Args:
        models: names; none: every model of the repository that has a card.
        repository: what the server serves.
        callers: numbers of callers.
        seconds: for each number of callers in each round; the limit's settings share twice as much.
        rounds: how often all of it is measured.
    """
    names = list(models) or model_names(repository)
    for name in names:
        if not versions(repository, name):
            raise NetweightError(f"{name}: not in repository {repository}; export it first")
    with ServerProcess(repository, models=names) as server, Client(server.address) as client:
        samples = {name: _prepare(client, repository, name) for name in names}
        for number in range(1, rounds + 1):
            for name, sampled in samples.items():
                _say(f"round {number} of {rounds}: {name}")
                sampled.limits.append(limit(sampled.model_file, seconds / 2))
                for count in callers:
                    load = _load(server.address, sampled.requests, count, seconds)
                    sampled.loads.setdefault(count, []).append(load)
    return [_row(name, count, samples[name]) for name in names for count in callers]


def limit(model_file: Path, seconds: float) -> dict[str, Any]:
    """Return what `compare.limit` prints for a model file, run as a process of its own."""
    command = [sys.executable, "-P", "-m", "compare.limit", str(model_file), "--seconds", str(seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
        raise NetweightError(f"{model_file}: plain ONNX Runtime failed with exit code {ended.returncode}: {said}")
    values: dict[str, Any] = json.loads(ended.stdout)
    return values


def table(rows: Sequence[BenchRow]) -> Table:
    """Return the rows as a table for the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    shown.add_column("network", no_wrap=True)
    for title in ("callers", "inferences\n/s", "limit\n/s", "share of\nthe limit", "p50\nms", "p99\nms", "errors"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        figures = (row.throughput_per_second, row.limit_per_second)
        latencies = (row.latency_p50_seconds, row.latency_p99_seconds)
        shown.add_row(
            row.network,
            str(row.callers),
            *(show_figure(figure) for figure in figures),
            f"{row.ratio:.1%}",
            *(DASH if latency is None else show_figure(latency * 1000) for latency in latencies),
            str(row.errors),
        )
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Measure the models that are named, print the table, write results.json."""
    parser = argparse.ArgumentParser(
        prog="python -m compare.bench", description="The server beside plain ONNX Runtime."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: every model of the repository")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--callers", type=int, nargs="+", default=list(CALLERS), metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number of callers and round (default 3)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out/bench/results.json"))
    chosen = parser.parse_args(arguments)
    try:
        rows = bench(
            chosen.models, chosen.repository, callers=chosen.callers, seconds=chosen.seconds, rounds=chosen.rounds
        )
    except NetweightError as error:
        parser.exit(1, f"Error: {error}\n")
    results = {"schema": SCHEMA, "environment": environment(), "rows": [asdict(row) for row in rows]}
    write_text(chosen.output, json.dumps(results, indent=2) + "\n")
    Console().print(table(rows))
    _say(f"figures: {chosen.output}")


def _prepare(client: Client, repository: Path, model: str) -> Samples:
    metadata = client.metadata(model)
    tensor = input_tensor(model, metadata.inputs)
    images = random_images(tensor, DISTINCT_INPUTS)
    requests = serialise(model, images, input_name=tensor.name, datatype=tensor.datatype)
    return Samples(requests, repository / model / max(metadata.versions, key=int) / "model.onnx")


def _load(address: str, requests: Sequence[bytes], callers: int, seconds: float) -> Load:
    warm_up_seconds = min(WARM_UP_SECONDS, seconds)
    if callers == 1:
        return one_at_a_time(address, requests, Window(seconds), warm_up_seconds=warm_up_seconds)
    return closed_loop(address, requests, callers, Window(seconds), warm_up_seconds=warm_up_seconds)


def _row(model: str, callers: int, samples: Samples) -> BenchRow:
    loads = samples.loads[callers]
    latency = Latency(np.concatenate([load.latencies for load in loads]))
    rates = tuple(Throughput(callers, load.count, load.seconds).per_second for load in loads)
    bests = [answer["best_one_caller" if callers == 1 else "best"] for answer in samples.limits]
    limits = tuple(float(best["inferences_per_second"]) for best in bests)
    return BenchRow(
        network=model,
        callers=callers,
        throughput_per_second=median(rates),
        limit_per_second=median(limits),
        ratio=median(rates) / median(limits),
        latency_p50_seconds=latency.p50_seconds,
        latency_p99_seconds=latency.p99_seconds,
        latency_samples=int(latency.samples.size),
        errors=sum(load.error_count for load in loads),
        throughputs=rates,
        limits=limits,
        limit_settings=tuple(_describe(best) for best in bests),
    )


def _describe(best: dict[str, Any]) -> str:
    prepacking = "" if best["prepacking"] else ", no prepacking"
    return f"{best['threads']} threads, {best['callers']} callers, batch {best['batch']}{prepacking}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

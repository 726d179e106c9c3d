"""The server beside the limit on an NVIDIA GPU: parity, throughput at each bucket, latency, GPU memory, time to ready.

``python -m compare.bench_gpu`` exports ResNet-50, VGG-16 and MobileNetV2 with random weights, in fp32 and in fp16 (inputs
and outputs stay as they are), and needs no network. Each model's answers from the real server on the GPU are held
against ONNX Runtime's on the CPU before anything is timed; the limit is measured in the same run (`compare.limit_gpu`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from compare.columns import DASH, show_number
from compare.files import write_text
from compare.limit_gpu import BUCKETS
from compare.load import Load, Window, closed_loop, one_at_a_time
from compare.measure import Latency, Throughput
from compare.process import NETWEIGHT
from compare.server_process import ServerProcess
from models.environment import environment, gpus
from models.spec import NetweightError
from server.client import Client, infer_request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

SCHEMA = "netweight-bench-gpu/1"
NETWORKS = ("resnet50", "vgg16", "mobilenet_v2")
PRECISIONS = ("fp32", "fp16")
TOLERANCES = {"fp32": 5e-3, "fp16": 2e-2}
"""Largest difference over the largest value that the CPU answers. fp32 convolutions run as TF32, of 10 bits (1e-3), on
a GPU that has it; fp16 has 10 bits too, but also keeps activations in them."""
UNDER_WAY = 2
"""Requests of a bucket's size at any time: one runs while the next is on its way."""
START_SECONDS = 600.0


@dataclass(frozen=True)
class Row:
    """One model at one batch size; latencies are one caller's with one sample."""

    network: str
    precision: str
    batch: int
    """Samples in each request; `UNDER_WAY` requests at any time."""
    throughput_per_second: float
    limit_per_second: float
    limit_way: str
    ratio: float


@dataclass(frozen=True)
class ModelResult:
    """What holds for one model as a whole."""

    network: str
    precision: str
    parity: float
    """Largest difference from the CPU's fp32 answer, over that answer's largest value."""
    tolerance: float
    callers_32_per_second: float
    """32 callers with one sample each, which the server batches."""
    latency_p50_seconds: float | None
    latency_p99_seconds: float | None
    limit_latency_p50_seconds: float
    start_to_ready_seconds: float
    gpu_bytes_loaded: int | None
    """Of the whole GPU, above what was used before the server started."""
    gpu_bytes_peak: int | None
    graphs_refused: str
    rows: list[Row]
    limits: list[dict[str, Any]]


class GpuMemory:
    """Watches how much of the first GPU's memory is used, as a context manager: `nvidia-smi`, every 200 ms."""

    def __init__(self, command: Sequence[str] = ("nvidia-smi",)) -> None:
        query = ("--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "200")
        self.command = (*command, *query)
        self.readings: list[int] = []
        """Bytes."""

    def __enter__(self) -> Self:
        """Start to watch; where there is no nvidia-smi, nothing is read."""
        self._process: subprocess.Popen[str] | None = None
        self._first = threading.Event()
        try:
            self._process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        except OSError:
            return self
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._first.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop watching."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()

    def above(self, before: int | None) -> int | None:
        """Return the latest reading above an earlier one, in bytes; None where nothing was read."""
        return None if before is None or not self.readings else max(0, self.readings[-1] - before)

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                if line.strip().isdigit():
                    self.readings.append(int(line) * 2**20)
                self._first.set()
        self._first.set()


def export(repository: Path, networks: Sequence[str] = NETWORKS) -> list[tuple[str, str]]:
    """Put each network into the repository in both precisions, unless it is there; return (network, precision)."""
    for network in networks:
        if not (repository / network).is_dir():
            _say(f"exporting {network}")
            command = [*NETWEIGHT, "export", network, "--repository", str(repository)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NetweightError(f"{network} cannot be exported: {_last_line(done.stderr)}")
        if not (repository / f"{network}-fp16").is_dir():
            _say(f"converting {network} to fp16")
            to_half(repository / network, repository / f"{network}-fp16")
    return [(network, precision) for network in networks for precision in PRECISIONS]


def to_half(source: Path, target: Path) -> None:
    """Write a model's directory anew with weights and activations in fp16, inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(str(source / "1" / "model.onnx"), keep_io_types=True)
    with tempfile.TemporaryDirectory(prefix=".half-", dir=target.parent) as stage:
        made = Path(stage) / target.name
        (made / "1").mkdir(parents=True)
        (made / "1" / "model.onnx").write_bytes(converted.SerializeToString())
        config = (source / "config.pbtxt").read_text(encoding="utf-8")
        config = config.replace(f'name: "{source.name}"', f'name: "{target.name}"', 1)
        (made / "config.pbtxt").write_text(config, encoding="utf-8")
        shutil.copy(source / "labels.txt", made / "labels.txt")
        made.rename(target)


def measure(
    repository: Path, network: str, precision: str, *, seconds: float = 1.0, provider: str = "cuda"
) -> ModelResult:
    """Measure one model: the limit first, then parity and figures of the server.

    Raises:
        NetweightError: the answers on the GPU are not the CPU's, or a process failed.
    """
    name = network if precision == "fp32" else f"{network}-{precision}"
    limits, feeds, right = measure_limit(repository / name, repository / network, seconds, provider)
    with GpuMemory() as memory:
        before = memory.readings[-1] if memory.readings else None
        with ServerProcess(
            repository, models=(name,), provider=provider, start_timeout_seconds=START_SECONDS
        ) as server:
            loaded = memory.above(before)
            parity = check_parity(server.address, name, feeds, right, TOLERANCES[precision])
            ((input_name, images),) = feeds.items()
            rows = [
                _row(
                    network,
                    precision,
                    batch,
                    _load(server.address, name, {input_name: images[:batch]}, seconds),
                    limits,
                )
                for batch in BUCKETS
            ]
            single = [_request(name, {input_name: images[index : index + 1]}) for index in range(len(images))]
            alone = _whole(name, one_at_a_time(server.address, single, Window(2 * seconds)))
            crowd = _whole(name, closed_loop(server.address, single, len(single), Window(2 * seconds)))
            ready_seconds = server.ready_seconds
        peak = max(memory.readings, default=0) - before if before is not None else None
    latency = Latency(alone.latencies)
    return ModelResult(
        network=network,
        precision=precision,
        parity=parity,
        tolerance=TOLERANCES[precision],
        callers_32_per_second=Throughput(crowd.callers, crowd.count, crowd.seconds).per_second,
        latency_p50_seconds=latency.p50_seconds,
        latency_p99_seconds=latency.percentile(99),
        limit_latency_p50_seconds=min(
            each["latency_p50_seconds"] for each in _with_transfers(limits["ways"]) if each["batch"] == 1
        ),
        start_to_ready_seconds=ready_seconds,
        gpu_bytes_loaded=loaded,
        gpu_bytes_peak=peak,
        graphs_refused=limits["graphs_refused"],
        rows=rows,
        limits=limits["ways"],
    )


def measure_limit(
    model: Path, reference: Path, seconds: float, provider: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the limit's figures, the images (32), and the CPU's fp32 answers to them."""
    with tempfile.TemporaryDirectory() as place:
        answers = Path(place) / "answers.npz"
        command = [sys.executable, "-m", "compare.limit_gpu", str(model / "1" / "model.onnx")]
        command += ["--reference", str(reference / "1" / "model.onnx"), "--answers", str(answers)]
        command += ["--provider", provider, "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NetweightError(f"{model.name}: the limit cannot be measured: {_last_line(done.stderr)}")
        kept = {"input": {}, "output": {}}  # type: dict[str, dict[str, NDArray[Any]]]
        with np.load(answers) as stored:
            for key in stored.files:
                kind, _, tensor = key.partition(":")
                kept[kind][tensor] = stored[key]
    return json.loads(done.stdout.splitlines()[-1]), kept["input"], kept["output"]


def check_parity(
    address: str, model: str, feeds: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]], tolerance: float
) -> float:
    """Ask the server at every bucket, and one size between; return the largest difference, relative to the scale.

    Raises:
        NetweightError: it is above the tolerance; the message names batch and output.
    """
    worst = 0.0
    with Client(address) as client:
        for batch in (*BUCKETS, 3):
            answer = client.infer(model, {name: array[:batch] for name, array in feeds.items()}).outputs
            for name, expected in right.items():
                scale = float(np.abs(expected).max())
                difference = float(np.abs(answer[name].astype(np.float64) - expected[:batch]).max()) / scale
                if not difference <= tolerance:
                    raise NetweightError(
                        f"{model}: {name} of a batch of {batch} is {difference:.2g} of its scale from the CPU's answer; "
                        f"expected at most {tolerance:g}"
                    )
                worst = max(worst, difference)
    return worst


def table(results: Sequence[ModelResult]) -> Table:
    """Return the results for a terminal."""
    shown = Table(box=box.SIMPLE)
    for heading in (
        "network",
        "",
        "batch",
        "server /s",
        "limit /s",
        "ratio",
        "p50 ms",
        "limit ms",
        "ready s",
        "GPU MiB",
    ):
        shown.add_column(heading, justify="left" if heading in ("network", "") else "right")
    for result in results:
        facts = (
            DASH if result.latency_p50_seconds is None else show_number(result.latency_p50_seconds * 1e3),
            show_number(result.limit_latency_p50_seconds * 1e3),
            show_number(result.start_to_ready_seconds),
            DASH if result.gpu_bytes_peak is None else f"{result.gpu_bytes_peak / 2**20:,.0f}",
        )
        for index, row in enumerate(result.rows):
            figures = (show_number(row.throughput_per_second), show_number(row.limit_per_second), f"{row.ratio:.2f}")
            shown.add_row(row.network, row.precision, str(row.batch), *figures, *(facts if index == 0 else ("",) * 4))
    return shown


def absence() -> str:
    """Say why nothing can be measured here; empty where it can."""
    import onnxruntime as ort

    if not gpus():
        return "no NVIDIA GPU is here (nvidia-smi names none): run this on a machine that has one"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return (
            "the installed onnxruntime has no CUDA provider: pip install 'netweight[gpu]' instead of 'netweight[cpu]'"
        )
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Measure every network in both precisions; exit code 1 with one line where there is no GPU or parity fails."""
    parser = argparse.ArgumentParser(prog="python -m compare.bench_gpu", description="The server beside the limit.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK", help="default: three")
    parser.add_argument("--directory", type=Path, default=Path("out/bench-gpu"), help="for models and results.json")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default 1)")
    chosen = parser.parse_args(arguments)
    if why := absence():
        sys.exit(why)
    results: list[ModelResult] = []
    try:
        for network, precision in export(chosen.directory / "repository", chosen.networks):
            _say(f"measuring {network} {precision}")
            results.append(measure(chosen.directory / "repository", network, precision, seconds=chosen.seconds))
            write_results(chosen.directory / "results.json", results)  # what is done is kept if the rest fails
    except NetweightError as error:
        sys.exit(str(error))
    Console(width=max(Console().width, 110)).print(table(results))
    _say(f"figures: {chosen.directory / 'results.json'}")


def write_results(path: Path, results: Sequence[ModelResult]) -> None:
    """Write what was measured, with the environment, whole or not at all."""
    content = {"schema": SCHEMA, "environment": environment(), "models": [asdict(result) for result in results]}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _load(address: str, model: str, feeds: dict[str, NDArray[Any]], seconds: float) -> Load:
    return _whole(model, closed_loop(address, [_request(model, feeds)], UNDER_WAY, Window(seconds)))


def _whole(model: str, load: Load) -> Load:
    """Return a load of which every request was answered."""
    if load.error_count or not load.count:
        raise NetweightError(f"{model}: {load.error_count} requests failed: {load.first_error}")
    return load


def _request(model: str, feeds: dict[str, NDArray[Any]]) -> bytes:
    return infer_request(model, feeds).SerializeToString()


def _row(network: str, precision: str, batch: int, load: Load, limits: dict[str, Any]) -> Row:
    best = max(
        (each for each in _with_transfers(limits["ways"]) if each["batch"] == batch),
        key=lambda each: float(each["inferences_per_second"]),
    )
    rate = Throughput(load.callers, load.count * batch, load.seconds).per_second
    limit = float(best["inferences_per_second"])
    return Row(network, precision, batch, rate, limit, best["way"], rate / limit)


def _with_transfers(ways: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in ways if each["way"] != "graph without transfers"]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

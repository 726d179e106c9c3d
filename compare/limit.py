"""The limit beside which the server is put: plain ONNX Runtime on the same model, no server, no wire.

``python -m compare.limit MODEL.onnx`` tries a few settings in a process of its own and prints what they reached, as JSON.
This is the one file of `compare` that imports ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from compare.measure import Latency, Throughput
from models.environment import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES = (1, 8)
QUICK_BATCHES = (1, 2, 4, 8, 16, 32)
"""Of a model that answers within QUICK_SECONDS: what a run costs beside the network is then shared by the whole batch."""
QUICK_SECONDS = 0.001
QUICK_RUNS = 5
SEED = 0
ELEMENTS = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


@dataclass(frozen=True)
class Setting:
    """One way to run a model: one session, its intra-op threads, and the threads that call it."""

    threads: int
    callers: int
    batch: int
    prepacking: bool

    @property
    def text(self) -> str:
        """THREADS,CALLERS,BATCH,PREPACKING, as the command line takes it: ``1,2,8,1``."""
        return f"{self.threads},{self.callers},{self.batch},{int(self.prepacking)}"

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read what `text` writes."""
        threads, callers, batch, prepacking = (int(word) for word in text.split(","))
        return cls(threads, callers, batch, bool(prepacking))


def settings(cores: int, external_weights: bool, batches: Sequence[int] = BATCHES) -> list[Setting]:
    """Return the settings that are tried, those of one session beside each other.

    One thread with as many callers as cores, one thread with one caller, and as many threads as cores with one caller;
    each at every one of `batches`. A model whose weights lie beside it is tried without prepacking too, as the server
    opens it: the best setting is the limit.
    """
    shapes = sorted({(1, 1), (1, cores), (cores, 1)})
    prepackings = (True, False) if external_weights else (True,)
    return [
        Setting(threads, callers, batch, prepacking)
        for prepacking in prepackings
        for threads, callers in shapes
        for batch in batches
    ]


def measure_limit(path: Path, seconds: float, chosen: Sequence[Setting] = ()) -> dict[str, Any]:
    """Return what each setting reached on a model file, `seconds` for each, and the best of them.

    ``best`` is the setting with the most inferences for each second, ``best_one_caller`` that with the lowest p50 of
    those with one caller and batch 1. CPU seconds are this whole process's, for each inference. `chosen` are the
    settings to measure, one with one caller and batch 1 among them; none: those of `settings`, at the larger batches too
    where the model is quick.
    """
    cores = usable_cores()
    results: list[dict[str, Any]] = []
    session, opened = None, None
    if not chosen:
        batches = QUICK_BATCHES if _is_quick(open_session(path, 1, prepacking=False)) else BATCHES
        chosen = settings(cores, path.with_name(path.name + ".data").exists(), batches)
    for setting in chosen:
        if opened != (setting.threads, setting.prepacking):
            session = None  # frees the last one first: a large model need not fit twice
            session = open_session(path, setting.threads, setting.prepacking)
            opened = (setting.threads, setting.prepacking)
        results.append({"setting": setting.text, **asdict(setting), **_measure(session, setting, seconds)})
    alone = [result for result in results if result["callers"] == result["batch"] == 1]
    return {
        "model": path.as_posix(),
        "onnxruntime": ort.__version__,
        "cores": cores,
        "settings": results,
        "best": max(results, key=lambda result: result["inferences_per_second"]),
        "best_one_caller": min(alone, key=lambda result: result["latency_p50_seconds"]),
    }


def open_session(path: Path, threads: int, prepacking: bool) -> Any:
    """Open a model on the CPU; threads that wait do not spin, which costs several callers up to a third."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if prepacking else "1")
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def random_feeds(session: Any, batch: int) -> dict[str, Any]:
    """Return random images (seed 0) for each input, `batch` in the place of a first dimension that is open."""
    generator = np.random.default_rng(SEED)
    feeds = {}
    for node in session.get_inputs():
        shape = [batch if not isinstance(extent, int) else extent for extent in node.shape]
        values = generator.integers(0, 256, shape, np.uint8)
        feeds[node.name] = values.astype(ELEMENTS[node.type])
    return feeds


def _is_quick(session: Any) -> bool:
    """Return whether one sample takes a millisecond at most."""
    feeds = random_feeds(session, 1)
    taken = []
    for _ in range(QUICK_RUNS):
        start = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - start)
    return min(taken) <= QUICK_SECONDS


def _measure(session: Any, setting: Setting, seconds: float) -> dict[str, float | int | None]:
    """Run from `callers` threads for some seconds, each at least once, after a run that is not counted."""
    feeds = random_feeds(session, setting.batch)
    session.run(None, feeds)
    latencies: list[float] = []
    used = time.process_time()
    start = time.perf_counter()

    def caller() -> None:
        while True:
            sent = time.perf_counter()
            session.run(None, feeds)
            ended = time.perf_counter()
            latencies.append(ended - sent)
            if ended - start >= seconds:
                return

    threads = [threading.Thread(target=caller) for _ in range(setting.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = Throughput(setting.callers, len(latencies) * setting.batch, time.perf_counter() - start)
    return {
        "executions": len(latencies),
        "inferences_per_second": done.per_second,
        "cpu_seconds_per_inference": (time.process_time() - used) / done.inferences,
        "latency_p50_seconds": Latency(np.array(latencies)).p50_seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure the model that is named, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m compare.limit", description="What plain ONNX Runtime reaches.")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each setting (default 2)")
    parser.add_argument(
        "--setting",
        type=Setting.parse,
        action="append",
        default=[],
        metavar="THREADS,CALLERS,BATCH,PREPACKING",
        help="measure this one (repeatable), 1,1,1,1 or another of one caller and batch 1 among them (default: all)",
    )
    chosen = parser.parse_args(arguments)
    if not chosen.model.is_file():
        parser.error(f"{chosen.model}: no such file; name a model.onnx of a model repository")
    if chosen.setting and not any(setting.callers == setting.batch == 1 for setting in chosen.setting):
        parser.error("--setting: expected one with 1 caller and batch 1 among them, such as 1,1,1,1; add it")
    print(json.dumps(measure_limit(chosen.model, chosen.seconds, chosen.setting), indent=2))


if __name__ == "__main__":
    main()

"""Sessions as the server opens them, and what is measured of one: answers, latency, where its time goes, its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from models.environment import usable_cores  # and nothing of torch: `resident` starts a process for each file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CPU = ("CPUExecutionProvider",)

_PROFILED_RUNS = 3


def open_session(path: Path, providers: Sequence[str] = CPU, profile: Path | None = None) -> ort.InferenceSession:
    """Open a session with the server's settings for the CPU.

    As many threads as the cgroup lets this process use, no spinning, no memory pattern, and no weights packed anew where
    they lie beside the graph and are mapped.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if path.with_name(f"{path.name}.data").exists():
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return ort.InferenceSession(path, options, providers=list(providers))


def logits(session: ort.InferenceSession, images: NDArray[Any], batch: int) -> NDArray[np.float32]:
    """Return a network's answers to images, [N, classes], in runs of one batch."""
    starts = range(0, len(images), batch)
    return np.concatenate([run(session, images[start : start + batch])[0] for start in starts])


def run(session: ort.InferenceSession, images: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Run one batch; return logits and probabilities."""
    outputs: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: images})
    return outputs


def latencies(
    sessions: Mapping[str, ort.InferenceSession], images: NDArray[Any], rounds: int
) -> dict[str, list[float]]:
    """Run one batch with each session in turn, and all of them again: what disturbs the machine disturbs all alike.

    Returns:
        Milliseconds of each round, by the session's name; one run of each before the first round is not counted.
    """
    samples = defaultdict[str, list[float]](list)
    for number in range(rounds + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            run(session, images)
            if number:
                samples[name].append((time.perf_counter() - start) * 1e3)
    return dict(samples)


def profile(path: Path, image: NDArray[Any], directory: Path) -> list[dict[str, Any]]:
    """Return where the time of a run goes, by operator and the datatype of its first input, the longest first.

    Each row: `op`, `input`, `nodes`, `share` (of the kernels' time), from ONNX Runtime's own profile.
    """
    session = open_session(path, profile=directory / "profile")
    for _ in range(_PROFILED_RUNS):
        run(session, image)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times, nodes = defaultdict[tuple[str, str], int](int), defaultdict[tuple[str, str], set[str]](set)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            shapes = event["args"].get("input_type_shape") or [{"": []}]
            key = (event["args"]["op_name"], next(iter(shapes[0]), ""))
            times[key] += event["dur"]
            nodes[key].add(event["name"])
    total = sum(times.values()) or 1
    rows = [
        {"op": op, "input": kind, "nodes": len(nodes[op, kind]), "share": round(spent / total, 4)}
        for (op, kind), spent in times.items()
    ]
    return sorted(rows, key=lambda row: -row["share"])


def resident(path: Path, image: Path) -> dict[str, float]:
    """Open a file in a process of its own and run one image: `session_seconds`, `anonymous_mib`, `mapped_mib`.

    Anonymous memory is the process's alone; what is mapped from files is shared between processes that serve the same.
    """
    command = [sys.executable, "-m", "export.variant_session", str(path), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def _main(path: str, image: str) -> None:
    """Print what `resident` returns, as JSON: what the session adds to a process that has imported all it needs."""
    images = np.load(image)
    before = _memory()
    start = time.perf_counter()
    session = open_session(Path(path))
    seconds = time.perf_counter() - start
    run(session, images)
    grown = {name: round(mib - before[name], 1) for name, mib in _memory().items()}
    print(json.dumps({"session_seconds": round(seconds, 3), **grown}))


def _memory() -> dict[str, float]:
    """Return this process's resident memory by kind, as Linux tells it."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {
        "anonymous_mib": int(words["RssAnon"].split()[0]) / 1024,
        "mapped_mib": int(words["RssFile"].split()[0]) / 1024,
    }


if __name__ == "__main__":
    _main(*sys.argv[1:])

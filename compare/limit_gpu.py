"""What ONNX Runtime does with a model on a GPU without a server, and what it answers on the CPU.

``python -m compare.limit_gpu MODEL.onnx --reference REFERENCE.onnx --answers FILE.npz`` does both in a process of its
own, so that its GPU memory is free again when the server starts, and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from compare.measure import nearest_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BUCKETS = (1, 2, 4, 8, 16, 32)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
SEED = 0
UNTIL_REPLAY = 4
"""Two runs that allocate, one that captures the graph, one that replays it."""


def images(path: Path, count: int) -> dict[str, NDArray[Any]]:
    """Return random UINT8 or standard normal images (seed 0) for a model's one input."""
    node = ort.InferenceSession(str(path), providers=[CPU]).get_inputs()[0]
    generator = np.random.default_rng(SEED)
    shape = (count, *node.shape[1:])
    if node.type == "tensor(uint8)":
        return {node.name: generator.integers(0, 256, shape, np.uint8)}
    return {node.name: generator.standard_normal(shape, np.float32)}


def answer_on_cpu(path: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what the CPU provider answers, one sample after the other: no batch can blur them."""
    session = ort.InferenceSession(str(path), providers=[CPU])
    names = [node.name for node in session.get_outputs()]
    (name, batch), *_ = feeds.items()
    answers = [session.run(names, {name: batch[index : index + 1]}) for index in range(len(batch))]
    return {each: np.concatenate([answer[index] for answer in answers]) for index, each in enumerate(names)}


def plain(path: Path, provider: str, seconds: float) -> list[dict[str, Any]]:
    """Return figures of ``session.run``, arrays in and out, for each bucket."""
    session = _open(path, provider, {})
    results = []
    for bucket in BUCKETS:
        feeds = images(path, bucket)

        def run(feeds: dict[str, NDArray[Any]] = feeds) -> None:
            session.run(None, feeds)

        results.append({"way": "session.run", "batch": bucket, **_time(run, bucket, seconds)})
    return results


def with_graphs(path: Path, seconds: float) -> list[dict[str, Any]]:
    """Return figures of IO binding with a CUDA graph for each bucket: transfers included, and without them."""
    session = _open(path, CUDA, {"enable_cuda_graph": "1"})
    results = []
    for number, bucket in enumerate(BUCKETS, 1):
        (name, batch), *_ = images(path, bucket).items()
        source = ort.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input(name, source)
        outputs = []
        for node in session.get_outputs():
            element = np.float16 if node.type == "tensor(float16)" else np.float32
            output = ort.OrtValue.ortvalue_from_shape_and_type([bucket, *node.shape[1:]], element, "cuda", 0)
            binding.bind_ortvalue_output(node.name, output)
            outputs.append(output)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))

        def compute(binding: Any = binding, options: Any = options) -> None:
            session.run_with_iobinding(binding, options)

        def run(
            compute: Callable[[], None] = compute,
            source: Any = source,
            batch: NDArray[Any] = batch,
            outputs: list[Any] = outputs,
        ) -> None:
            source.update_inplace(batch)
            compute()
            for output in outputs:
                output.numpy()

        for _ in range(UNTIL_REPLAY):
            compute()
        results.append({"way": "graph", "batch": bucket, **_time(run, bucket, seconds)})
        results.append({"way": "graph without transfers", "batch": bucket, **_time(compute, bucket, seconds)})
    return results


def _open(path: Path, provider: str, options: dict[str, str]) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if provider == CPU:
        return ort.InferenceSession(str(path), settings, [CPU])
    ort.preload_dlls()
    chosen = [(CUDA, CUDA_OPTIONS | options), (CPU, {})]
    session = ort.InferenceSession(str(path), settings, chosen, enable_fallback=0)
    if session.get_providers()[0] != CUDA:
        raise SystemExit("ONNX Runtime did not load its CUDA provider; its lines above name the library that it misses")
    return session


def _time(run: Callable[[], None], batch: int, seconds: float) -> dict[str, Any]:
    """Return the rate (samples) and the latency of one caller, after a run that is not counted."""
    run()
    latencies: list[float] = []
    start = time.perf_counter()
    while not latencies or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        run()
        latencies.append(time.perf_counter() - began)
    elapsed = time.perf_counter() - start
    return {
        "executions": len(latencies),
        "inferences_per_second": len(latencies) * batch / elapsed,
        "latency_p50_seconds": nearest_rank(latencies, 50),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure the model that is named, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m compare.limit_gpu", description="What ONNX Runtime reaches.")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--reference", type=Path, required=True, help="whose answers on the CPU are right")
    parser.add_argument("--answers", type=Path, required=True, help="where to write images and answers (.npz)")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each way and batch (default 1)")
    chosen = parser.parse_args(arguments)
    feeds = images(chosen.reference, BUCKETS[-1])
    answers = answer_on_cpu(chosen.reference, feeds)
    stored = {f"input:{name}": array for name, array in feeds.items()}
    stored |= {f"output:{name}": array for name, array in answers.items()}
    np.savez(chosen.answers, allow_pickle=False, **stored)
    on_gpu = chosen.provider == "cuda"
    ways = plain(chosen.model, CUDA if on_gpu else CPU, chosen.seconds)
    refused = ""
    if on_gpu:
        try:
            ways += with_graphs(chosen.model, chosen.seconds)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no common base; plain runs stand
            refused = str(error).strip().partition("\n")[0]
    print(json.dumps({"onnxruntime": ort.__version__, "ways": ways, "graphs_refused": refused}))


if __name__ == "__main__":
    main()

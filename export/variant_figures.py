"""One network, all its variants: bytes, agreement with fp32, accuracy, latency, memory, and why one is slower."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from export.build import build
from export.calibration import RANDOM, Calibration
from export.convert import convert, metadata
from export.variant_session import CPU, latencies, logits, open_session, profile, resident
from export.variants import VARIANTS, make
from export.weigh import weigh
from models import catalog
from models.spec import NetweightError
from models.weights import parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

FP32 = "fp32"
BATCHES = (1, 8)
SEED = 3
"""Of the random images; those of the calibration and of the fp16 trial have other seeds."""

_RANDOM_IMAGES = 16
_GRAPH = "model.onnx"
_ON_A_GPU = {FP32: "CUDAExecutionProvider", "fp16": "CUDAExecutionProvider", "int8": "TensorrtExecutionProvider"}
_PRODUCTS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True)
class Subject:
    """A network with its weights."""

    network: str
    run: Path | None = None
    """The directory of its training run on the digits; None: untrained, at its own size and class count."""

    @property
    def name(self) -> str:
        """What its part of the report is called."""
        return self.network if self.run is None else f"{self.network}-digits"


def measure(subject: Subject, directory: Path, rounds: int) -> dict[str, Any]:
    """Export a network, make its variants in `directory`, and measure them all in one run, in alternation.

    Args:
        subject: The network.
        directory: Empty; gets a directory for each variant.
        rounds: Of latency.

    Returns:
        Plain values: `network`, `trained`, `images` and `variants`, one row for each.

    Raises:
        NetweightError: the run cannot be had.
    """
    images, labels = _export(subject, directory)
    files, refused = _make_all(subject, directory)
    sessions = {name: open_session(file) for name, file in files.items()}
    answers = {name: logits(session, images, BATCHES[-1]) for name, session in sessions.items()}
    samples = {batch: latencies(sessions, images[:batch], rounds) for batch in BATCHES}
    del sessions
    rows = []
    for name, file in files.items():
        row = _row(name, file, answers, labels, images[:1])
        row["latency_ms"] = {str(batch): _spread(samples[batch][name]) for batch in BATCHES}
        rows.append(row)
    _explain(rows)
    return {
        "network": subject.network,
        "trained": subject.run is not None,
        "images": f"{len(images)} held-out digits" if labels is not None else f"{len(images)} random, seed {SEED}",
        "image_shape": list(images.shape[1:]),
        "variants": rows,
        "refused": refused,
        "gpu": _gpu(files, images, rounds),
    }


def _export(subject: Subject, directory: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Write the fp32 file; return images, and their labels where the network was trained."""
    weights = "random" if subject.run is None else str(subject.run / "best.pt")
    built = build(catalog.get(subject.network), parse(weights))
    target = directory / FP32
    target.mkdir()
    convert(built.module, built.images(2, seed=0), target / _GRAPH, metadata=metadata(built))
    if subject.run is None:
        shape = (_RANDOM_IMAGES, *built.image_shape)
        return np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8), None
    with np.load(subject.run / "heldout.npz") as heldout:
        return heldout["images"], heldout["labels"]


def _make_all(subject: Subject, directory: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Make every variant; return the files, fp32 first, and why one could not be made."""
    source = directory / FP32 / _GRAPH
    files, refused = {FP32: source}, {}
    calibration = Calibration(RANDOM, images=16) if subject.run is None else Calibration("digits")
    for name in VARIANTS:
        file = directory / name / _GRAPH
        file.parent.mkdir()
        try:
            make(name, source, file, calibration if name == "int8" else None)
        except NetweightError as error:
            refused[name] = str(error)
        else:
            files[name] = file
    return files, refused


def _row(
    name: str,
    file: Path,
    answers: dict[str, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    image: NDArray[Any],
) -> dict[str, Any]:
    """Measure what needs no alternation."""
    own, fp32 = answers[name], answers[FP32]
    with tempfile.TemporaryDirectory(prefix="netweight-") as directory:
        saved = Path(directory) / "image.npy"
        np.save(saved, image)
        memory = resident(file, saved)
        spent = profile(file, image, Path(directory))
    return {
        "variant": name,
        "file_bytes": sum(each.stat().st_size for each in file.parent.iterdir()),
        "initializer_bytes": weigh(file).initializer_bytes,
        "agreement": float((own.argmax(1) == fp32.argmax(1)).mean()),
        "max_relative_difference": float(np.abs(own - fp32).max() / (np.abs(fp32).max() or 1.0)),
        "heldout_accuracy": None if labels is None else float((own.argmax(1) == labels).mean()),
        **memory,
        "profile": spent,
    }


def _spread(samples: list[float]) -> dict[str, Any]:
    """Return the median, the quartiles and the samples themselves, in milliseconds."""
    quartiles = statistics.quantiles(samples, n=4)
    return {
        "median": round(statistics.median(samples), 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "samples": [round(sample, 3) for sample in samples],
    }


def _explain(rows: list[dict[str, Any]]) -> None:
    """Say of each variant at which batch sizes it is slower than fp32, and what its profile shows."""
    fp32 = rows[0]
    for row in rows:
        row["slower_at_batch"] = [
            batch
            for batch in BATCHES
            if row["latency_ms"][str(batch)]["quartiles"][0] > fp32["latency_ms"][str(batch)]["quartiles"][1]
        ]
        row["seen"] = _seen(row["variant"], row["profile"], fp32["profile"])


def _seen(name: str, rows: list[dict[str, Any]], fp32: list[dict[str, Any]]) -> str:
    """Put into words what a profile shows: what takes longest, what fp32 has not or less often, and in what it computes."""
    before = {row["op"]: row["nodes"] for row in fp32}
    words = [f"{row['nodes']} {row['op']} on {row['input'] or 'nothing'} take {row['share']:.0%}" for row in rows[:2]]
    new = [row for row in rows if row["nodes"] > before.get(row["op"], 0)]
    if new and name != FP32:
        words.append("not in fp32: " + ", ".join(f"{row['nodes']} {row['op']} ({row['share']:.1%})" for row in new[:5]))
    products = {row["input"] for row in rows if row["op"] in _PRODUCTS}
    if name == "fp16" and products == {"float"}:
        words.append("ONNX Runtime's CPU provider has no FP16 kernel for them here: they run in FP32")
    return "; ".join(words)


def _gpu(files: dict[str, Path], images: NDArray[Any], rounds: int) -> dict[str, Any]:
    """Measure fp32 and fp16 on CUDA, and int8 on TensorRT, where ONNX Runtime has them; else say what is missing."""
    sessions, skipped = {}, []
    for name, provider in _ON_A_GPU.items():
        if provider not in ort.get_available_providers():
            skipped.append(f"{name}: {provider} is not there")
            continue
        try:
            sessions[f"{name} on {provider}"] = open_session(files[name], tuple(dict.fromkeys((provider, *CPU))))
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no common base
            skipped.append(f"{name}: {provider} refuses it: {str(error).partition(chr(10))[0]}")
    measured = {
        str(batch): {name: _spread(each) for name, each in latencies(sessions, images[:batch], rounds).items()}
        for batch in BATCHES
        if sessions
    }
    return {"skipped": skipped, "latency_ms": measured}

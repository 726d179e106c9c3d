"""The whole of stage 2: build, convert, verify, weigh, publish."""

from __future__ import annotations

import hashlib
import platform
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import onnxruntime

from export import verify as verification
from export.build import Built, Input, build
from export.convert import EXTERNAL_DATA_ABOVE_BYTES, convert
from export.publish import MODEL, Publication, Signature, check, publish, staging
from export.weigh import Weight, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from export.verify import Parity
    from models.spec import Architecture, Weights

    Report = Callable[[str], None]

SCHEMA = "netweight-card/1"


def export(  # noqa: PLR0913 - the command line's options, each with its default
    architecture: Architecture,
    weights: Weights,
    repository: Path,
    *,
    name: str | None = None,
    classes: int | None = None,
    input: Input = "uint8",  # noqa: A002 - the protocol's word
    opset: int = 20,
    external_data_above: float = EXTERNAL_DATA_ABOVE_BYTES,
    tolerance: float = verification.TOLERANCE,
    report: Report = lambda _line: None,
) -> Publication:
    """Turn a network into the next version of a model in the repository.

    Args:
        architecture: The network's record.
        weights: Where its weights come from; see `models.weights.parse`.
        repository: The model repository's directory, made where it is missing.
        name: The model's; None: the architecture's.
        classes: How many; None: as many as the weights know, or the architecture's own.
        input: ``uint8`` puts preprocessing into the graph, ``float32`` leaves it to the client.
        opset: Of the ONNX operators.
        external_data_above: Bytes of weights from which on they lie beside the graph.
        tolerance: The largest difference to torch, as a share of the output's scale.
        report: Told each step when it begins, and again with its seconds when it is done.

    Raises:
        NetweightError: anything that a user can mend; nothing was published then.
    """
    name = name or architecture.name
    with _step(report, f"{name}: build with {weights.kind} weights ({weights.source})"):
        built = build(architecture, weights, classes=classes, input=input)
        signature = Signature(input, built.image_shape, len(built.class_names))
        check(repository, name, signature)
    with staging(repository) as directory:
        with _step(report, f"{name}: convert to ONNX, opset {opset}"):
            files = convert(
                built.module,
                built.images(2, seed=0),
                directory / MODEL,
                opset=opset,
                external_data_above=external_data_above,
                metadata={
                    "architecture": architecture.name,
                    "weights": f"{built.weights.kind}, {built.weights.source}",
                },
            )
        with _step(report, f"{name}: verify against torch at batches {', '.join(map(str, verification.BATCHES))}"):
            images = built.images(max(verification.BATCHES), seed=verification.SEED)
            parity = verification.verify(files[0], built.module, images, tolerance=tolerance)
        with _step(report, f"{name}: weigh and publish in {repository}"):
            card = _card(built, opset, files, weigh(files[0]), parity)
            return publish(directory, repository, name, signature, built.class_names, card)


@contextmanager
def _step(report: Report, what: str) -> Iterator[None]:
    """Report a step when it begins, and its wall-clock seconds once it has succeeded."""
    report(f"{what} ...")
    start = time.perf_counter()
    yield
    report(f"  {time.perf_counter() - start:.1f} s")


def _card(built: Built, opset: int, files: Sequence[Path], weight: Weight, parity: Parity) -> dict[str, Any]:
    """Return what is known of a version, but for its name and number: plain values for JSON."""
    architecture, weights = built.architecture, built.weights
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "architecture": {
            "name": architecture.name,
            "title": architecture.title,
            "family": architecture.family,
            "year": architecture.year,
            "classes": len(built.class_names),
            "adaptation": built.adaptation,
        },
        "weights": {
            "kind": weights.kind,
            "trained": weights.trained,
            "source": weights.source,
            "sha256": weights.sha256,
            "checkpoint_bytes": weights.bytes,
        },
        "preprocessing": {**built.preprocessing.to_dict(), "input": built.input},
        "graph": {
            "opset": opset,
            "files": {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files},
            "onnx_bytes": sum(file.stat().st_size for file in files),
            "variant": "fp32",
        },
        "parameters": built.parameters,
        "initializer_bytes": weight.initializer_bytes,
        "multiply_accumulates": weight.multiply_accumulates,
        "layers": [layer.to_dict() for layer in weight.layers],
        "parity": parity.to_dict(),
        "accuracy": built.accuracy,
        "published": [asdict(each) for each in built.published],
        "tools": _tools(),
    }


def _tools() -> dict[str, str]:
    """Return the versions of what made the file."""
    distributions = ("torch", "torchvision", "onnx", "onnxscript")
    return {
        "python": platform.python_version(),
        **{each: version(each) for each in distributions},
        "onnxruntime": onnxruntime.__version__,
    }


def _sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

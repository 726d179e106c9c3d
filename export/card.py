"""card.json: what is known of a version, as plain values for JSON; its name and number are added when it is published."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import onnxruntime

from export.deployment import deployment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from export.build import Built
    from export.heldout import Accuracy
    from export.publish import Publication
    from export.verify import Parity
    from export.weigh import Weight

SCHEMA = "netweight-card/1"

FP32 = "fp32"
"""The variant that every other one is made from and held against."""

_DISTRIBUTIONS = ("netweight", "torch", "torchvision", "onnx", "onnxscript", "onnx-ir")


def compose(
    built: Built,
    files: Sequence[Path],
    opset: int,
    weight: Weight,
    parity: Parity,
    accuracy: Accuracy | None,
    reference: Publication | None = None,
) -> dict[str, Any]:
    """Return the card of an fp32 version; one with a lighter head has the network as it was for its reference."""
    return {
        "schema": SCHEMA,
        **_measured(files, FP32, opset, weight, parity, accuracy),
        **origin(built),
        **({"head": dict(built.head)} if built.head else {}),
        **({"reference": _named(reference)} if reference else {}),
        "parameters": built.parameters,
        "auxiliary_parameters_dropped": built.auxiliary.parameters,
        "notes": list(built.notes),
        "accuracy": built.accuracy,
        "published": [asdict(each) for each in built.published],
    }


def compose_variant(
    reference: Publication,
    variant: str,
    facts: dict[str, Any],
    files: Sequence[Path],
    weight: Weight,
    parity: Parity,
    accuracy: Accuracy | None,
) -> dict[str, Any]:
    """Return the card of a variant: what it shares with the fp32 version, and what was measured of its own file.

    Its reference is that fp32 version, or the one that this one itself is held against.
    """
    shared = {key: value for key, value in reference.card.items() if key not in {"name", "version"}}
    return {
        **shared,
        **_measured(files, variant, reference.card["graph"]["opset"], weight, parity, accuracy),
        "variant": facts,
        "reference": reference.card.get("reference") or _named(reference),
        "made_from": _named(reference),
        "tools": tools(),
    }


def _named(publication: Publication) -> dict[str, Any]:
    """Return which version of which model it is."""
    return {"name": publication.name, "version": publication.version}


def origin(built: Built) -> dict[str, Any]:
    """Return what an fp32 file follows from, but for its opset: the same origin gives the same file."""
    architecture, weights = built.architecture, built.weights
    return {
        "architecture": {
            "name": architecture.name,
            "title": architecture.title,
            "family": architecture.family,
            "year": architecture.year,
            "classes": len(built.class_names),
            "adaptation": built.adaptation,
            "builder": architecture.builder,
            "options": dict(architecture.options),
        },
        "weights": {
            "kind": weights.kind,
            "trained": weights.trained,
            "source": weights.source,
            "sha256": weights.sha256,
            "checkpoint_bytes": weights.bytes,
            "auxiliary_parameters_dropped": built.auxiliary.parameters,
            "auxiliary_bytes_dropped": built.auxiliary.bytes,
            "notes": list(built.notes),
        },
        "preprocessing": {**built.preprocessing.to_dict(), "input": built.input},
        "tools": tools(),
    }


def tools() -> dict[str, str]:
    """Return the versions of what made the file."""
    return {
        "python": platform.python_version(),
        **{each: version(each) for each in _DISTRIBUTIONS},
        "onnxruntime": onnxruntime.__version__,
    }


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measured(
    files: Sequence[Path], variant: str, opset: int, weight: Weight, parity: Parity, accuracy: Accuracy | None
) -> dict[str, Any]:
    """Return what was measured of a version's own files."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "graph": {
            "opset": opset,
            "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files},
            "onnx_bytes": sum(file.stat().st_size for file in files),
            "variant": variant,
        },
        "deployment": deployment(files),
        "initializer_bytes": weight.initializer_bytes,
        "multiply_accumulates": weight.multiply_accumulates,
        "layers": [layer.to_dict() for layer in weight.layers],
        "parity": parity.to_dict(),
        "heldout": accuracy and asdict(accuracy),
    }

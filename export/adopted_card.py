"""The card of a model from elsewhere: what its file tells, and None for what it does not."""

from __future__ import annotations

from datetime import UTC, datetime
from math import prod
from typing import TYPE_CHECKING, Any

import onnx

from export import onnx_file, trial
from export.card import SCHEMA, sha256, tools
from export.deployment import deployment
from export.weigh import Weight, weigh

if TYPE_CHECKING:
    from pathlib import Path

    from export.adopt import Staged
    from export.onnx_file import OnnxFile


def compose(file: OnnxFile, staged: Staged, classes: int | None) -> dict[str, Any]:
    """Return what is known of a version, but for its name and number.

    Args:
        file: As it came.
        staged: As it is published.
        classes: How many class names were given; None: none were.
    """
    weight, unknown = _weigh(staged.path)
    files = sorted(each for each in staged.path.parent.rglob("*") if each.is_file())
    model, known = onnx.load(staged.path, load_external_data=False), bool(weight.layers)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "architecture": {
            **dict.fromkeys(("name", "title", "family", "year", "adaptation", "builder", "options")),
            "classes": classes,
        },
        "weights": {
            "kind": "unknown",
            "trained": None,
            "source": file.path.name,
            "sha256": sha256(file.path),
            "checkpoint_bytes": None,
        },
        "preprocessing": None,
        "graph": {
            "opset": max((each.version for each in model.opset_import if each.domain in onnx_file.DOMAINS), default=0),
            "files": {
                str(each.relative_to(staged.path.parent)): {"bytes": each.stat().st_size, "sha256": sha256(each)}
                for each in files
            },
            "onnx_bytes": sum(each.stat().st_size for each in files),
            "variant": None,
        },
        "deployment": deployment([staged.path, *(each for each in files if each != staged.path)]),
        "parameters": weight.parameters if known else None,
        "initializer_bytes": weight.initializer_bytes,
        "multiply_accumulates": weight.multiply_accumulates if known else None,
        "layers": [layer.to_dict() for layer in weight.layers],
        "parity": None,
        "accuracy": None,
        "published": [],
        "adopted": {
            "opset": file.opset,
            "producer": f"{file.model.producer_name} {file.model.producer_version}".strip() or None,
            "changes": list(staged.changes),
            "notes": [*staged.notes, *unknown],
            "finite_on_random_input": all(map(trial.finite, staged.answers)),
        },
        "tools": tools(),
    }


def _weigh(path: Path) -> tuple[Weight, tuple[str, ...]]:
    """Weigh a graph by layers; where its shapes cannot be inferred, its initializers only."""
    try:
        return weigh(path), ()
    except (onnx.shape_inference.InferenceError, KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        tensors = onnx.load(path, load_external_data=False).graph.initializer
        held = sum(prod(each.dims) * onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize for each in tensors)
        why = f"not weighed by layers: {onnx_file.first_line(error)}"
        return Weight((), held), (why,)

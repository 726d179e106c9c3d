"""How large the values inside a graph become: what FP16 can hold is decided by it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from export.convert import IMAGE, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES = 8
"""Random images that are tried."""

SEED = 2
"""Of the random images: not those that the export is verified with."""

BATCH = 4
"""Images in one run."""


def measure(source: Path, images: NDArray[Any]) -> dict[str, float]:
    """Return the largest magnitude of each FP32 value of a graph for some images; not a number where it is that.

    The values are reduced inside the graph, so that memory does not grow with the number of images.
    """
    model = ir.load(source)
    names = _add_magnitudes(model)
    with tempfile.TemporaryDirectory(prefix="netweight-") as directory:
        path = Path(directory) / "magnitudes.onnx"
        save(model, path)
        session = open_session(path)
        runs = [
            session.run(list(names), {IMAGE: images[start : start + BATCH]}) for start in range(0, len(images), BATCH)
        ]
    return {names[output]: float(np.max(each)) for output, each in zip(names, zip(*runs, strict=True), strict=True)}


def open_session(path: Path) -> ort.InferenceSession:
    """Open a session that is used for a few runs: nothing is packed, weights beside the graph are mapped."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def random_images(model: ir.Model, count: int = IMAGES, seed: int = SEED) -> NDArray[Any]:
    """Draw images as a graph takes them: evenly spread pixels, or normally spread values where the input is FP32."""
    (image,) = model.graph.inputs
    assert image.shape is not None
    shape = (count, *(int(side) for side in image.shape.dims[1:] if isinstance(side, int)))
    random = np.random.default_rng(seed)
    if image.dtype == ir.DataType.UINT8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape, np.float32)


def _add_magnitudes(model: ir.Model) -> dict[str, str]:
    """Add an output for each FP32 value that holds its largest magnitude; return the values' names by the outputs'."""
    names = {}
    values = [*model.graph.inputs, *(value for node in list(model.graph) for value in node.outputs)]
    model.graph.outputs.clear()
    for value in values:
        if value.dtype != ir.DataType.FLOAT:
            continue
        scalar = ir.TensorType(ir.DataType.FLOAT)
        positive = ir.node("Abs", [value], outputs=[ir.Value(name=f"{value.name}/abs", type=scalar, shape=value.shape)])
        peak = ir.Value(name=f"{value.name}/max", type=scalar, shape=ir.Shape([]))
        largest = ir.node("ReduceMax", [positive.outputs[0]], {"keepdims": 0}, outputs=[peak])
        model.graph.extend([positive, largest])
        model.graph.outputs.append(peak)
        names[f"{value.name}/max"] = value.name or ""
    return names

"""Small ONNX graphs for tests: made in the test, run by the real ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any] | None = None
) -> Path:
    """Write a graph of these nodes; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def scale(repository: Path, name: str = "scale", *, factor: float = 2.0, version: int = 1, width: int = 4) -> Path:
    """Publish y = factor * x, FP32 [batch, width]: an answer tells which input and which version made it."""
    return save(
        repository / name / str(version) / "model.onnx",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", width])],
        [("y", TensorProto.FLOAT, ["batch", width])],
        {"factor": np.float32(factor)},
    )


def slow(repository: Path, name: str = "slow", *, rounds: int = 200, width: int = 256) -> Path:
    """Publish a chain of matrix products (identity, so y = x) that keeps a CPU busy for tens of milliseconds.

    It has one instance: a second request waits.
    """
    nodes = [
        helper.make_node("MatMul", [f"h{i}" if i else "x", "identity"], [f"h{i + 1}" if i + 1 < rounds else "y"])
        for i in range(rounds)
    ]
    shape = ["batch", width, width]
    path = save(
        repository / name / "1" / "model.onnx",
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, shape)],
        {"identity": np.eye(width, dtype=np.float32)},
    )
    text = "max_batch_size: 32 instance_group { count: 1 }"
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return path


def held(repository: Path, seconds: float, name: str = "held") -> Path:
    """Publish y = 2 x, FP32 [batch, 4], whose requests wait so long for others: up to 31 of them stay in the queue."""
    path = scale(repository, name)
    text = f"max_batch_size: 32 dynamic_batching {{ max_queue_delay_microseconds: {round(seconds * 1e6)} }}"
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return path


def aborting(repository: Path, name: str = "aborting") -> Path:
    """Publish a graph that ends the process in which ONNX Runtime 1.32 opens it: Slice gets an extent below zero."""
    return save(
        repository / name / "1" / "model.onnx",
        [helper.make_node("Pad", ["x", "pads"], ["p"]), helper.make_node("Slice", ["p", "starts", "ends"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", "n"])],
        {"pads": np.array([0, -3, 0, 0]), "starts": np.array([0, 0]), "ends": np.array([9, 9])},
    )


def identity(repository: Path, name: str, element: int, shape: list[Any]) -> Path:
    """Publish y = x for any datatype and shape."""
    return save(
        repository / name / "1" / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", element, shape)],
        [("y", element, shape)],
    )


def image_classifier(repository: Path, name: str = "tiny", *, classes: int = 3, side: int = 8) -> Path:
    """Publish a classifier as netweight exports them: UINT8 [batch, side, side, 1] to logits and probabilities.

    The logit of class c is the mean of pixel row c, so a picture with one bright row is of that row's class.
    """
    rows = np.zeros((side * side, classes), np.float32)
    for each in range(classes):
        rows[each * side : (each + 1) * side, each] = 1 / side
    save(
        repository / name / "1" / "model.onnx",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        [("image", TensorProto.UINT8, ["batch", side, side, 1])],
        [(each, TensorProto.FLOAT, ["batch", classes]) for each in ("logits", "probabilities")],
        {"weight": rows, "flat": np.array([-1, side * side], np.int64)},
    )
    directory = repository / name
    (directory / "labels.txt").write_text("".join(f"row {each}\n" for each in range(classes)), encoding="utf-8")
    (directory / "config.pbtxt").write_text(
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [ {side}, {side}, 1 ] }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }}\n'
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }}\n'
        "dynamic_batching { }\n",
        encoding="utf-8",
    )
    return directory

"""The model repository that the suite expects: small graphs, one for each behaviour.

``python -m tests.conformance.repository DIR`` writes it, for a server that is started by hand.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests import graphs

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}
"""The protocol's datatypes and ONNX's."""
SLOW_SIDE = 256
"""`slow` takes FP32 [batch, 256, 256]."""


def write(directory: Path) -> Path:
    """Write every model, each with a config.pbtxt of its own, so that no server has to guess one."""
    for name, element in DATATYPES.items():
        graphs.identity(directory, f"identity_{name.lower()}", element, ["batch", 2])
        _configure(directory, f"identity_{name.lower()}", 8, _tensors(_config_type(name), 2))
    graphs.scale(directory)
    _configure(directory, "scale", 8, _tensors("TYPE_FP32", 4))
    graphs.scale(directory, "versions", factor=2)
    graphs.scale(directory, "versions", factor=3, version=2)
    _configure(directory, "versions", 8, _tensors("TYPE_FP32", 4) + "version_policy { all { } }\n")
    graphs.identity(directory, "unbatched", TensorProto.FLOAT, [3])
    _configure(directory, "unbatched", 0, _tensors("TYPE_FP32", 3))
    graphs.identity(directory, "free", TensorProto.FLOAT, ["batch", "extent"])
    _configure(directory, "free", 8, _tensors("TYPE_FP32", -1))
    graphs.image_classifier(directory, "classifier")
    _sum_and_difference(directory)
    _lookup(directory)
    _slow(
        directory,
        "slow",
        rounds=600,
        queue_policy="allow_timeout_override: true default_timeout_microseconds: 60000000",
    )
    _slow(directory, "bounded", rounds=300, queue_policy="max_queue_size: 2")
    _changeable(directory)
    broken = graphs.scale(directory, "broken")
    broken.write_bytes(broken.read_bytes()[:40])
    _configure(directory, "broken", 8, _tensors("TYPE_FP32", 4))
    return directory


def at_start() -> list[str]:
    """Return the models that the server has loaded when the suite begins: all but `broken`."""
    identities = [f"identity_{name.lower()}" for name in DATATYPES]
    return [
        *identities,
        "scale",
        "versions",
        "unbatched",
        "free",
        "classifier",
        "sum_and_difference",
        "lookup",
        "slow",
        "bounded",
        "changeable",
    ]


def scale_bytes(factor: float, width: int = 4) -> bytes:
    """Return the file of a model y = factor * x, as a load request carries it."""
    with tempfile.TemporaryDirectory() as directory:
        return graphs.scale(Path(directory), factor=factor, width=width).read_bytes()


def _sum_and_difference(directory: Path) -> None:
    """Publish two inputs and two outputs: sum = a + b, difference = a - b."""
    shape = ["batch", 2]
    graphs.save(
        directory / "sum_and_difference" / "1" / "model.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [("a", TensorProto.FLOAT, shape), ("b", TensorProto.FLOAT, shape)],
        [("sum", TensorProto.FLOAT, shape), ("difference", TensorProto.FLOAT, shape)],
    )
    inputs = "".join(f'input {{ name: "{name}" data_type: TYPE_FP32 dims: [ 2 ] }}\n' for name in "ab")
    outputs = "".join(
        f'output {{ name: "{name}" data_type: TYPE_FP32 dims: [ 2 ] }}\n' for name in ("sum", "difference")
    )
    _configure(directory, "sum_and_difference", 8, inputs + outputs)


def _lookup(directory: Path) -> None:
    """Publish y = [10, 20, 30][x], which fails in the middle of an execution where x is none of 0, 1, 2."""
    graphs.save(
        directory / "lookup" / "1" / "model.onnx",
        [helper.make_node("Gather", ["values", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        {"values": np.array([10, 20, 30], np.float32)},
    )
    text = (
        'input { name: "x" data_type: TYPE_INT64 dims: [ 1 ] }\noutput { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    )
    _configure(directory, "lookup", 8, text)


def _slow(directory: Path, name: str, *, rounds: int, queue_policy: str) -> None:
    """Publish a model of one instance that runs requests one by one, a tenth of a second each, by priority."""
    graphs.slow(directory, name, rounds=rounds, width=SLOW_SIDE)
    dims = f"{SLOW_SIDE}, {SLOW_SIDE}"
    instances = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    levels = f"priority_levels: 2 default_priority_level: 2 default_queue_policy {{ {queue_policy} }}"
    _configure(directory, name, 1, f"{_tensors('TYPE_FP32', dims)}{instances}dynamic_batching {{ {levels} }}\n")


def _changeable(directory: Path) -> None:
    """Publish the model that the load and unload cases change."""
    graphs.scale(directory, "changeable")
    _configure(directory, "changeable", 8, _tensors("TYPE_FP32", 4))


def _configure(directory: Path, name: str, max_batch_size: int, text: str) -> None:
    head = f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
    (directory / name / "config.pbtxt").write_text(head + text, encoding="utf-8")


def _tensors(data_type: str, dims: int | str) -> str:
    return (
        f'input {{ name: "x" data_type: {data_type} dims: [ {dims} ] }}\n'
        f'output {{ name: "y" data_type: {data_type} dims: [ {dims} ] }}\n'
    )


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    print(f"start the server with these models loaded: {' '.join(at_start())}")

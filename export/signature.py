"""The inputs and outputs of any ONNX graph, as ONNX Runtime tells them, and Triton's configuration of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnxruntime as ort

DATATYPES: dict[str, tuple[str, Any]] = {
    "tensor(bool)": ("TYPE_BOOL", np.bool_),
    "tensor(uint8)": ("TYPE_UINT8", np.uint8),
    "tensor(uint16)": ("TYPE_UINT16", np.uint16),
    "tensor(uint32)": ("TYPE_UINT32", np.uint32),
    "tensor(uint64)": ("TYPE_UINT64", np.uint64),
    "tensor(int8)": ("TYPE_INT8", np.int8),
    "tensor(int16)": ("TYPE_INT16", np.int16),
    "tensor(int32)": ("TYPE_INT32", np.int32),
    "tensor(int64)": ("TYPE_INT64", np.int64),
    "tensor(float16)": ("TYPE_FP16", np.float16),
    "tensor(float)": ("TYPE_FP32", np.float32),
    "tensor(double)": ("TYPE_FP64", np.float64),
    "tensor(string)": ("TYPE_STRING", np.object_),
}
"""What ONNX Runtime calls a tensor, Triton's name and numpy's. It hands bfloat16 to Python in no datatype of numpy's."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph."""

    name: str
    type: str
    """A key of `DATATYPES`."""
    shape: tuple[int, ...]
    """The batch included; -1: dynamic."""

    @property
    def dtype(self) -> Any:
        """Numpy's."""
        return DATATYPES[self.type][1]

    def config(self, *, batches: bool, label_file: str | None = None) -> str:
        """Return it as a line of config.pbtxt, whose dims leave the batch out and are never empty."""
        dims = self.shape[1:] if batches else self.shape
        extents = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
        labels = f' label_filename: "{label_file}"' if label_file else ""
        name = json.dumps(self.name, ensure_ascii=False)
        return f"  {{ name: {name} data_type: {DATATYPES[self.type][0]} {extents}{labels} }}"


@dataclass(frozen=True)
class Tensors:
    """All inputs and outputs of a graph."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batches(self) -> bool:
        """Whether every tensor has a dynamic first axis."""
        return all(each.shape[:1] == (-1,) for each in (*self.inputs, *self.outputs))

    def config(self, name: str, max_batch_size: int, labels: dict[str, str]) -> str:
        """Return a model's config.pbtxt: Triton's ModelConfig in text format.

        Args:
            name: The model's.
            max_batch_size: 0: it takes no batches, and dims are the graph's own.
            labels: The file with class names of each output that has them.
        """
        batches = max_batch_size > 0
        inputs = ",\n".join(each.config(batches=batches) for each in self.inputs)
        outputs = ",\n".join(each.config(batches=batches, label_file=labels.get(each.name)) for each in self.outputs)
        return (
            f'name: "{name}"\n'
            'platform: "onnxruntime_onnx"\n'
            f"max_batch_size: {max_batch_size}\n"
            f"input [\n{inputs}\n]\n"
            f"output [\n{outputs}\n]\n"
            f"{'dynamic_batching { }' if batches else ''}\n"
        ).rstrip() + "\n"


def read(session: ort.InferenceSession) -> Tensors:
    """Return what a session takes and gives.

    Raises:
        NetweightError: an input or output is no tensor of a datatype that is served.
    """
    return Tensors(tuple(_tensors("input", session.get_inputs())), tuple(_tensors("output", session.get_outputs())))


def _tensors(kind: str, values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if value.type not in DATATYPES:
            raise NetweightError(
                f"{kind} {value.name} is a {value.type}: expected a tensor of numbers, booleans or strings; export it with "
                "one (scikit-learn's converter: zipmap=False)"
            )
        yield Tensor(value.name, value.type, tuple(each if isinstance(each, int) else -1 for each in value.shape))

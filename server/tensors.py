"""Datatypes, once: the protocol's name, numpy's type, ONNX Runtime's and the model configuration's word for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NUMPY: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
    "BF16": np.dtype("V2"),
}
"""The protocol's datatypes as little-endian numpy types. numpy has no BF16: two bytes that are passed on as they are."""

DATATYPES = {dtype: name for name, dtype in NUMPY.items()}
"""numpy's type -> the protocol's name."""

ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
}
"""ONNX Runtime's type -> the protocol's name."""


@dataclass(frozen=True)
class TensorSpec:
    """What a model takes or gives under one name."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 where any extent is accepted; a model that batches has -1 in front."""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        """Return ``image: UINT8 [-1,224,224,3]``."""
        return f"{self.name}: {self.datatype} {show(self.shape)}"


def show(shape: tuple[int, ...]) -> str:
    """Return a shape as messages print it: ``[-1,224,224,3]``."""
    return f"[{','.join(map(str, shape))}]"

"""BF16 tensors through ONNX Runtime, whose Python interface has no numpy type for them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime as ort

from server.tensors import NUMPY, Array

BF16 = NUMPY["BF16"]
ONNX_BFLOAT16 = 16
"""`TensorProto.BFLOAT16`."""
ONNX_TYPE = "tensor(bfloat16)"


def carry(session: Any) -> Any:
    """Return what runs this session: itself, or, where a tensor is BF16, a `Bfloat16Runtime` around it."""
    tensors = (*session.get_inputs(), *session.get_outputs())
    return Bfloat16Runtime(session) if any(each.type == ONNX_TYPE for each in tensors) else session


class Bfloat16Runtime:
    """An `onnxruntime.InferenceSession` that takes and gives BF16 as arrays of two bytes, which nobody here looks into."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        """Return the named outputs, in that order."""
        given = {name: _value(array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(names, given)]


def _value(array: Array) -> Any:
    if array.dtype != BF16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view("<u2"), ONNX_BFLOAT16)


def _array(value: Any) -> Array:
    if value.element_type() != ONNX_BFLOAT16:
        result: Array = value.numpy()
        return result
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, BF16).reshape(value.shape())

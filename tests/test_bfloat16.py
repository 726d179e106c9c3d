"""BF16 through ONNX Runtime: bits pass, and the graph sees the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from server.bfloat16 import BF16, Bfloat16Runtime, carry
from tests import graphs

X = np.array([[1.5, -2.0], [np.inf, 3.0e38]], ml_dtypes.bfloat16)


def open_graph(path: Path, node: str, target: int, **attributes: Any) -> ort.InferenceSession:
    """Open a graph y = node(x), x BF16 [batch, 2]."""
    shape = ["batch", 2]
    nodes = [helper.make_node(node, ["x"], ["y"], **attributes)]
    graphs.save(path, nodes, [("x", TensorProto.BFLOAT16, shape)], [("y", target, shape)])
    return ort.InferenceSession(str(path))


def test_bits_pass(tmp_path: Path) -> None:
    """What goes in comes out, bit for bit, also where the array is a view with gaps."""
    runtime = carry(open_graph(tmp_path / "model.onnx", "Identity", TensorProto.BFLOAT16))
    (y,) = runtime.run(["y"], {"x": X.view(BF16)})
    assert (y.dtype, y.shape, y.tobytes()) == (BF16, X.shape, X.tobytes())
    (y,) = runtime.run(["y"], {"x": np.repeat(X, 2, axis=0).view(BF16)[::2]})
    assert y.tobytes() == X.tobytes()


def test_the_graph_sees_the_numbers(tmp_path: Path) -> None:
    """A cast inside the graph gives the values, beside it an output of another datatype."""
    runtime = carry(open_graph(tmp_path / "model.onnx", "Cast", TensorProto.FLOAT, to=TensorProto.FLOAT))
    (y,) = runtime.run(["y"], {"x": X.view(BF16)})
    np.testing.assert_array_equal(y, X.astype(np.float32))


def test_other_sessions_are_left_as_they_are(tmp_path: Path) -> None:
    """Only a session with a BF16 tensor is wrapped."""
    plain = ort.InferenceSession(str(graphs.scale(tmp_path)))
    assert carry(plain) is plain
    assert isinstance(carry(open_graph(tmp_path / "b.onnx", "Identity", TensorProto.BFLOAT16)), Bfloat16Runtime)

"""Good ModelInfer requests to begin from, and the models that answer them."""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from onnx import TensorProto
from PIL import Image

from server.client import infer_request
from server.pb import inference_pb2 as pb
from server.tensors import NUMPY
from tests import graphs
from tests.fuzz import models

REGION, REGION_BYTES = f"netweight-fuzz-{os.getpid()}", 4096
"""A region of shared memory that is registered; its key is the name after a slash."""
WORDS = (
    "scale",
    "tiny",
    "text",
    "flags",
    "scalar",
    "x",
    "y",
    "image",
    "logits",
    "1",
    "2",
    *NUMPY,
    "BF16",
    "priority",
    "timeout",
    "classification",
    REGION,
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "sequence_id",
    "binary_data",
)
"""Names that mean something in a request."""
IDENTITIES = ("text", "flags", "scalar")


def publish(repository: Path) -> None:
    """Publish a model of each kind: a batching one, a classifier, strings, booleans of fixed shape, a scalar."""
    graphs.scale(repository)
    (graphs.image_classifier(repository) / "1" / "card.json").write_text(models.card(), encoding="utf-8")
    graphs.identity(repository, "text", TensorProto.STRING, ["batch", 2])
    graphs.identity(repository, "flags", TensorProto.BOOL, [2, 3])
    graphs.identity(repository, "scalar", TensorProto.INT64, [])


def file(kind: str) -> bytes:
    """Return an image file with the tiny classifier's pixels."""
    out = BytesIO()
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(out, kind)
    return out.getvalue()


@cache
def good() -> list[pb.ModelInferRequest]:
    """Return requests for every model: raw, typed and in shared memory, pixels and files, with wishes and without."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    typed = pb.ModelInferRequest(model_name="scale", id="typed")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    wishing = infer_request("tiny", {"image": np.full((1, 8, 8, 1), 9, np.uint8)}, version="1")
    wishing.outputs.add(name="logits").parameters["classification"].int64_param = 2
    wishing.parameters["priority"].uint64_param = 1
    wishing.parameters["timeout"].int64_param = 10**6
    placed = pb.ModelInferRequest(model_name="scale")
    tensor, output = placed.inputs.add(name="x", datatype="FP32", shape=[2, 4]), placed.outputs.add(name="y")
    for parameters in (tensor.parameters, output.parameters):
        parameters["shared_memory_region"].string_param = REGION
        parameters["shared_memory_byte_size"].int64_param = x.nbytes
        parameters["shared_memory_offset"].int64_param = 128
    return [
        placed,
        infer_request("scale", {"x": x}),
        typed,
        wishing,
        infer_request("tiny", {"image": np.array([file("PNG"), file("JPEG")], np.object_)}),
        infer_request("text", {"x": np.array([[b"a", b"bc"]], np.object_)}),
        infer_request("flags", {"x": np.ones((2, 3), np.bool_)}),
        infer_request("scalar", {"x": np.array([7], np.int64)}),
    ]

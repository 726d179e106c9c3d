"""Inferences that succeed: datatypes, versions, outputs, classification, parameters, compression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from tritonclient.grpc import InferRequestedOutput
from tritonclient.utils import triton_to_np_dtype

from tests.conformance.case import Case, Step, case, fp32, gives, tensor, x
from tests.conformance.repository import DATATYPES


def extremes(datatype: str) -> Any:
    """Return the values of a datatype that are most easily lost, [2, 2]."""
    if datatype == "BYTES":
        return np.array([["caf\u00e9".encode(), b""], [b"a", b"long" * 100]], np.object_)
    if datatype == "BOOL":
        return np.array([[False, True], [True, False]])
    dtype = triton_to_np_dtype(datatype)
    if datatype == "BF16":
        return np.array([[1.5, -0.0], [np.inf, 3.0e38]], ml_dtypes.bfloat16)
    limits: Any = np.finfo(dtype) if datatype.startswith("FP") else np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1]], dtype)


def infer(name: str, model: str, inputs: list[Any], check: Any = None, **send: Any) -> Case:
    """Return a case of one inference."""
    return case(name, "infer", check=check, model_name=model, inputs=inputs, **send)


def identity(datatype: str) -> Case:
    """Return the case of a datatype that goes in and comes out bit for bit."""
    value = extremes(datatype)
    return infer(f"{datatype} in and out", f"identity_{datatype.lower()}", [tensor("x", value)], gives(y=value))


def answered_by(model: str, version: str, request_id: str = "") -> Any:
    """Check who answered, and whom."""

    def check(answer: Any) -> None:
        response = answer.get_response()
        assert (response.model_name, response.model_version, response.id) == (model, version, request_id)

    return check


def outputs(*names: str) -> Any:
    """Check the outputs' order, and that each has its raw bytes."""

    def check(answer: Any) -> None:
        response = answer.get_response()
        assert [each.name for each in response.outputs] == list(names)
        assert len(response.raw_output_contents) == len(names)
        assert not any(each.HasField("contents") for each in response.outputs)

    return check


def wanted(*names: str, k: int = 0) -> list[InferRequestedOutput]:
    """Return a request for these outputs."""
    return [InferRequestedOutput(name, class_count=k) for name in names]


def classes(**rows: list[list[bytes]]) -> Any:
    """Check the classification of each sample."""

    def check(answer: Any) -> None:
        for name, want in rows.items():
            assert answer.get_output(name).datatype == "BYTES"
            assert answer.as_numpy(name).tolist() == want

    return check


def picture(*bright: int) -> list[Any]:
    """Return the classifier's input: for each sample one bright row, and the one below it at a fifth of that."""
    image = np.zeros((len(bright), 8, 8, 1), np.uint8)
    for sample, row in enumerate(bright):
        image[sample, row], image[sample, (row + 1) % 3] = 255, 51
    return [tensor("image", image)]


AB = [tensor("a", fp32((5, 7))), tensor("b", fp32((2, 3)))]
ROW = x((1, 2, 3, 4))
DOUBLED = gives(y=fp32((2, 4, 6, 8)))

THREE = np.array([1, 2, 3], np.float32)

TURNED = ("difference", "sum")

CASES = (
    *(identity(each) for each in DATATYPES),
    infer("a batch", "scale", x((1, 2, 3, 4), (5, 6, 7, 8)), gives(y=fp32((2, 4, 6, 8), (10, 12, 14, 16)))),
    infer("the largest batch", "scale", x(*[(1, 2, 3, 4)] * 8), gives(y=fp32(*[(2, 4, 6, 8)] * 8))),
    infer("without batches", "unbatched", [tensor("x", THREE)], gives(y=THREE)),
    infer("a free extent", "free", x((1, 2, 3)), gives(y=fp32((1, 2, 3)))),
    infer(
        "an empty tensor", "free", [tensor("x", np.empty((1, 0), np.float32))], gives(y=np.empty((1, 0), np.float32))
    ),
    infer("a value that the model looks up", "lookup", [tensor("x", np.array([[2]]))], gives(y=fp32((30,)))),
    infer("the newest version", "versions", ROW, answered_by("versions", "2")),
    infer("a version", "versions", ROW, DOUBLED, model_version="1"),
    infer("a version answers by its name", "versions", ROW, answered_by("versions", "1"), model_version="1"),
    infer("the id is echoed", "scale", ROW, answered_by("scale", "1", "caf\u00e9 7"), request_id="caf\u00e9 7"),
    infer("two inputs and outputs", "sum_and_difference", AB, gives(sum=fp32((7, 10)), difference=fp32((3, 4)))),
    infer("inputs in another order", "sum_and_difference", AB[::-1], gives(sum=fp32((7, 10)), difference=fp32((3, 4)))),
    infer("no outputs named: all", "sum_and_difference", AB, outputs("sum", "difference")),
    replace(
        infer("outputs as asked for", "sum_and_difference", AB, outputs(*TURNED), outputs=wanted(*TURNED)), ours=True
    ),
    infer("one output", "sum_and_difference", AB, outputs("difference"), outputs=wanted("difference")),
    infer(
        "classification with labels",
        "classifier",
        picture(1, 0),
        classes(logits=[[b"255.000000:1:row 1", b"51.000000:2:row 2"], [b"255.000000:0:row 0", b"51.000000:1:row 1"]]),
        outputs=wanted("logits", k=2),
    ),
    infer(
        "classification of more than there are",
        "classifier",
        picture(2),
        classes(logits=[[b"255.000000:2:row 2", b"51.000000:0:row 0", b"0.000000:1:row 1"]]),
        outputs=wanted("logits", k=9),
    ),
    infer(
        "classification without labels",
        "scale",
        ROW,
        classes(y=[[b"8.000000:3"]]),
        outputs=wanted("y", k=1),
    ),
    infer(
        "one output classified, one not",
        "classifier",
        picture(1),
        outputs("logits", "probabilities"),
        outputs=[*wanted("logits", k=1), *wanted("probabilities")],
    ),
    infer("gzip", "scale", ROW, DOUBLED, compression_algorithm="gzip"),
    infer("deflate", "scale", ROW, DOUBLED, compression_algorithm="deflate"),
    infer("a priority", "scale", ROW, DOUBLED, priority=1),
    infer("a priority that the model has not", "scale", ROW, DOUBLED, priority=77),
    infer("a sequence's parameters", "scale", ROW, DOUBLED, sequence_id=7, sequence_start=True, sequence_end=True),
    infer("a timeout that is not reached", "scale", ROW, DOUBLED, timeout=60_000_000),
    infer("a deadline that is not reached", "scale", ROW, DOUBLED, client_timeout=60.0),
    infer(
        "unknown parameters are tolerated",
        "scale",
        ROW,
        DOUBLED,
        parameters={"text": "a", "truth": True, "count": 7, "share": 0.5},
    ),
    infer(
        "headers are tolerated with an inference", "scale", ROW, DOUBLED, headers={"x-request-source": "conformance"}
    ),
    Case(
        "one client, many models",
        (
            Step("infer", {"model_name": "scale", "inputs": ROW}, check=DOUBLED),
            Step("infer", {"model_name": "nosuch", "inputs": ROW}, "NOT_FOUND"),
            Step("infer", {"model_name": "versions", "inputs": ROW}, check=gives(y=fp32((3, 6, 9, 12)))),
        ),
    ),
)

"""Inferences that are refused, each with its status."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.case import Case, Step, fp32, tensor, x
from tests.conformance.table.inference import wanted


def refused(name: str, status: str, model: str, inputs: list[Any], *says: str, ours: bool = False, **send: Any) -> Case:
    """Return a case of one inference that fails; its message names the model and what is said besides."""
    step = Step("infer", {"model_name": model, "inputs": inputs, **send}, status, says=(model, *says))
    return Case(name, (step,), ours=ours)


def of_bytes(count: int) -> list[Any]:
    """Return x of FP32 [1, 4] with so many bytes in place of 16."""
    made = tensor("x", fp32((1, 2, 3, 4)))
    made._raw_content = bytes(count)
    return [made]


def broken_text(*content: bytes) -> list[Any]:
    """Return x of BYTES [1, 2] with this content."""
    made = tensor("x", np.array([[b"a", b"b"]], np.object_))
    made._raw_content = b"".join(content)
    return [made]


ROW = x((1, 2, 3, 4))
A, B = tensor("a", fp32((1, 2))), tensor("b", fp32((3, 4)))
NO_TEXT = [tensor("x", np.array([[b"a", b"\xff\xfe"]], np.object_))]
TEXT = [tensor("x", np.array([[b"a", b"b"]], np.object_))]
INVALID = "INVALID_ARGUMENT"

CASES = (
    refused("unknown model", "NOT_FOUND", "nosuch", ROW),
    refused("unknown version", "NOT_FOUND", "scale", ROW, "9", model_version="9"),
    *(refused(f"version {each!r}", INVALID, "scale", ROW, each, model_version=each) for each in ("a", "-1")),
    refused("version '0'", INVALID, "scale", ROW, "0", model_version="0", ours=True),
    refused("wrong rank", INVALID, "scale", [tensor("x", np.zeros(4, np.float32))], "x", "[4]", "[-1,4]"),
    refused("wrong extent", INVALID, "scale", x((1, 2, 3, 4, 5)), "x", "[1,5]", "[-1,4]"),
    refused("wrong datatype", INVALID, "scale", [tensor("x", np.zeros((1, 4)))], "x", "FP64", "FP32"),
    refused("a batch too large", INVALID, "scale", x(*[(1, 2, 3, 4)] * 9), "9", "8"),
    refused("an empty batch", INVALID, "scale", [tensor("x", np.zeros((0, 4), np.float32))], "0"),
    refused("batches that differ", INVALID, "sum_and_difference", [A, tensor("b", fp32((1, 2), (3, 4)))]),
    refused("no input", INVALID, "scale", [], "x"),
    refused("a missing input", INVALID, "sum_and_difference", [A], "b"),
    refused("a duplicate input", INVALID, "scale", ROW * 2, "x"),
    refused("an unexpected input", INVALID, "sum_and_difference", [A, B, tensor("c", fp32((1, 2)))], "c"),
    refused("an input of another name", INVALID, "scale", [tensor("z", fp32((1, 2, 3, 4)))], "z", "x"),
    refused("an unknown output", INVALID, "scale", ROW, "z", "y", outputs=wanted("z")),
    refused("an unknown output beside a known one", INVALID, "scale", ROW, "z", outputs=wanted("y", "z")),
    *(refused(f"{n} bytes in place of 16", INVALID, "scale", of_bytes(n), "x", str(n), "16") for n in (0, 7, 17)),
    refused("BYTES end inside a length", INVALID, "identity_bytes", broken_text(b"\1\0\0\0a", b"\1\0"), "x"),
    refused("BYTES end inside an element", INVALID, "identity_bytes", broken_text(b"\1\0\0\0a", b"\x09\0\0\0b"), "x"),
    refused("BYTES of too few elements", INVALID, "identity_bytes", broken_text(b"\1\0\0\0a"), "x", "1", "2"),
    refused("BYTES of too many elements", INVALID, "identity_bytes", broken_text(*[b"\0\0\0\0"] * 3), "x", "2"),
    refused("BYTES that are no text", INVALID, "identity_bytes", NO_TEXT, "x", "UTF-8", ours=True),
    refused("an execution that fails", "INTERNAL", "lookup", [tensor("x", np.array([[7]]))]),
    refused(
        "classification of BYTES", INVALID, "identity_bytes", TEXT, "y", "BYTES", outputs=wanted("y", k=1), ours=True
    ),
    refused("classification of fewer than none", INVALID, "scale", ROW, outputs=wanted("y", k=-1)),
)

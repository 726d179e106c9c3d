"""Messages that no method of the client makes: typed contents, contents twice or not at all, parameters of any type."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tests.conformance.case import Case, Step, fp32
from tests.conformance.repository import DATATYPES
from tests.conformance.table.inference import extremes

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The typed field of each datatype; FP16 and BF16 have none."""
INVALID = "INVALID_ARGUMENT"
ROW = fp32((1, 2, 3, 4))


def raw(*arrays: Any) -> Any:
    """Check an answer's raw contents."""

    def check(answer: Any) -> None:
        assert list(answer.raw_output_contents) == [each.tobytes() for each in arrays]
        assert not any(each.HasField("contents") for each in answer.outputs)

    return check


def typed(datatype: str) -> Case:
    """Return the case of typed contents; the answer is raw all the same."""
    value = extremes(datatype)
    contents = pb.InferTensorContents(**{FIELDS[datatype]: value.ravel().tolist()})
    given = input_of(datatype, [2, 2], contents=contents)
    send = {"model_name": f"identity_{datatype.lower()}", "inputs": [given]}
    check = None if datatype == "BYTES" else raw(value)
    return Case(f"typed {datatype}", (Step("ModelInfer", send, check=check),))


def input_of(datatype: str, shape: list[int], **more: Any) -> Any:
    """Return the input x."""
    return pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape, **more)


def infer(name: str, status: str, check: Any = None, *, ours: bool = False, **fields: Any) -> Case:
    """Return a case of one request to `scale`, raw where nothing else is said."""
    send: dict[str, Any] = {
        "model_name": "scale",
        "inputs": [input_of("FP32", [1, 4])],
        "raw_input_contents": [ROW.tobytes()],
        **fields,
    }
    return Case(name, (Step("ModelInfer", send, status, check, says=(send["model_name"],)),), ours=ours)


def parameter(**value: Any) -> Any:
    """Return a parameter."""
    return pb.InferParameter(**value)


def classified(**value: Any) -> list[Any]:
    """Return a request for the output y with the parameter `classification`."""
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="y")
    wanted.parameters["classification"].CopyFrom(parameter(**value))
    return [wanted]


def repeated_text(answer: Any) -> None:
    """BYTES come back with their lengths."""
    assert list(answer.raw_output_contents) == [b"\2\0\0\0ab\0\0\0\0"]


CONTENTS = pb.InferTensorContents(fp32_contents=ROW.ravel().tolist())
TYPED = [input_of("FP32", [1, 4], contents=CONTENTS)]
EMPTY = [input_of("FP32", [1, 0], contents=pb.InferTensorContents())]
AND_RAW = [
    pb.ModelInferRequest.InferInputTensor(name="a", datatype="FP32", shape=[1, 4], contents=CONTENTS),
    pb.ModelInferRequest.InferInputTensor(name="b", datatype="FP32", shape=[1, 4]),
]
SHORT = [input_of("FP32", [1, 4], contents=pb.InferTensorContents(fp32_contents=[1, 2]))]
OTHER_FIELD = [input_of("FP32", [1, 4], contents=pb.InferTensorContents(int_contents=[1, 2, 3, 4]))]
HALF = [input_of("FP16", [1, 2], contents=pb.InferTensorContents(fp32_contents=[1, 2]))]
TOO_LARGE = [input_of("INT8", [1, 2], contents=pb.InferTensorContents(int_contents=[1, 300]))]
TEXTS = [input_of("BYTES", [1, 2], contents=pb.InferTensorContents(bytes_contents=[b"ab", b""]))]
DOUBLED = raw(2 * ROW)

CASES = (
    *(typed(each) for each in DATATYPES if each in FIELDS),
    Case(
        "typed BYTES come back raw",
        (Step("ModelInfer", {"model_name": "identity_bytes", "inputs": TEXTS}, check=repeated_text),),
    ),
    infer("raw by a bare message", "OK", DOUBLED),
    infer("typed and raw contents", INVALID, inputs=TYPED),
    infer("one input typed, the other raw", INVALID, model_name="sum_and_difference", inputs=AND_RAW),
    infer("typed and empty", "OK", raw(ROW[:, :0]), model_name="free", inputs=EMPTY, raw_input_contents=[]),
    infer("neither typed nor raw contents", INVALID, raw_input_contents=[]),
    infer("more raw contents than inputs", INVALID, raw_input_contents=[ROW.tobytes()] * 2, ours=True),
    infer("too few typed elements", INVALID, inputs=SHORT, raw_input_contents=[]),
    infer("another datatype's field", INVALID, inputs=OTHER_FIELD, raw_input_contents=[]),
    infer(
        "FP16 has no typed field", INVALID, model_name="identity_fp16", inputs=HALF, raw_input_contents=[], ours=True
    ),
    infer(
        "a typed value out of range",
        INVALID,
        model_name="identity_int8",
        inputs=TOO_LARGE,
        raw_input_contents=[],
        ours=True,
    ),
    infer("an unknown datatype", INVALID, inputs=[input_of("FP8", [1, 4])]),
    infer("no datatype", INVALID, inputs=[input_of("", [1, 4])]),
    infer("a negative extent", INVALID, inputs=[input_of("FP32", [1, -4])]),
    infer("extents whose product overflows", INVALID, inputs=[input_of("FP32", [2**62, 2**62])]),
    infer("no model name", "NOT_FOUND", model_name="", ours=True),
    infer("priority as uint64", "OK", DOUBLED, parameters={"priority": parameter(uint64_param=1)}),
    infer("priority as int64", "OK", DOUBLED, parameters={"priority": parameter(int64_param=1)}),
    infer("a negative priority", INVALID, parameters={"priority": parameter(int64_param=-1)}),
    infer("a priority of a wrong type", INVALID, parameters={"priority": parameter(string_param="high")}),
    infer("a timeout of a wrong type", INVALID, parameters={"timeout": parameter(string_param="soon")}),
    infer(
        "the C++ client's parameter",
        "OK",
        DOUBLED,
        parameters={"triton_enable_empty_final_response": parameter(bool_param=False)},
    ),
    infer(
        "a parameter of each type",
        "OK",
        DOUBLED,
        parameters={"a": parameter(double_param=0.5), "b": parameter(uint64_param=2**64 - 1)},
        ours=True,
    ),
    infer("classification 0", INVALID, outputs=classified(int64_param=0), ours=True),
    infer("classification -3", INVALID, outputs=classified(int64_param=-3)),
    infer("classification of a wrong type", INVALID, outputs=classified(string_param="2")),
    infer("classification as a bool", INVALID, outputs=classified(bool_param=True)),
    Case(
        "another repository",
        (Step("RepositoryIndex", {"repository_name": "elsewhere"}, "UNIMPLEMENTED"),),
        "model_repository",
    ),
)

"""KServe's `InferenceGRPCClient` against a running server: ``python kserve_client.py HOST:PORT``.

It needs the environment that ``make conformance-kserve`` makes: kserve brings a protocol file of its own, and half a
gigabyte. The server has the models of `tests.conformance.repository`. Every public method is called; the last line says
how many checks there were.
"""

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

Check = Callable[[InferenceGRPCClient], Awaitable[str]]
DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def request(model: str, datatype: str, array: Any, *, raw: bool, **more: Any) -> InferRequest:
    """Return a request with one input x, raw or typed."""
    tensor = InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(model_name=model, infer_inputs=[tensor], **more)


async def live(client: InferenceGRPCClient) -> str:
    assert await client.is_server_live()
    return "is_server_live: True"


async def ready(client: InferenceGRPCClient) -> str:
    assert await client.is_server_ready()
    return "is_server_ready: True"


async def refusal(call: Awaitable[Any]) -> grpc.RpcError:
    """Return what a call fails with."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"a failure was expected, and {answer} came")


async def model_ready(client: InferenceGRPCClient) -> str:
    assert await client.is_model_ready("scale")
    unknown = await refusal(client.is_model_ready("nosuch"))
    assert unknown.code() is grpc.StatusCode.NOT_FOUND
    return f"is_model_ready: True; of an unknown model {unknown.code().name}"


async def infer(client: InferenceGRPCClient) -> str:
    """Infer with every datatype that numpy has, raw and, where the protocol can, typed."""
    count = 0
    for datatype, dtype in DATATYPES.items():
        array: Any = np.array([[0, 1], [1, 0]]).astype(dtype)
        for raw in (True, *([] if datatype == "FP16" else [False])):
            answer = await client.infer(request(f"identity_{datatype.lower()}", datatype, array, raw=raw))
            got = answer.outputs[0].as_numpy()
            assert (got.dtype, got.tolist()) == (array.dtype, array.tolist()), (datatype, raw, got)
            count += 1
    texts = np.array([["caf\u00e9".encode(), b""]], np.object_)
    answer = await client.infer(request("identity_bytes", "BYTES", texts, raw=True))
    assert answer.outputs[0].as_numpy().tolist() == texts.tolist()
    return f"infer: {len(DATATYPES)} datatypes and BYTES, {count + 1} inferences, raw and (but FP16 and BYTES) typed"


async def details(client: InferenceGRPCClient) -> str:
    array = np.array([[1, 2, 3, 4]], np.float32)
    answer = await client.infer(
        request("versions", "FP32", array, raw=True, model_version="1", request_id="seven"), timeout=20
    )
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "versions", "1")
    assert answer.outputs[0].as_numpy().tolist() == (2 * array).tolist()
    return f"infer: id {answer.id}, version {answer.model_version}"


async def refused(client: InferenceGRPCClient) -> str:
    wrong = await refusal(client.infer(request("scale", "FP32", np.zeros((1, 5), np.float32), raw=True)))
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
    return f"infer: {wrong.code().name}: {wrong.details()}"


CHECKS: tuple[Check, ...] = (live, ready, model_ready, infer, details, refused)
CALLED = {"is_server_live", "is_server_ready", "is_model_ready", "infer", "close"}


async def main(address: str) -> None:
    """Run the checks one after the other."""
    logging.disable()  # kserve logs each failure with its trace
    methods = {name for name, _ in inspect.getmembers(InferenceGRPCClient, inspect.isfunction) if name[0] != "_"}
    assert methods == CALLED, f"methods that no check calls: {methods - CALLED}"
    async with InferenceGRPCClient(address) as client:
        for check in CHECKS:
            print(await check(client))
    print(f"{len(CHECKS)} checks passed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""Tensors in shared memory. The regions exist before the table runs, see `Regions`; each case forgets what it registered."""

from __future__ import annotations

import os
from dataclasses import replace
from multiprocessing import shared_memory
from typing import Any

import tritonclient.grpc as triton

from tests.conformance.case import Case, Step, fp32, tensor
from tests.conformance.table.inference import wanted

BYTES, PAGE = 8192, 4096
"""Of each region, and where its second half begins: other servers map from the beginning of a page."""
KEY_IN, KEY_OUT = (f"/conformance_{os.getpid()}_{name}" for name in ("in", "out"))
ROW, OTHER = fp32((1, 2, 3, 4)), fp32((5, 6, 7, 8))
TEXTS = b"\2\0\0\0ab\0\0\0\0"
AT_OTHER, AT_TEXTS = 64, 128
"""Where they lie; ROW is at 0."""
INVALID = "INVALID_ARGUMENT"


class Regions:
    """The memory itself, made and removed by the process that runs the suite."""

    def __init__(self) -> None:
        self.memory = [shared_memory.SharedMemory(key[1:], create=True, size=BYTES) for key in (KEY_IN, KEY_OUT)]
        buffer: Any = self.memory[0].buf
        buffer[: ROW.nbytes] = ROW.tobytes()
        for place in (AT_OTHER, PAGE):
            buffer[place : place + OTHER.nbytes] = OTHER.tobytes()
        buffer[AT_TEXTS : AT_TEXTS + len(TEXTS)] = TEXTS

    def close(self) -> None:
        """Remove it."""
        for each in self.memory:
            each.close()
            each.unlink()


def register(
    status: str = "OK", *, name: str = "in", key: str = KEY_IN, byte_size: int = BYTES, offset: int = 0
) -> Step:
    """Register a region."""
    send = {"name": name, "key": key, "byte_size": byte_size, "offset": offset}
    return Step("register_system_shared_memory", send, status)


def registered(**regions: tuple[str, int, int]) -> Any:
    """Check that just these regions, each with key, offset and byte size, are registered."""

    def check(answer: Any) -> None:
        got = {name: (each.key, each.offset, each.byte_size) for name, each in answer.regions.items()}
        assert got == regions
        assert all(name == each.name for name, each in answer.regions.items())

    return check


def unregister(status: str = "OK", name: str = "") -> Step:
    """Unregister a region; all of them without a name."""
    return Step("unregister_system_shared_memory", {"name": name}, status)


def status_of(status: str = "OK", name: str = "", check: Any = None) -> Step:
    """Ask what is registered."""
    return Step("get_system_shared_memory_status", {"region_name": name}, status, check)


def shared(
    name: str, datatype: str, shape: list[int], region: str, byte_size: int, offset: int = 0
) -> triton.InferInput:
    """Return an input that lies in a region."""
    made = triton.InferInput(name, shape, datatype)
    made.set_shared_memory(region, byte_size, offset)
    return made


def row(byte_size: int = 16, offset: int = 0, region: str = "in") -> list[triton.InferInput]:
    """Return x of `scale` in a region."""
    return [shared("x", "FP32", [1, 4], region, byte_size, offset)]


def into(name: str, byte_size: int, offset: int = 0, region: str = "out", k: int = 0) -> Any:
    """Return a wish for an output in a region."""
    made = triton.InferRequestedOutput(name, class_count=k)
    made.set_shared_memory(region, byte_size, offset)
    return made


def infer(inputs: list[Any], status: str = "OK", check: Any = None, *, model: str = "scale", **send: Any) -> Step:
    """Infer."""
    return Step("infer", {"model_name": model, "inputs": inputs, **send}, status, check)


def gives(want: bytes) -> Any:
    """Check the first output's bytes, in the answer."""

    def check(answer: Any) -> None:
        assert answer.get_response().raw_output_contents[0] == want

    return check


def wrote(want: bytes, offset: int = 0, region: str = "out") -> Any:
    """Check the first output: its bytes in the region, and where it says they are; none in the answer."""

    def check(answer: Any) -> None:
        response = answer.get_response()
        parameters = response.outputs[0].parameters
        if parameters:  # Triton gives none
            assert parameters["shared_memory_region"].string_param == region
            assert parameters["shared_memory_byte_size"].int64_param == len(want)
        assert not any(response.raw_output_contents[:1])
        opened = shared_memory.SharedMemory(KEY_OUT[1:])
        try:
            buffer: Any = opened.buf
            assert bytes(buffer[offset : offset + len(want)]) == want
            buffer[offset : offset + len(want)] = bytes(len(want))  # for whoever runs this case next
        finally:
            opened.close()

    return check


def system(name: str, *steps: Step, ours: bool = False) -> Case:
    """Return a case that begins and ends with nothing registered."""
    return Case(f"shared memory: {name}", (unregister(), *steps, unregister()), "system_shared_memory", ours=ours)


IN, OUT = register(), register(name="out", key=KEY_OUT)
BOTH = registered(**{"in": (KEY_IN, 0, BYTES), "out": (KEY_OUT, 0, BYTES)})
HALF = registered(half=(KEY_IN, PAGE, 2048))
A, B = shared("a", "FP32", [1, 2], "in", 8), tensor("b", fp32((10, 20)))
CUDA = {"name": "gpu", "raw_handle": b"", "device_id": 0, "byte_size": 64}

SYSTEM = (
    system("nothing is registered", status_of(check=registered())),
    system(
        "status", IN, OUT, status_of(check=BOTH), status_of(name="in", check=registered(**{"in": (KEY_IN, 0, BYTES)}))
    ),
    system("status as JSON", IN, Step("get_system_shared_memory_status", {"as_json": True})),
    system(
        "a part of it",
        register(name="half", byte_size=2048, offset=PAGE),
        status_of(check=HALF),
        replace(infer(row(region="half"), check=gives((2 * OTHER).tobytes())), ours=True),
    ),
    system("a key without its slash", register(key=KEY_IN[1:]), infer(row(), check=gives((2 * ROW).tobytes()))),
    system("unregister one", IN, OUT, unregister(name="in"), status_of(check=registered(out=(KEY_OUT, 0, BYTES)))),
    system("unregister all", IN, OUT, unregister(), status_of(check=registered())),
    system("duplicate", IN, register("ALREADY_EXISTS"), register("ALREADY_EXISTS", key=KEY_OUT)),
    system("unknown region", status_of("NOT_FOUND", "nosuch"), replace(unregister("NOT_FOUND", "nosuch"), ours=True)),
    system("a key that is not there", register(INVALID, key="/conformance_nosuch"), ours=True),
    system("a key that climbs", register(INVALID, key="/../etc/hostname"), register(INVALID, key=""), ours=True),
    system("larger than it is", register(INVALID, byte_size=2 * BYTES), register(INVALID, offset=BYTES)),
    system("nothing of it", register(INVALID, byte_size=0), ours=True),
    system("no name", register(INVALID, name=""), ours=True),
    system("an input", IN, infer(row(), check=gives((2 * ROW).tobytes()))),
    system("an input further on", IN, infer(row(offset=AT_OTHER), check=gives((2 * OTHER).tobytes()))),
    system("an output", OUT, infer([tensor("x", ROW)], check=wrote((2 * ROW).tobytes()), outputs=[into("y", 16)])),
    system(
        "an output further on",
        IN,
        OUT,
        infer(row(), check=wrote((2 * ROW).tobytes(), 256), outputs=[into("y", 16, 256)]),
    ),
    system("room to spare", OUT, infer([tensor("x", ROW)], check=wrote((2 * ROW).tobytes()), outputs=[into("y", 64)])),
    system("one input of two", IN, infer([A, B], check=gives(fp32((11, 22)).tobytes()), model="sum_and_difference")),
    system(
        "the other input of two",
        IN,
        infer(
            [B, shared("a", "FP32", [1, 2], "in", 8)], check=gives(fp32((11, 22)).tobytes()), model="sum_and_difference"
        ),
    ),
    system(
        "one output of two",
        IN,
        OUT,
        infer(
            [A, B],
            check=wrote(fp32((11, 22)).tobytes()),
            model="sum_and_difference",
            outputs=[into("sum", 8), *wanted("difference")],
        ),
    ),
    system(
        "BYTES",
        IN,
        OUT,
        infer(
            [shared("x", "BYTES", [1, 2], "in", len(TEXTS), AT_TEXTS)],
            check=wrote(TEXTS),
            model="identity_bytes",
            outputs=[into("y", len(TEXTS))],
        ),
    ),
    system("an unregistered region", infer(row(), "NOT_FOUND"), OUT, infer(row(), "NOT_FOUND")),
    system("an unregistered region for an output", infer([tensor("x", ROW)], "NOT_FOUND", outputs=[into("y", 16)])),
    system("too few bytes", IN, infer(row(12), INVALID), infer(row(20), INVALID)),
    system("beyond its end", IN, infer(row(offset=BYTES - 8), INVALID), infer(row(offset=2**40), INVALID)),
    system(
        "an output that does not fit",
        OUT,
        infer([tensor("x", ROW)], INVALID, outputs=[into("y", 12)]),
        infer([tensor("x", ROW)], INVALID, outputs=[into("y", 16, BYTES - 8)]),
        ours=True,
    ),
    system("forgotten", IN, infer(row()), replace(unregister(name="in"), patient=True), infer(row(), "NOT_FOUND")),
)

CUDA_CASES = (
    Case(
        "CUDA shared memory: status",
        (Step("get_cuda_shared_memory_status", {}, "UNIMPLEMENTED", says=("CUDA",)),),
        ours=True,
    ),
    Case(
        "CUDA shared memory: register",
        (Step("register_cuda_shared_memory", CUDA, "UNIMPLEMENTED", says=("CUDA",)),),
        ours=True,
    ),
    Case(
        "CUDA shared memory: unregister",
        (Step("unregister_cuda_shared_memory", {}, "UNIMPLEMENTED", says=("CUDA",)),),
        ours=True,
    ),
)

CASES = (*SYSTEM, *CUDA_CASES)

"""Regions of shared memory: what may be registered, read and written, against the system's real shared memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import wire
from server.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from server.pb import inference_pb2 as pb
from server.shared_memory import DIRECTORY, SharedMemory

SIZE = 4096


@pytest.fixture
def owned() -> Iterator[shared_memory.SharedMemory]:
    """Memory as a caller makes it."""
    made = shared_memory.SharedMemory(create=True, size=SIZE)
    yield made
    made.close()
    made.unlink()


@pytest.fixture
def key(owned: shared_memory.SharedMemory) -> str:
    return f"/{owned.name.lstrip('/')}"


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory(max_regions=3, max_bytes=2 * SIZE, max_request_bytes=SIZE)


def request(**tensors: dict[str, Any]) -> pb.ModelInferRequest:
    """Return a request of FP32 [1, 2] inputs with these shared memory parameters."""
    message = pb.ModelInferRequest(model_name="m")
    for name, parameters in tensors.items():
        add(message.inputs.add(name=name, datatype="FP32", shape=[1, 2]), parameters)
    return message


def add(tensor: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(tensor.parameters[f"shared_memory_{name}"], field, value)


def view(owned: shared_memory.SharedMemory) -> memoryview:
    assert owned.buf is not None
    return owned.buf


def descriptors(key: str) -> int:
    """Count this process's open files of a shared memory object."""
    opened = [each for each in Path("/proc/self/fd").iterdir() if each.exists() or each.is_symlink()]
    return sum(os.path.realpath(each).startswith(DIRECTORY + key) for each in opened)


def test_status_tells_what_was_registered(memory: SharedMemory, key: str) -> None:
    """A region is known by its name with its key, offset and size until it is unregistered."""
    memory.register("a", key, 0, 16)
    memory.register("b", key, 8, SIZE - 8)
    told = [(each.name, each.key, each.offset, each.byte_size) for each in memory.status()]
    assert told == [("a", key, 0, 16), ("b", key, 8, SIZE - 8)]
    assert [each.name for each in memory.status("b")] == ["b"]
    memory.unregister("a")
    assert [each.name for each in memory.status()] == ["b"]
    memory.unregister()
    assert memory.status() == []


@pytest.mark.parametrize("bad", ["", "/", "nosuch", "/a/b", "/../x", "//x", "/a\0b", "/" + 300 * "a", "/.."])
def test_keys_are_names_of_shared_memory(memory: SharedMemory, bad: str) -> None:
    """Only /NAME is a key: none leads out of the system's shared memory."""
    with pytest.raises(InvalidArgumentError, match="region 'a'"):
        memory.register("a", bad, 0, 16)
    assert memory.status() == []


def test_keys_of_other_things_are_refused(memory: SharedMemory, key: str) -> None:
    """What is not there, a link and a pipe are no shared memory."""
    link, pipe = f"{key}-link", f"{key}-pipe"
    Path(DIRECTORY + link).symlink_to(DIRECTORY + key)
    os.mkfifo(DIRECTORY + pipe)
    try:
        for bad, text in ((f"{key}-none", "No such file"), (link, "symbolic link"), (pipe, "is no shared memory")):
            with pytest.raises(InvalidArgumentError, match=text):
                memory.register("a", bad, 0, 1)
    finally:
        for each in (link, pipe):
            Path(DIRECTORY + each).unlink()


def test_registering_has_limits(memory: SharedMemory, key: str) -> None:
    """Beyond the object, without a size or a name, and beyond the number or the bytes of all regions: refused."""
    for name, offset, size, text in (
        ("a", 1, SIZE, f"has {SIZE} bytes; expected at least offset 1 and byte_size {SIZE}"),
        ("a", 2**64 - 1, 2**64 - 1, "more than the limit"),
        ("a", 0, 0, "byte_size is 0"),
        ("", 0, 1, "0 characters"),
        (256 * "a", 0, 1, "256 characters"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            memory.register(name, key, offset, size)
    memory.register("a", key, 0, SIZE)
    with pytest.raises(AlreadyExistsError, match="'a' is registered already"):
        memory.register("a", key, 0, 1)
    with pytest.raises(InvalidArgumentError, match="max-shared-memory-bytes"):
        memory.register("b", key, 0, SIZE + 1)
    memory.register("b", key, 0, 1)
    memory.register("c", key, 0, 1)
    with pytest.raises(InvalidArgumentError, match="3 regions are registered already"):
        memory.register("d", key, 0, 1)


def test_unknown_regions_are_not_found(memory: SharedMemory) -> None:
    """Status, unregister and a request that names a region that is not registered say so."""
    calls: list[Callable[[], object]] = [
        lambda: memory.status("x"),
        lambda: memory.unregister("x"),
        lambda: memory.part("m", "x", 1, 0),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match="'x' is not registered"):
            call()


def test_switched_off_all_is_unimplemented(key: str) -> None:
    """Without --shared-memory every use says how to switch it on."""
    off = SharedMemory()
    calls: list[Callable[[], object]] = [
        lambda: off.register("a", key, 0, 1),
        off.unregister,
        off.status,
        lambda: wire.decode(request(x={"region": "a", "byte_size": 8})),
    ]
    for call in calls:
        with pytest.raises(UnimplementedError, match="--shared-memory"):
            call()


def test_inputs_are_read_from_memory(memory: SharedMemory, owned: shared_memory.SharedMemory, key: str) -> None:
    """Tensors in memory and raw contents may be mixed: these are in the order of the inputs that are sent."""
    memory.register("r", key, 16, 64)
    view(owned)[16 + 8 : 16 + 16] = np.array([[1, 2]], np.float32).tobytes()
    message = request(a={}, b={"region": "r", "byte_size": 8, "offset": 8}, c={})
    message.raw_input_contents.extend(np.array([[value] * 2], np.float32).tobytes() for value in (7, 9))
    inputs = wire.decode(message, memory=memory).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "a": [[7, 7]],
        "b": [[1, 2]],
        "c": [[9, 9]],
    }
    view(owned)[16:32] = bytes(16)
    assert inputs["b"].tolist() == [[1, 2]]  # a copy: the caller may change it


def test_texts_in_memory(memory: SharedMemory, owned: shared_memory.SharedMemory, key: str) -> None:
    """BYTES are in memory as they are in raw contents: each element behind its length."""
    memory.register("r", key, 0, SIZE)
    texts = np.array([b"ab", b"", b"c"], np.object_)
    raw = wire.to_raw(texts)
    view(owned)[: len(raw)] = raw
    message = pb.ModelInferRequest(model_name="m")
    add(message.inputs.add(name="x", datatype="BYTES", shape=[3]), {"region": "r", "byte_size": len(raw)})
    add(message.outputs.add(name="y"), {"region": "r", "byte_size": 64, "offset": 100})
    decoded = wire.decode(message, memory=memory)
    assert decoded.inputs["x"].tolist() == texts.tolist()
    answer = wire.encode("m", "1", "", {"y": texts[::-1]}, decoded.outputs)
    size = answer.outputs[0].parameters["shared_memory_byte_size"].int64_param
    assert wire.from_raw("y", "BYTES", (3,), bytes(view(owned)[100 : 100 + size])).tolist() == [b"c", b"", b"ab"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"region": "r"}, "needs shared_memory_byte_size beside it"),
        ({"byte_size": 8}, "need shared_memory_region beside them"),
        ({"region": 7, "byte_size": 8}, "came as int64_param; expected string_param"),
        ({"region": "r", "byte_size": "8"}, "came as string_param; expected int64_param"),
        ({"region": "r", "byte_size": -1}, "is -1; expected 0 or more"),
        ({"region": "r", "byte_size": 8, "offset": -8}, "is -8; expected 0 or more"),
        ({"region": "r", "byte_size": 8, "offset": 57}, "8 bytes from 57 go beyond region 'r', which has 64"),
        ({"region": "r", "byte_size": 2**63 - 1}, "go beyond region 'r'"),
        ({"region": "r", "byte_size": 12}, r"FP32 \[1,2\] needs 8 bytes, got 12"),
    ],
)
def test_wrong_parameters_are_refused(memory: SharedMemory, key: str, parameters: dict[str, Any], text: str) -> None:
    """Parameters that contradict, or name what is not in the region, are refused with what was expected and what came."""
    memory.register("r", key, 0, 64)
    with pytest.raises(InvalidArgumentError, match=text):
        wire.decode(request(x=parameters), memory=memory)


def test_a_request_takes_so_much(memory: SharedMemory, key: str) -> None:
    """All inputs together take no more from memory than a message may bring."""
    memory.register("r", key, 0, SIZE)
    half = {"region": "r", "byte_size": SIZE // 2}
    message = request(x=half, y={**half, "byte_size": SIZE // 2 + 1})
    with pytest.raises(InvalidArgumentError, match=f"take {SIZE + 1} bytes from shared memory; the limit is {SIZE}"):
        wire.decode(message, memory=memory)


def test_contents_beside_memory_are_refused(memory: SharedMemory, key: str) -> None:
    """An input in memory brings no contents, typed or raw."""
    memory.register("r", key, 0, 64)
    typed = request(x={"region": "r", "byte_size": 8})
    typed.inputs[0].contents.fp32_contents.extend([1, 2])
    with pytest.raises(InvalidArgumentError, match="in shared memory and has contents"):
        wire.decode(typed, memory=memory)
    raw = request(x={"region": "r", "byte_size": 8})
    raw.raw_input_contents.append(bytes(8))
    with pytest.raises(InvalidArgumentError, match="0 inputs need as many raw_input_contents, got 1"):
        wire.decode(raw, memory=memory)


def test_outputs_go_into_memory(memory: SharedMemory, owned: shared_memory.SharedMemory, key: str) -> None:
    """An output asked into memory is there, and the answer says where; its raw contents are empty, others' are in place."""
    memory.register("r", key, 16, 64)
    message = request()
    add(message.outputs.add(name="a"), {"region": "r", "byte_size": 32, "offset": 8})
    message.outputs.add(name="b")
    asked = wire.decode(message, memory=memory).outputs
    a, b = np.array([[1.5, 2.5]], np.float32), np.array([[3]], np.int64)
    answer = wire.encode("m", "1", "id", {"a": a, "b": b}, asked)
    assert bytes(view(owned)[24:32]) == a.tobytes()
    assert list(answer.raw_output_contents) == [b"", b.tobytes()]
    first, second = answer.outputs
    assert (first.datatype, list(first.shape)) == ("FP32", [1, 2])
    assert first.parameters["shared_memory_region"].string_param == "r"
    assert first.parameters["shared_memory_byte_size"].int64_param == 8
    assert first.parameters["shared_memory_offset"].int64_param == 8
    assert not second.parameters


def test_outputs_that_need_more_room_are_refused(
    memory: SharedMemory, owned: shared_memory.SharedMemory, key: str
) -> None:
    """An output larger than its room is refused with both sizes, and nothing is written."""
    memory.register("r", key, 0, 64)
    message = request()
    add(message.outputs.add(name="y"), {"region": "r", "byte_size": 7})
    asked = wire.decode(message, memory=memory).outputs
    with pytest.raises(
        InvalidArgumentError, match="model m: output 'y' needs 8 bytes; the request gives it 7 in region"
    ):
        wire.encode("m", "1", "", {"y": np.ones((1, 2), np.float32)}, asked)
    assert not any(view(owned))


def test_memory_that_its_owner_shortens(memory: SharedMemory, owned: shared_memory.SharedMemory, key: str) -> None:
    """Where the owner cut the object, reading and writing are errors: the server lives, and does not lengthen it."""
    memory.register("r", key, 0, SIZE)
    part = memory.part("m", "r", 64, SIZE - 64)
    os.truncate(DIRECTORY + key, SIZE - 32)
    with pytest.raises(InvalidArgumentError, match=f"shortened to {SIZE - 32} bytes; needed are {SIZE}"):
        part.read("m: input 'x'")
    with pytest.raises(InvalidArgumentError, match="shortened"):
        part.write("m: output 'y'", bytes(64))
    assert (Path(DIRECTORY) / key[1:]).stat().st_size == SIZE - 32
    os.truncate(DIRECTORY + key, 0)
    with pytest.raises(InvalidArgumentError, match="shortened to 0 bytes"):
        part.read("m: input 'x'")


def test_memory_that_cannot_be_written(memory: SharedMemory, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no page left for an output, the request fails so that its caller may try again."""
    memory.register("r", key, 0, SIZE)
    part = memory.part("m", "r", 64, 0)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UnavailableError, match="region 'r' cannot be written: No space left on device"):
        part.write("m: output 'y'", bytes(64))
    monkeypatch.setattr(os, "pwrite", lambda *_: 5)
    with pytest.raises(UnavailableError, match="took 5 of 64 bytes"):
        part.write("m: output 'y'", bytes(64))


def test_a_region_in_use_outlives_its_name(memory: SharedMemory, owned: shared_memory.SharedMemory, key: str) -> None:
    """A request goes on with a region that was unregistered meanwhile; after it nothing is open any more."""
    before = descriptors(key)
    memory.register("r", key, 0, 64)
    part = memory.part("m", "r", 8, 0)
    memory.unregister("r")
    assert part.write("m: output 'y'", b"12345678") == 8
    assert part.read("m: input 'x'") == b"12345678" == bytes(view(owned)[:8])
    assert descriptors(key) == before + 1
    del part
    gc.collect()
    assert descriptors(key) == before

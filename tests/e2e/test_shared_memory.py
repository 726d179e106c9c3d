"""Tensors in system shared memory, against the real process, by tritonclient and by plain gRPC."""

from __future__ import annotations

import os
import queue
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from server.pb import inference_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.waiting import eventually

WAYS = ["--way direct", "--way ordinary", "--frontends 2"]
LIMITS = ("--max-shared-memory-regions", "20", "--max-shared-memory-bytes", str(2**20))
X = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of one and of two inputs, of texts, of labels, and one whose requests wait a while."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    graphs.image_classifier(made)
    graphs.held(made, 1.5)
    graphs.identity(made, "texts", TensorProto.STRING, ["batch", 2])
    graphs.save(
        made / "difference" / "1" / "model.onnx",
        [helper.make_node("Sub", ["a", "b"], ["y"]), helper.make_node("Identity", ["a"], ["z"])],
        [(name, TensorProto.FLOAT, ["batch", 4]) for name in "ab"],
        [(name, TensorProto.FLOAT, ["batch", 4]) for name in "yz"],
    )
    return made


@pytest.fixture(scope="module", params=WAYS)
def server(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that takes tensors from shared memory."""
    options = (*request.param.split(), "--shared-memory", *LIMITS)
    with running_server(repository, tmp_path_factory.mktemp("server"), *options) as started:
        yield started


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client; afterwards nothing is registered."""
    with triton.InferenceServerClient(server.address) as connected:
        yield connected
        connected.unregister_system_shared_memory()


@contextmanager
def region(client: triton.InferenceServerClient, name: str, byte_size: int) -> Iterator[Any]:
    """Make shared memory and register all of it."""
    key = f"/netweight-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region(name, key, byte_size)
    try:
        client.register_system_shared_memory(name, key, byte_size)
        yield handle
    finally:
        shm.destroy_shared_memory_region(handle)


def key_of(handle: Any) -> str:
    key: str = handle._shm_key
    return key


def there(name: str, array: Any, region: str, byte_size: int, offset: int = 0) -> triton.InferInput:
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_shared_memory(region, byte_size, offset)
    return made


def here(name: str, array: Any) -> triton.InferInput:
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def asked(name: str, region: str, byte_size: int, offset: int = 0) -> triton.InferRequestedOutput:
    made = triton.InferRequestedOutput(name)
    made.set_shared_memory(region, byte_size, offset)
    return made


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """Return the status and the message of a call that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode."), caught.value.message()


def test_tensors_in_and_out(client: triton.InferenceServerClient) -> None:
    """As tritonclient does it: inputs are read from a region and outputs are found in one, and the answer says where."""
    with region(client, "in", 64) as inside, region(client, "out", 64) as outside:
        shm.set_shared_memory_region(inside, [X, 10 * X])
        for turn in range(3):
            answer = client.infer(
                "scale",
                [there("x", X, "in", 16, 16 * (turn % 2))],
                outputs=[asked("y", "out", 16, 32)],
                request_id="id",
            )
            output = answer.get_output("y")
            assert (output.datatype, list(output.shape)) == ("FP32", [1, 4])
            assert output.parameters["shared_memory_region"].string_param == "out"
            assert output.parameters["shared_memory_byte_size"].int64_param == 16
            assert output.parameters["shared_memory_offset"].int64_param == 32
            assert answer.get_response().id == "id"
            assert answer.get_response().model_version == "1"
            y = shm.get_contents_as_numpy(outside, np.float32, [1, 4], 32)
            np.testing.assert_array_equal(y, (20 if turn % 2 else 2) * X)


def test_some_in_memory_some_in_the_message(client: triton.InferenceServerClient) -> None:
    """Inputs and outputs in memory and in the message may be mixed, in any order."""
    with region(client, "r", 128) as held:
        shm.set_shared_memory_region(held, [5 * X], 64)
        in_memory, sent = there("a", X, "r", 16, 64), here("b", X)
        answer = client.infer(
            "difference", [in_memory, sent], outputs=[asked("y", "r", 16), triton.InferRequestedOutput("z")]
        )
        np.testing.assert_array_equal(shm.get_contents_as_numpy(held, np.float32, [1, 4]), 4 * X)
        np.testing.assert_array_equal(answer.as_numpy("z"), 5 * X)
        answer = client.infer("difference", [here("a", X), there("b", X, "r", 16, 64)])
        np.testing.assert_array_equal(answer.as_numpy("y"), -4 * X)
        np.testing.assert_array_equal(answer.as_numpy("z"), X)


def test_texts_in_and_out(client: triton.InferenceServerClient) -> None:
    """BYTES are in memory in their serialised form."""
    texts = np.array([["caf\u00e9".encode(), b""], [b"a", b"long" * 100]], np.object_)
    serialised = serialize_byte_tensor(texts)
    size = len(serialised.item())
    with region(client, "in", size) as inside, region(client, "out", 2 * size) as outside:
        shm.set_shared_memory_region(inside, [serialised])
        answer = client.infer("texts", [there("x", texts, "in", size)], outputs=[asked("y", "out", 2 * size)])
        assert answer.get_output("y").parameters["shared_memory_byte_size"].int64_param == size
        back = shm.get_contents_as_numpy(outside, np.object_, [2, 2])
        assert back.tolist() == texts.tolist()


def test_classes_into_memory(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """The classification of an output goes into memory too (tritonclient does not ask for it; other clients do)."""
    message = pb.ModelInferRequest(model_name="tiny")
    message.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8, 1])
    image = np.zeros((8, 8), np.uint8)
    image[1] = 255
    message.raw_input_contents.append(image.tobytes())
    output = message.outputs.add(name="logits")
    output.parameters["classification"].int64_param = 1
    output.parameters["shared_memory_region"].string_param = "r"
    output.parameters["shared_memory_byte_size"].uint64_param = 64
    with region(client, "r", 64) as held, grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(
            "/netweight.v1.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        answer = infer(message)
        assert answer.outputs[0].datatype == "BYTES"
        assert shm.get_contents_as_numpy(held, np.object_, [1, 1]).tolist() == [[b"255.000000:1:row 1"]]


def test_streams_take_memory_too(client: triton.InferenceServerClient) -> None:
    """A stream's requests may name regions; one that is not there is that request's error alone."""
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with region(client, "r", 64) as held:
        shm.set_shared_memory_region(held, [X])
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name in ("r", "nosuch", "r"):
            client.async_stream_infer("scale", [there("x", X, name, 16)], outputs=[asked("y", "r", 16, 32)])
        client.stop_stream()
        outcomes = [answers.get(timeout=10) for _ in range(3)]
        assert [error is None for _, error in outcomes] == [True, False, True]
        assert "'nosuch' is not registered" in outcomes[1][1].message()
        np.testing.assert_array_equal(shm.get_contents_as_numpy(held, np.float32, [1, 4], 32), 2 * X)


def test_callers_get_their_own_answers(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """Under load, each in its own part of one region, nobody gets another's answer; ordinary requests run beside them."""
    callers, turns = 12, 25
    errors: list[str] = []

    def call(caller: int) -> None:
        offset = 32 * caller
        with triton.InferenceServerClient(server.address) as own:
            for turn in range(turns):
                value = np.full((1, 4), caller * 1000 + turn, np.float32)
                if caller % 3:
                    shm.set_shared_memory_region(held, [value], offset)
                    own.infer("scale", [there("x", X, "r", 16, offset)], outputs=[asked("y", "r", 16, offset + 16)])
                    y = shm.get_contents_as_numpy(held, np.float32, [1, 4], offset + 16)
                else:
                    y = own.infer("scale", [here("x", value)]).as_numpy("y")
                if not np.array_equal(y, 2 * value):
                    errors.append(f"caller {caller}, turn {turn}: {y}")

    with region(client, "r", 32 * callers) as held, ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    assert errors == []


def test_registration(client: triton.InferenceServerClient) -> None:
    """Regions are listed as they were registered; the contract's statuses tell what is wrong with others."""
    with region(client, "a", 64) as held:
        key = key_of(held)
        client.register_system_shared_memory("b", key, 32, offset=16)
        regions = client.get_system_shared_memory_status().regions
        listed = {name: (each.name, each.key, each.offset, each.byte_size) for name, each in regions.items()}
        assert listed == {"a": ("a", key, 0, 64), "b": ("b", key, 16, 32)}
        assert list(client.get_system_shared_memory_status("b").regions) == ["b"]
        register = client.register_system_shared_memory
        for call, code, text in (
            (lambda: register("a", key, 64), "ALREADY_EXISTS", "'a' is registered already"),
            (lambda: register("c", key, 64, offset=2), "INVALID_ARGUMENT", "has 64 bytes"),
            (lambda: register("c", key, 0), "INVALID_ARGUMENT", "byte_size is 0"),
            (lambda: register("c", "/nosuch", 1), "INVALID_ARGUMENT", "No such file"),
            (lambda: register("c", "/../etc/passwd", 1), "INVALID_ARGUMENT", "expected /NAME"),
            (lambda: client.unregister_system_shared_memory("c"), "NOT_FOUND", "'c' is not registered"),
            (lambda: client.get_system_shared_memory_status("c"), "NOT_FOUND", "'c' is not registered"),
        ):
            got = refused(call)
            assert got[0] == code
            assert text in got[1]
            assert "\n" not in got[1]
        client.unregister_system_shared_memory("a")
        assert list(client.get_system_shared_memory_status().regions) == ["b"]
        for number in range(19):
            register(f"more {number}", key, 1)
        assert refused(lambda: register("c", key, 1))[0] == "INVALID_ARGUMENT"
        client.unregister_system_shared_memory()
        assert list(client.get_system_shared_memory_status().regions) == []
    large = shm.create_shared_memory_region("large", f"/netweight-{uuid.uuid4().hex}", 2**20 + 1)
    code, text = refused(lambda: client.register_system_shared_memory("large", key_of(large), 2**20 + 1))
    shm.destroy_shared_memory_region(large)
    assert (code, "--max-shared-memory-bytes" in text) == ("INVALID_ARGUMENT", True)


def test_bad_requests_are_refused(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """Requests that name what is not there, or too little room, are refused, counted, and nothing else is harmed."""
    counted = server.metric("netweight_requests_total", model="scale", code="INVALID_ARGUMENT")
    with region(client, "r", 64):
        good = there("x", X, "r", 16)
        for inputs, outputs, code, text in (
            ([there("x", X, "nosuch", 16)], None, "NOT_FOUND", "input 'x': shared memory region 'nosuch'"),
            ([good], [asked("y", "nosuch", 16)], "NOT_FOUND", "output 'y': shared memory region 'nosuch'"),
            ([there("x", X, "r", 12)], None, "INVALID_ARGUMENT", "needs 16 bytes, got 12"),
            ([there("x", X, "r", 16, 52)], None, "INVALID_ARGUMENT", "16 bytes from 52 go beyond region 'r'"),
            ([good], [asked("y", "r", 15)], "INVALID_ARGUMENT", "'y' needs 16 bytes; the request gives it 15"),
        ):
            got = refused(partial(client.infer, "scale", inputs, outputs=outputs))
            assert got[0] == code
            assert text in got[1]
        np.testing.assert_array_equal(client.infer("scale", [good]).as_numpy("y"), 0 * X)
    assert server.metric("netweight_requests_total", model="scale", code="INVALID_ARGUMENT") >= counted + 3


def test_an_owner_who_shortens_the_memory_harms_nobody(
    server: RunningServer, client: triton.InferenceServerClient
) -> None:
    """Where a registered object was truncated, requests that use it are refused, and the server goes on."""
    with region(client, "r", 2**16) as held:
        x = np.ones((1, 4), np.float32)
        inside, out = there("x", x, "r", 16, 2**16 - 16), asked("y", "r", 16, 2**16 - 32)
        client.infer("scale", [inside], outputs=[out])
        os.truncate(f"/dev/shm{key_of(held)}", 4096)  # noqa: S108
        for inputs, outputs in (([inside], None), ([here("x", x)], [out])):
            code, text = refused(partial(client.infer, "scale", inputs, outputs=outputs))
            assert code == "INVALID_ARGUMENT"
            assert "has been shortened to 4096 bytes" in text
        os.truncate(f"/dev/shm{key_of(held)}", 2**16)  # noqa: S108
        client.infer("scale", [inside], outputs=[out])
    assert server.process.poll() is None


def test_unregistering_waits_for_nobody(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """A region that is unregistered while requests use it is theirs until they are answered."""

    def call() -> None:
        with triton.InferenceServerClient(server.address) as own:
            own.infer("held", [there("x", X, "r", 16)], outputs=[asked("y", "r", 16, 16)])

    with region(client, "r", 32) as held, ThreadPoolExecutor(1) as pool:
        shm.set_shared_memory_region(held, [X])
        waiting = pool.submit(call)
        assert eventually(lambda: server.metric("netweight_pending_requests", model="held") == 1)
        client.unregister_system_shared_memory("r")
        shm.set_shared_memory_region(held, [0 * X])  # what was read at arrival does not change
        waiting.result()
        np.testing.assert_array_equal(shm.get_contents_as_numpy(held, np.float32, [1, 4], 16), 2 * X)
        assert refused(call)[0] == "NOT_FOUND"


def test_a_caller_who_goes_leaves_the_queue(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """A request in memory whose deadline passes while it waits is not run."""
    before = server.metric("netweight_inferences_total", model="held")
    with region(client, "r", 32):
        late = partial(client.infer, "held", [there("x", X, "r", 16)], client_timeout=0.5)
        assert refused(late)[0] == "DEADLINE_EXCEEDED"
        assert eventually(lambda: server.metric("netweight_pending_requests", model="held") == 0)
        client.infer("held", [there("x", X, "r", 16)])
    assert server.metric("netweight_inferences_total", model="held") == before + 1


def test_the_extension_is_listed(client: triton.InferenceServerClient) -> None:
    """ServerMetadata lists system shared memory, and not CUDA's, whose calls say that it is not there."""
    extensions = client.get_server_metadata().extensions
    assert "system_shared_memory" in extensions
    assert "cuda_shared_memory" not in extensions
    for call in (
        client.get_cuda_shared_memory_status,
        client.unregister_cuda_shared_memory,
        lambda: client.register_cuda_shared_memory("c", b"AAAA", 0, 16),
    ):
        code, text = refused(call)
        assert code == "UNIMPLEMENTED"
        assert "CUDA shared memory is not there: register system shared memory" in text


@pytest.mark.parametrize("way", WAYS)
def test_it_is_off_by_default(repository: Path, tmp_path: Path, way: str) -> None:
    """Without --shared-memory nothing can be registered or named, and the extension is not listed."""
    with (
        running_server(repository, tmp_path, "--model", "scale", *way.split()) as running,
        triton.InferenceServerClient(running.address) as client,
    ):
        assert "system_shared_memory" not in client.get_server_metadata().extensions
        for call in (
            client.get_system_shared_memory_status,
            client.unregister_system_shared_memory,
            lambda: client.register_system_shared_memory("r", "/r", 16),
            lambda: client.infer("scale", [there("x", X, "r", 16)]),
            lambda: client.infer("scale", [here("x", X)], outputs=[asked("y", "r", 16)]),
        ):
            code, text = refused(call)
            assert code == "UNIMPLEMENTED"
            assert "--shared-memory" in text
        np.testing.assert_array_equal(client.infer("scale", [here("x", X)]).as_numpy("y"), 2 * X)

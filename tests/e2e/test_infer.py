"""The inference calls, against the real process, by tritonclient and by our own client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.client import Client, ClientError
from tests import graphs
from tests.servers import RunningServer, running_server

DATATYPES = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}


@pytest.fixture(scope="module", params=["--way direct", "--way ordinary", "--frontends 2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one model of each kind, and two that cannot be served."""
    repository = tmp_path_factory.mktemp("repository")
    graphs.scale(repository)
    graphs.image_classifier(repository)
    graphs.slow(repository)
    for name, (element, _) in DATATYPES.items():
        graphs.identity(repository, f"identity_{name.lower()}", element, ["batch", 2])
    graphs.identity(repository, "unbatched", TensorProto.FLOAT, [3])
    graphs.identity(repository, "free", TensorProto.FLOAT, ["batch", "extent"])
    truncated = graphs.scale(repository, "truncated")
    truncated.write_bytes(truncated.read_bytes()[:40])
    contradicting = graphs.scale(repository, "contradicting")
    (contradicting.parents[1] / "config.pbtxt").write_text(
        'max_batch_size: 4\ninput { name: "x" data_type: TYPE_FP32 dims: [ 5 ] }\n'
    )
    with running_server(repository, tmp_path_factory.mktemp("server"), *request.param.split()) as started:
        yield started


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's client, unchanged."""
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


def tensor(name: str, array: Any) -> triton.InferInput:
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def status(caught: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(caught.value.status()).removeprefix("StatusCode.")


def test_answers_are_the_models(client: triton.InferenceServerClient) -> None:
    """A request is answered by the model that it names, with its id and the version that ran."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = client.infer("scale", [tensor("x", x)], request_id="seven")
    np.testing.assert_array_equal(answer.as_numpy("y"), 2 * x)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "scale", "1")


@pytest.mark.parametrize("name", DATATYPES)
def test_every_datatype_passes_unchanged(client: triton.InferenceServerClient, name: str) -> None:
    """Each datatype of the protocol goes in and comes out bit for bit."""
    if name == "BYTES":
        x = np.array([["caf\u00e9".encode(), b""], [b"a", b"long" * 100]], np.object_)
    else:
        x = np.array([[0, 1], [1, 0]]).astype(DATATYPES[name][1])
    y = client.infer(f"identity_{name.lower()}", [tensor("x", x)]).as_numpy("y")
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_classification_gives_labels(client: triton.InferenceServerClient) -> None:
    """Output parameter classification = k gives value:index:label, highest first."""
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 1] = 255
    image[0, 2] = 51
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    answer = client.infer("tiny", [tensor("image", image)], outputs=[wanted])
    assert answer.as_numpy("logits").tolist() == [[b"255.000000:1:row 1", b"51.000000:2:row 2"]]


def test_outputs_come_in_the_order_asked_for(client: triton.InferenceServerClient) -> None:
    """The answer holds the outputs asked for, in that order; all of them where none is named."""
    image = tensor("image", np.zeros((1, 8, 8, 1), np.uint8))
    names = [triton.InferRequestedOutput(each) for each in ("probabilities", "logits")]
    asked = client.infer("tiny", [image], outputs=names).get_response()
    assert [each.name for each in asked.outputs] == ["probabilities", "logits"]
    everything = client.infer("tiny", [image]).get_response()
    assert [each.name for each in everything.outputs] == ["logits", "probabilities"]


def test_metadata_and_configuration_agree(client: triton.InferenceServerClient) -> None:
    """ModelMetadata has the batch dimension, ModelConfig has not; names are the same."""
    metadata = client.get_model_metadata("tiny", as_json=True)
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "1"]}]
    config = client.get_model_config("tiny", as_json=True)["config"]
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == ["8", "8", "1"]
    assert [each["name"] for each in config["output"]] == [each["name"] for each in metadata["outputs"]]


def test_a_graph_without_configuration_is_filled_in(client: triton.InferenceServerClient) -> None:
    """Without config.pbtxt the configuration is read off the graph."""
    config = client.get_model_config("scale", as_json=True)["config"]
    assert config["max_batch_size"] == 32
    assert config["input"][0]["dims"] == ["4"]
    unbatched = client.get_model_config("unbatched", as_json=True)["config"]
    assert "max_batch_size" not in unbatched
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(client.infer("unbatched", [tensor("x", x)]).as_numpy("y"), x)


def test_live_ready_and_server_metadata(client: triton.InferenceServerClient) -> None:
    """The server is live; it is not ready while a model that it should serve is not; good models are."""
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("truncated")
    metadata = client.get_server_metadata()
    assert metadata.name == "netweight"
    assert "classification" in metadata.extensions


BAD_REQUESTS: dict[str, tuple[str, list[Any], dict[str, Any], str, str]] = {
    "unknown model": ("nosuch", [np.zeros((1, 4), np.float32)], {}, "NOT_FOUND", "nosuch"),
    "unknown version": ("scale", [np.zeros((1, 4), np.float32)], {"model_version": "9"}, "NOT_FOUND", "version 9"),
    "no version": ("scale", [np.zeros((1, 4), np.float32)], {"model_version": "a"}, "INVALID_ARGUMENT", "positive"),
    "not ready": ("truncated", [np.zeros((1, 4), np.float32)], {}, "UNAVAILABLE", "truncated"),
    "rank": ("scale", [np.zeros(4, np.float32)], {}, "INVALID_ARGUMENT", "FP32 [4]; expected x: FP32 [-1,4]"),
    "extent": ("scale", [np.zeros((1, 5), np.float32)], {}, "INVALID_ARGUMENT", "FP32 [1,5]; expected x: FP32 [-1,4]"),
    "datatype": ("scale", [np.zeros((1, 4), np.float64)], {}, "INVALID_ARGUMENT", "FP64 [1,4]; expected x: FP32"),
    "batch": ("scale", [np.zeros((33, 4), np.float32)], {}, "INVALID_ARGUMENT", "33; expected 1 to max_batch_size 32"),
    "empty batch": ("scale", [np.zeros((0, 4), np.float32)], {}, "INVALID_ARGUMENT", "batch size 0"),
    "missing input": ("scale", [], {}, "INVALID_ARGUMENT", "expected exactly x"),
    "duplicate input": ("scale", [np.zeros((1, 4), np.float32)] * 2, {}, "INVALID_ARGUMENT", "'x' is given twice"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_are_answered_in_one_line(client: triton.InferenceServerClient, case: str) -> None:
    """A request that does not fit is refused with the contract's status, and told what was expected and what came."""
    model, arrays, options, code, text = BAD_REQUESTS[case]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor("x", array) for array in arrays], **options)
    assert status(caught) == code
    assert text in caught.value.message()
    assert "\n" not in caught.value.message()


def test_wrong_names_are_refused(client: triton.InferenceServerClient) -> None:
    """An input or output that the model has not is named, with those that it has."""
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(InferenceServerException, match=r"got inputs \['z'\]; expected exactly x: FP32 \[-1,4\]"):
        client.infer("scale", [tensor("z", x)])
    with pytest.raises(InferenceServerException, match=r"got output 'z'; expected one of \['y'\]"):
        client.infer("scale", [tensor("x", x)], outputs=[triton.InferRequestedOutput("z")])


def test_the_wrong_number_of_bytes_is_refused(client: triton.InferenceServerClient) -> None:
    """Raw contents whose length is not the shape's are refused, with both numbers."""
    short = tensor("x", np.zeros((1, 4), np.float32))
    short._raw_content = b"1234567"
    with pytest.raises(InferenceServerException, match=r"'x' of FP32 \[1,4\] needs 16 bytes, got 7") as caught:
        client.infer("scale", [short])
    assert status(caught) == "INVALID_ARGUMENT"


def test_broken_models_leave_the_others_serving(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """A truncated file and a contradicting configuration are each named in one line; the rest is served."""
    assert server.models - server.models_ready == 2
    lines = [line for line in server.log().splitlines() if "cannot be served" in line]
    assert len(lines) == 2
    assert "config.pbtxt: input 'x' has dims [5]; the graph has [4] without the batch" in lines[0]
    assert "truncated version 1" in lines[1]
    with pytest.raises(InferenceServerException, match="dims"):
        client.get_model_metadata("contradicting")


def test_callers_get_their_own_answers(server: RunningServer) -> None:
    """Under load from many callers, batches form and nobody gets another's answer."""
    errors: list[str] = []

    def call(caller: int) -> None:
        with Client(server.address) as own:
            for turn in range(60):
                rows = 1 + (caller + turn) % 3
                x = np.full((rows, 4), caller * 1000 + turn, np.float32)
                y = own.infer("scale", {"x": x}).outputs["y"]
                if not np.array_equal(y, 2 * x):
                    errors.append(f"caller {caller}, turn {turn}: {y}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(16)))
    assert errors == []


def test_batches_form_while_the_session_is_busy(server: RunningServer) -> None:
    """Requests that come during an execution run together in the next one, and the metrics show it."""
    x = np.random.default_rng(0).normal(size=(1, 256, 256)).astype(np.float32)
    before = (
        server.metric("netweight_executions_total", model="slow"),
        server.metric("netweight_inferences_total", model="slow"),
    )

    def call(_: int) -> None:
        with Client(server.address) as own:
            np.testing.assert_allclose(own.infer("slow", {"x": x}).outputs["y"], x, rtol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(24)))
    executions = server.metric("netweight_executions_total", model="slow") - before[0]
    assert server.metric("netweight_inferences_total", model="slow") - before[1] == 24
    assert executions < 24
    assert server.metric("netweight_batch_size_count", model="slow") == executions + before[0]


def test_requests_of_different_extents_do_not_mix(client: triton.InferenceServerClient) -> None:
    """A model with a free extent answers each request in its own shape, also when several wait together."""
    done = threading.Semaphore(0)
    answers: dict[int, Any] = {}

    def finished(extent: int, result: Any, error: Any) -> None:
        answers[extent] = error or result.as_numpy("y")
        done.release()

    for extent in range(1, 21):
        x = np.full((1, extent), extent, np.float32)
        client.async_infer("free", [tensor("x", x)], lambda result, error, n=extent: finished(n, result, error))
    for _ in range(20):
        assert done.acquire(timeout=20)
    for extent, y in answers.items():
        np.testing.assert_array_equal(y, np.full((1, extent), extent, np.float32))


def test_both_names_of_the_service_answer(server: RunningServer) -> None:
    """The protocol's service name and our own are the same service; the stub speaks to our own."""
    with Client(server.address) as own:
        assert own.live()
        assert own.ready("tiny")
        metadata = own.metadata("tiny")
        assert str(metadata.inputs[0]) == "image: UINT8 [-1,8,8,1]"
        with pytest.raises(ClientError, match="'nosuch' is unknown") as caught:
            own.infer("nosuch", {})
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("options", ["--way direct", "--way direct --inline-microseconds 0", "--way ordinary"])
def test_a_connection_takes_any_number_of_calls(tmp_path: Path, options: str) -> None:
    """A call that is answered is over: it does not count among those that are in flight on its connection."""
    graphs.scale(tmp_path / "models")
    x = np.ones((1, 4), np.float32)
    with (
        running_server(tmp_path / "models", tmp_path, *options.split(), "--max-connection-calls", "4") as running,
        Client(running.address) as own,
    ):
        for _ in range(50):
            np.testing.assert_array_equal(own.infer("scale", {"x": x}).outputs["y"], 2 * x)


def test_answered_requests_leave_no_memory(server: RunningServer) -> None:
    """A request's tensors are gone when it is answered, not when the interpreter looks for garbage."""
    engine = psutil.Process(server.process.pid)
    processes = [engine, *engine.children()]
    x = np.zeros((1, 150_000), np.float32)

    def own_bytes() -> int:
        return sum(each.memory_full_info().uss for each in processes)

    with Client(server.address) as own:
        for _ in range(30):
            own.infer("free", {"x": x})
        before = own_bytes()
        for _ in range(200):
            own.infer("free", {"x": x})
    assert own_bytes() - before < 50 * x.nbytes

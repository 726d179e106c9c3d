"""A repository that was written for Triton's onnxruntime backend, loaded by the real process, asked by tritonclient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format, text_format
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as their_pb
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from server.pb import model_config_pb2 as pb
from server.providers import cuda_absence
from tests import graphs, triton_repository
from tests.servers import RunningServer, running_server

MODELS = 9


@pytest.fixture(scope="module", params=["", "--frontends 2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the whole repository."""
    repository = triton_repository.make(tmp_path_factory.mktemp("repository"))
    with running_server(repository, tmp_path_factory.mktemp("server"), *request.param.split()) as started:
        yield started


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as opened:
        yield opened


def infer(client: triton.InferenceServerClient, model: str, version: str = "", **inputs: Any) -> triton.InferResult:
    """Send arrays as they are."""
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return client.infer(model, tensors, model_version=version)


def test_every_model_is_served(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """All of them load, two versions of one, and the server is ready."""
    assert (server.models_ready, server.models) == (MODELS + 1, MODELS + 1), server.log()
    assert client.is_server_ready()


def test_without_a_configuration(client: triton.InferenceServerClient) -> None:
    """The graph alone tells what goes in and out; it batches."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(infer(client, "plain", x=x).as_numpy("y"), 2 * x)
    config = client.get_model_config("plain").config
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert config.version_policy.latest.num_versions == 1


def test_a_graph_of_one_picture(client: triton.InferenceServerClient) -> None:
    """A reshape adds and removes extents around a graph that takes one picture; labels come with classification."""
    metadata = client.get_model_metadata("one_picture")
    assert [list(each.shape) for each in (*metadata.inputs, *metadata.outputs)] == [[3, 2, 2], [2]]
    x = np.zeros((3, 2, 2), np.float32)
    x[0], x[1] = 1, 3
    answer = infer(client, "one_picture", data_0=x).as_numpy("fc6_1")
    np.testing.assert_allclose(answer, [1, 3])
    tensor = triton.InferInput("data_0", x.shape, "FP32").set_data_from_numpy(x)
    classes = client.infer("one_picture", [tensor], outputs=[triton.InferRequestedOutput("fc6_1", class_count=2)])
    assert classes.as_numpy("fc6_1").ravel().tolist() == [b"3.000000:1:green", b"1.000000:0:red"]
    with pytest.raises(InferenceServerException, match=r"got input 'data_0' as FP32 \[1,3,2,2\]; expected .*\[3,2,2\]"):
        infer(client, "one_picture", data_0=x[np.newaxis])


def test_numbers_of_no_extent(client: triton.InferenceServerClient) -> None:
    """An empty reshape: callers send [batch,1]; requests that wait together are one batch, each with its own answer."""
    x = np.array([[1], [2], [3]], np.int64)
    np.testing.assert_array_equal(infer(client, "scalars", x=x).as_numpy("total"), 2 * x)
    answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    for number in range(4):
        tensor = triton.InferInput("x", [1, 1], "INT64").set_data_from_numpy(np.array([[number]], np.int64))
        client.async_infer("scalars", [tensor], lambda result, error: answers.put((result, error)))
    got = [answers.get(timeout=20) for _ in range(4)]
    assert [error for _, error in got if error] == []
    assert sorted(result.as_numpy("total").tolist() for result, _ in got) == [[[0]], [[2]], [[4]], [[6]]]


@pytest.mark.parametrize("rows", [1, 5])
def test_open_extents_are_matched_in_order(client: triton.InferenceServerClient, rows: int) -> None:
    """The n-th -1 of dims is the n-th of reshape, on both sides of the graph."""
    x = np.random.default_rng(rows).normal(size=(3, 2, rows, 6)).astype(np.float32)
    answer = infer(client, "open_extents", x=x).as_numpy("y")
    np.testing.assert_array_equal(answer, x.reshape(3, 2, rows, 3, 2))


def test_versions_and_warm_up(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """The policy's versions are served, the newest by default; samples that ran before are not counted as requests."""
    x = np.ones((2, 4), np.float32)
    for version, factor in (("", 3), ("1", 1), ("3", 3)):
        np.testing.assert_array_equal(infer(client, "busy", version, x=x).as_numpy("y"), factor * x)
    with pytest.raises(InferenceServerException, match="no version 2"):
        infer(client, "busy", "2", x=x)
    first = client.get_inference_statistics("busy", "1").model_stats[0]
    assert (first.execution_count, first.inference_count) == (1, 2)
    config = client.get_model_config("busy").config
    assert [each.name for each in config.model_warmup] == ["zeros", "random", "file"]
    assert config.dynamic_batching.priority_queue_policy[1].timeout_action == their_pb.ModelQueuePolicy.DELAY
    assert "busy" not in [
        line.split("model ")[-1].split(":")[0] for line in server.log().splitlines() if "WARN" in line
    ]


def test_a_directory_of_a_model(client: triton.InferenceServerClient) -> None:
    """model.onnx may be a directory with the graph and its weights."""
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(infer(client, "folder", x=x).as_numpy("y"), 5 * x)


def test_an_optional_input(client: triton.InferenceServerClient) -> None:
    """A weight that the configuration lists as an optional input may be given, or not."""
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(infer(client, "replaceable", x=x).as_numpy("y"), 3 * x)
    np.testing.assert_array_equal(infer(client, "replaceable", x=x, factor=x).as_numpy("y"), x * x)
    with pytest.raises(InferenceServerException, match=r"got inputs \['factor'\]; expected exactly .*\(optional\)"):
        infer(client, "replaceable", factor=x)


def test_texts(client: triton.InferenceServerClient) -> None:
    """TYPE_STRING, with an open extent; the listed output says that the model batches."""
    x = np.array([["a", "bc", ""]], np.object_)
    assert infer(client, "texts", x=x).as_numpy("y").tolist() == [[b"a", b"bc", b""]]
    assert client.get_model_config("texts").config.max_batch_size == 32


def test_what_is_not_acted_on_is_named(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """Fields that are not acted on, and those that are not known, are named in one line; the model is served."""
    (line,) = [each for each in server.log().splitlines() if "model later" in each and "not acted on" in each]
    for field in (
        "instance_group.rate_limiter",
        "response_cache",
        "metric_tags",
        "optimization.priority",
        "parameters.TRITON_UNHEARD_OF",
        "instance_group.gpus beyond the first, 0",
        "input.colour",
        "scheduling_of_tomorrow",
    ):
        assert field in line
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(infer(client, "later", x=x).as_numpy("y"), 7 * x)


@pytest.mark.parametrize(
    "name", ["plain", "one_picture", "scalars", "open_extents", "busy", "folder", "replaceable", "texts", "later"]
)
def test_configurations_are_tritons(client: triton.InferenceServerClient, name: str) -> None:
    """What ModelConfig answers is Triton's message with no field left over; as JSON and as text it is the same again."""
    config = client.get_model_config(name).config
    assert left_over(config) == []
    assert text_format.Parse(text_format.MessageToString(config), pb.ModelConfig()).name == name
    assert left_over(pb.ModelConfig.FromString(config.SerializeToString())) == []
    as_json = client.get_model_config(name, as_json=True)["config"]
    assert json_format.ParseDict(as_json, their_pb.ModelConfig()) == config


def left_over(message: Any) -> list[str]:
    """Return the messages in this one, by their types' names, that hold fields of unknown numbers."""
    found = [message.DESCRIPTOR.name] if len(UnknownFieldSet(message)) else []
    for field, value in message.ListFields():
        if field.message_type is not None:
            is_map = field.message_type.GetOptions().map_entry
            parts = value.values() if is_map else value if field.is_repeated else [value]
            found += [name for part in parts if hasattr(part, "DESCRIPTOR") for name in left_over(part)]
    return found


WARM_UP = 'model_warmup {{ name: "first" batch_size: {} inputs {{ key: "{}" value {{ {} }} }} }}'
FOUR = "data_type: TYPE_FP32 dims: 4"
BAD = {
    "wrong_input": (
        WARM_UP.format(1, "z", f"{FOUR} zero_data: true"),
        "got inputs ['z']; expected exactly x: FP32 [-1,4]",
    ),
    "wrong_dims": (
        WARM_UP.format(1, "x", "data_type: TYPE_FP32 dims: 5 zero_data: true"),
        "got input 'x' as FP32 [1,5]",
    ),
    "wrong_type": (
        WARM_UP.format(1, "x", "data_type: TYPE_INT64 dims: 4 zero_data: true"),
        "got input 'x' as INT64 [1,4]",
    ),
    "no_type": (WARM_UP.format(1, "x", "dims: 4 zero_data: true"), "input 'x' has data_type INVALID"),
    "open_dims": (WARM_UP.format(1, "x", "data_type: TYPE_FP32 dims: -1 zero_data: true"), "input 'x' has dims [-1]"),
    "no_data": (WARM_UP.format(1, "x", FOUR), "input 'x' has no data; expected zero_data"),
    "no_file": (WARM_UP.format(1, "x", f'{FOUR} input_data_file: "no"'), "warmup/no cannot be read: No such file"),
    "short_file": (WARM_UP.format(1, "x", f'{FOUR} input_data_file: "short"'), "needs 16 bytes, got 5"),
    "climbing_file": (WARM_UP.format(1, "x", f'{FOUR} input_data_file: "../short"'), "input_data_file '../short'"),
    "large_batch": (
        WARM_UP.format(9, "x", f"{FOUR} zero_data: true"),
        "has batch_size 9; expected 1 to max_batch_size 8",
    ),
    "many_runs": (
        WARM_UP.format(1, "x", f"{FOUR} zero_data: true").replace("inputs", "count: 10001 inputs"),
        "has count 10001; expected at most 10000",
    ),
    "large_dims": (
        WARM_UP.format(1, "x", "data_type: TYPE_FP32 dims: [ 99999, 99999 ] zero_data: true"),
        "expected at most 67108864 elements",
    ),
}
REFUSED = {
    "sequence": ("sequence_batching { }", "has sequence_batching, which this server does not do"),
    "ragged": ('input { name: "x" allow_ragged_batch: true }', "has input.allow_ragged_batch, which this server"),
    "batch_of_none": ("max_batch_size: 8 dynamic_batching { preferred_batch_size: 9 }", "preferred_batch_size [9]"),
    "typo": ("max_batch_size: 8\ninput {", "config.pbtxt cannot be read: 2:7"),
    "unlabelled": (
        'max_batch_size: 8 output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "no.txt" }',
        "label_filename 'no.txt' cannot be read",
    ),
}


def test_what_cannot_be_served_is_told_and_leaves_the_others(tmp_path: Path) -> None:
    """A bad warm-up sample, which is named, a refused field and a contradiction are one line each; the rest is served."""
    for name, (text, _) in (BAD | REFUSED).items():
        directory = graphs.scale(tmp_path, name).parents[1]
        (directory / "warmup").mkdir()
        (directory / "warmup" / "short").write_bytes(b"12345")
        triton_repository.configure(tmp_path, name, f"max_batch_size: 8\n{text}" if name in BAD else text)
    graphs.save(
        tmp_path / "failing" / "1" / "model.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        {"table": np.ones(2, np.float32)},
    )
    beyond_the_table = WARM_UP.format(1, "x", "data_type: TYPE_INT64 dims: 1 random_data: true")
    triton_repository.configure(tmp_path, "failing", f"max_batch_size: 8\n{beyond_the_table}")
    graphs.scale(tmp_path, "good")
    skipped = WARM_UP.format(0, "x", FOUR)
    triton_repository.configure(tmp_path, "good", f"max_batch_size: 8\n{skipped}")
    with running_server(tmp_path, tmp_path) as server, triton.InferenceServerClient(server.address) as client:
        assert server.models_ready == 1
        lines = server.log().splitlines()
        assert any("model_warmup 'first' has batch_size 0: it is not run" in line for line in lines)
        for name, (_, why) in (BAD | REFUSED).items():
            (line,) = [line for line in lines if f"model {name} version 1" in line]
            assert why in line, line
            assert ("config.pbtxt: model_warmup 'first'" in line) == (name in BAD), line
        (line,) = [line for line in lines if "model failing version 1" in line]
        assert "config.pbtxt: model_warmup 'first': execution failed: " in line
        x = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(infer(client, "good", x=x).as_numpy("y"), 2 * x)


def test_kinds_of_instances(tmp_path: Path) -> None:
    """KIND_CPU is the CPU even if the server's provider is CUDA; any other kind is refused without one, with the cause."""
    for kind in ("KIND_CPU", "KIND_GPU", "KIND_AUTO"):
        graphs.scale(tmp_path, kind.lower())
        triton_repository.configure(tmp_path, kind.lower(), f"max_batch_size: 4 instance_group {{ kind: {kind} }}")
    with (
        running_server(tmp_path, tmp_path, "--provider", "cuda") as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        assert "model kind_cpu version 1: ready on CPUExecutionProvider" in server.log()
        x = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(infer(client, "kind_cpu", x=x).as_numpy("y"), 2 * x)
        assert server.models_ready == (1 if cuda_absence() else 3)
        if cuda_absence():
            for name in ("kind_gpu", "kind_auto"):
                (line,) = [line for line in server.log().splitlines() if f"model {name} version 1" in line]
                assert "cannot be served: provider is cuda, but the model would run on CPUExecutionProvider" in line

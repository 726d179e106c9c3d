"""Load against the real server: its parameters, and models whose files and configurations are spoilt."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from google.protobuf import json_format, text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from server.client import infer_request
from server.pb import inference_pb2 as pb
from server.pb import model_config_pb2
from tests import graphs
from tests.fuzz import models
from tests.fuzz.models import VICTIM, WORDS, WORDS_OF_GRAPHS
from tests.fuzz.mutations import edited, mutated
from tests.fuzz.target import Target
from tests.servers import running_server

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
MOST_ADDRESS_SPACE_BYTES = 12 * 2**30
"""Of the server: a file that makes it take memory without end fails this test, not this machine."""
KNOWN_ABORT = "Assertion '!(__hi < __lo)' failed"
"""ONNX Runtime's: see `test_onnx_runtime_aborts_on_a_negative_extent`."""
X = np.array([[1, 2, 3, 4]], np.float32)
FEWER = settings(max_examples=max(30, settings().max_examples // 2))


class Loader:
    """A server that loads what it is told to.

    Args:
        directory: where its repository and its log are.
    """

    def __init__(self, directory: Path) -> None:
        self.repository = directory / "models"
        self._directory = directory
        self._running = ExitStack()
        graphs.scale(self.repository)
        (self.repository / VICTIM / "1").mkdir(parents=True)
        self.target = self._start()

    def _start(self) -> Target:
        options = ("--model-control", "explicit", "--model", "scale")
        running = self._running.enter_context(running_server(self.repository, self._directory, *options))
        return self._running.enter_context(Target(running, MOST_ADDRESS_SPACE_BYTES))

    def close(self) -> None:
        """Stop it."""
        self._running.close()

    def load_graph(self) -> None:
        """Load the victim, whose graph is spoilt, and ask it; begin anew where ONNX Runtime aborts as it is known to."""
        self.put("config.pbtxt", b"")
        try:
            self.load_and_infer()
        except grpc.RpcError:
            if self.target.server.process.wait(10) != -signal.SIGABRT or KNOWN_ABORT not in self.target.server.log():
                raise
            self.close()
            self.target = self._start()

    def load(self, message: pb.RepositoryModelLoadRequest) -> bool:
        """Send a Load; return whether it was carried out, and the model then answers."""
        path = "/inference.GRPCInferenceService/RepositoryModelLoad"
        answer = self.target.send(message.SerializeToString(), path, pb.RepositoryModelLoadResponse)
        if not isinstance(answer, pb.RepositoryModelLoadResponse):
            return False
        self.unload(message.model_name)
        return True

    def load_and_infer(self, waits: bool = False) -> Any:
        """Load the victim as it lies there and ask it; return its answer, None if it cannot be loaded."""
        path = "/inference.GRPCInferenceService/RepositoryModelLoad"
        load = pb.RepositoryModelLoadRequest(model_name=VICTIM)
        loaded = self.target.send(load.SerializeToString(), path, pb.RepositoryModelLoadResponse)
        if not isinstance(loaded, pb.RepositoryModelLoadResponse):
            return None
        request = infer_request(VICTIM, {"x": X}).SerializeToString()
        answer = None if waits else self.target.send(request, graph_may_fail=True)
        self.unload(VICTIM)
        return answer

    def unload(self, name: str) -> None:
        """Unload a model, and see that it can be done."""
        path = "/inference.GRPCInferenceService/RepositoryModelUnload"
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        answer = self.target.send(request.SerializeToString(), path, pb.RepositoryModelUnloadResponse)
        assert isinstance(answer, pb.RepositoryModelUnloadResponse)

    def put(self, name: str, content: bytes) -> None:
        """Write one of the victim's files."""
        (self.repository / VICTIM / name).write_bytes(content)

    def restore(self) -> None:
        """Write the victim's files as they should be."""
        self.put("1/model.onnx", models.graph())
        self.put("1/card.json", models.card().encode())
        self.put("config.pbtxt", text_format.MessageToString(models.config()).encode())
        self.put("labels.txt", b"a\nb\nc\nd\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """A real server that calls decide over, with one model that is left alone."""
    loader = Loader(tmp_path_factory.mktemp("load"))
    try:
        yield loader
    finally:
        loader.close()


@pytest.fixture
def loader(server: Loader) -> Loader:
    """The server, with the victim whole again."""
    server.restore()
    return server


@given(st.sampled_from(models.loads()).flatmap(lambda each: edited(each, WORDS)))
def test_any_load_is_answered(loader: Loader, message: pb.RepositoryModelLoadRequest) -> None:
    """Whatever a Load's parameters are: done or refused; nothing is written beside the repository."""
    if message.repository_name:
        message.ClearField("repository_name")  # refused whatever else there is
    before = _all_files(loader.repository.parent)
    loader.load(message)
    assert _all_files(loader.repository.parent) == before


@given(edited(models.config(), WORDS))
def test_any_configuration_file_is_loaded_or_refused(loader: Loader, config: model_config_pb2.ModelConfig) -> None:
    """Whatever a configuration says: the model is refused, or answers as its graph says."""
    loader.put("config.pbtxt", text_format.MessageToString(config).encode())
    _hold(loader.load_and_infer(waits=_waits(config)))


@given(edited(models.config(), WORDS))
def test_any_configuration_in_a_call_is_loaded_or_refused(loader: Loader, config: model_config_pb2.ModelConfig) -> None:
    """The same as JSON, beside a file."""
    message = pb.RepositoryModelLoadRequest(model_name="fresh")
    config.ClearField("name")
    del config.output[:]
    message.parameters["config"].string_param = json_format.MessageToJson(config)
    message.parameters["file:1/model.onnx"].bytes_param = models.graph()
    loader.load(message)


@given(mutated(text_format.MessageToString(models.config()).encode()))
def test_any_text_is_a_configuration_or_refused(loader: Loader, text: bytes) -> None:
    """A configuration that was cut, doubled, overwritten: refused, or the model answers as its graph says."""
    loader.put("config.pbtxt", text)
    _hold(loader.load_and_infer())


@given(st.sampled_from((models.graph(), models.shapes())).flatmap(mutated))
def test_any_graph_is_loaded_or_refused(loader: Loader, content: bytes) -> None:
    """Spoilt ONNX files: ONNX Runtime refuses them, or whatever they are now runs; the process lives on."""
    loader.put("1/model.onnx", content)
    loader.load_graph()


@given(
    st.sampled_from((models.graph(), models.shapes())).flatmap(
        lambda each: edited(onnx.load_from_string(each), WORDS_OF_GRAPHS)
    )
)
def test_any_graph_of_onnx_is_loaded_or_refused(loader: Loader, model: onnx.ModelProto) -> None:
    """ONNX files that are well formed and make no sense."""
    loader.put("1/model.onnx", model.SerializeToString())
    loader.load_graph()


@FEWER
@given(st.sampled_from(("labels.txt", "1/card.json")), mutated(models.card().encode()) | st.binary(max_size=64))
def test_any_bytes_beside_the_graph(loader: Loader, name: str, content: bytes) -> None:
    """Labels and cards that are garbage: the model is refused, or answers as its graph says."""
    loader.put(name, content)
    _hold(loader.load_and_infer())


def test_onnx_runtime_aborts_on_a_negative_extent(tmp_path: Path) -> None:
    """Found, and not ours to mend: a graph that slices an extent below zero ends the process that opens it.

    When this fails, ONNX Runtime has learned to refuse it: KNOWN_ABORT, and what docs/fuzzing.md says of it, can go.
    """
    path = graphs.aborting(tmp_path)
    program = f"import onnxruntime; onnxruntime.InferenceSession({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert KNOWN_ABORT in done.stderr


def test_a_name_that_is_no_text_is_refused(loader: Loader) -> None:
    """Found: an extent's name that is no UTF-8 was a failure of the server's own."""
    loader.put("config.pbtxt", b"")
    loader.put("1/model.onnx", models.shapes().replace(b"batch", b"bat\xffh"))
    assert loader.load_and_infer() is None


def test_warm_ups_without_end_are_refused(loader: Loader) -> None:
    """Found: a sample that is to be run four thousand million times before the model is READY was begun."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(models.config())
    config.model_warmup[0].count = 2**32 - 1
    loader.put("config.pbtxt", text_format.MessageToString(config).encode())
    assert loader.load_and_infer() is None


def _hold(answer: Any) -> None:
    if isinstance(answer, pb.ModelInferResponse):
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6, 8]


def _waits(config: model_config_pb2.ModelConfig) -> bool:
    """Whether a single request may have to wait for others, as the configuration says."""
    return config.dynamic_batching.max_queue_delay_microseconds > models.LONG_DELAY_MICROSECONDS


def _all_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.name != "server.log")

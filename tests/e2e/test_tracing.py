"""Tracing, against a real OTLP receiver; the settings of tracing and of the log, by tritonclient."""

from __future__ import annotations

import hashlib
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from server.client import infer_request
from server.pb import inference_pb2 as pb
from server.tokens import CHECK_SECONDS
from tests import graphs
from tests.otlp import Receiver, Request, receiving
from tests.servers import RunningServer, running_server

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PARTS = ["decode", "queue", "assemble", "compute", "output"]
WAYS = {"direct": (), "ordinary": ("--way", "ordinary"), "frontends": ("--frontends", "2")}
SLOW = np.ones((1, 256, 256), np.float32)


class Caller:
    """Asks a server, in traces of its own."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.call = self.channel.unary_unary(
            MODEL_INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

    def infer(self, model: str = "scale", x: Any = None, *metadata: tuple[str, str], request_id: str = "") -> Any:
        """Send a request; return its answer, which is yet to come."""
        request = infer_request(model, {"x": np.ones((1, 4), np.float32) if x is None else x})
        request.id = request_id
        return self.call.future(request, timeout=60, metadata=metadata)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, one like it, and one that takes a part of a second."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    graphs.scale(made, "other")
    graphs.slow(made, rounds=1500)
    return made


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@contextmanager
def traced(
    repository: Path, directory: Path, endpoint: str, *options: str, **environment: str
) -> Iterator[RunningServer]:
    """Start a server that traces, and sends spans soon."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"OTEL_BSP_SCHEDULE_DELAY": "50", **environment}.items():
            patch.setenv(name, value)
        with running_server(repository, directory, "--trace-endpoint", f"http://{endpoint}", *options) as started:
            yield started


@pytest.fixture(scope="module", params=list(WAYS))
def server(
    repository: Path, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Iterator[RunningServer]:
    """A server that traces, for each way that a request takes."""
    directory = tmp_path_factory.mktemp("server")
    with traced(repository, directory, receiver.address, *WAYS[request.param]) as started:
        yield started


@pytest.fixture
def caller(server: RunningServer) -> Iterator[Caller]:
    one = Caller(server.address)
    with one.channel:
        yield one


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    with triton.InferenceServerClient(server.address) as one:
        yield one


def parent(*, sampled: bool = True) -> tuple[str, str, tuple[str, str]]:
    """Make a caller's span: its trace, itself, and the metadata that tells of it."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, ("traceparent", f"00-{trace_id}-{span_id}-{int(sampled):02}")


def of_trace(trace_id: str) -> Callable[[Request], bool]:
    return lambda request: request.trace_id == trace_id


def named(request_id: str) -> Callable[[Request], bool]:
    return lambda request: request.attributes.get("netweight.request.id") == request_id


def test_a_request_is_a_span_in_its_callers_trace(caller: Caller, receiver: Receiver) -> None:
    """The span is below the caller's, of the same trace and state, and says what was called and what ran."""
    trace_id, span_id, metadata = parent()
    before = time.time_ns()
    caller.infer("scale", np.ones((3, 4), np.float32), metadata, ("tracestate", "a=b,c=d"), request_id="one").result()
    after = time.time_ns()
    (request,) = receiver.wait(of_trace(trace_id))
    span = request.span
    assert (span.name, span.parent_span_id.hex()) == ("inference.GRPCInferenceService/ModelInfer", span_id)
    assert span.trace_state == "a=b,c=d"
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert request.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "rpc.response.status_code": "OK",
        "netweight.model.name": "scale",
        "netweight.model.version": "1",
        "netweight.request.id": "one",
        "netweight.request.samples": 3,
        "netweight.batch.size": 3,
    }
    assert request.resource["service.name"] == "netweight"
    slack = 50_000_000  # ns: the server's clocks are read once, at its start
    assert before - slack < span.start_time_unix_nano < span.end_time_unix_nano < after + slack


def test_the_parts_fill_their_request(caller: Caller, receiver: Receiver) -> None:
    """decode, queue, assemble, compute and output follow each other without a gap, from beginning to end."""
    trace_id, _, metadata = parent()
    caller.infer("slow", SLOW, metadata).result()
    (request,) = receiver.wait(of_trace(trace_id))
    span, parts = request.span, request.parts
    assert [part.name for part in parts] == PARTS
    assert all(part.trace_id == span.trace_id for part in parts)
    assert all(one.end_time_unix_nano == other.start_time_unix_nano for one, other in pairwise(parts))
    assert parts[0].start_time_unix_nano == span.start_time_unix_nano
    assert parts[-1].end_time_unix_nano == span.end_time_unix_nano
    lengths = {part.name: part.end_time_unix_nano - part.start_time_unix_nano for part in parts}
    assert all(length >= 0 for length in lengths.values())
    assert lengths["compute"] == max(lengths.values())


def test_waiting_shows_in_the_queue(caller: Caller, receiver: Receiver) -> None:
    """Requests that waited for a run have it in their queue's span, and share the next batch."""
    first = parent()
    answers = [caller.infer("slow", SLOW, first[2])]
    time.sleep(0.2)  # it runs
    others = [parent() for _ in range(3)]
    answers += [caller.infer("slow", SLOW, each[2]) for each in others]
    for each in answers:
        each.result()
    (ran,) = receiver.wait(of_trace(first[0]))
    waited = [receiver.wait(of_trace(each[0]))[0] for each in others]
    run_ends = next(part.end_time_unix_nano for part in ran.parts if part.name == "compute")
    assert all(next(p for p in each.parts if p.name == "queue").end_time_unix_nano >= run_ends for each in waited)
    assert ran.attributes["netweight.batch.size"] == 1
    assert max(each.attributes["netweight.batch.size"] for each in waited) > 1


def test_without_a_context_a_trace_begins(caller: Caller, receiver: Receiver) -> None:
    """A request without a context, or with one that is none, is the root of a trace of its own."""
    for number, value in enumerate(("", "00-00000000000000000000000000000000-0000000000000000-01", "nonsense")):
        name = f"{number}-{secrets.token_hex(4)}"
        metadata = (("traceparent", value),) if value else ()
        caller.infer("scale", None, *metadata, request_id=name).result()
        (request,) = receiver.wait(named(name))
        assert not request.span.parent_span_id
        assert request.trace_id != "0" * 32


def test_a_trace_that_the_caller_drops_is_dropped(caller: Caller, receiver: Receiver) -> None:
    """A request whose caller does not keep its trace has no span."""
    dropped, _, metadata = parent(sampled=False)
    caller.infer("scale", None, metadata).result()
    kept, _, metadata = parent()
    caller.infer("scale", None, metadata).result()
    receiver.wait(of_trace(kept))
    assert not receiver.requests(of_trace(dropped))


@pytest.mark.parametrize(
    ("model", "width", "code", "version", "parts"),
    [
        ("scale", 5, grpc.StatusCode.INVALID_ARGUMENT, "1", ["decode"]),
        ("nosuch", 4, grpc.StatusCode.NOT_FOUND, "", ["decode"]),
    ],
)
def test_a_failed_request_is_an_error(
    caller: Caller,
    receiver: Receiver,
    model: str,
    width: int,
    code: grpc.StatusCode,
    version: str,
    parts: list[str],
) -> None:
    """Its span has the status of an error, with the code and the message that the caller got."""
    trace_id, span_id, metadata = parent()
    failed = caller.infer(model, np.ones((1, width), np.float32), metadata)
    assert failed.code() is code
    (request,) = receiver.wait(of_trace(trace_id))
    assert request.span.parent_span_id.hex() == span_id
    assert request.span.status.code == request.span.status.STATUS_CODE_ERROR
    assert request.span.status.message == failed.details()
    expected = {"rpc.grpc.status_code": code.value[0], "error.type": code.name, "netweight.model.version": version}
    assert expected.items() <= request.attributes.items()
    assert [part.name for part in request.parts] == parts


def test_a_cancelled_request_is_an_error(server: RunningServer, caller: Caller, receiver: Receiver) -> None:
    """A request that is cancelled while it waits has a span with its time in the queue, and no run."""
    running = caller.infer("slow", SLOW)
    time.sleep(0.2)
    trace_id, _, metadata = parent()
    waiting = caller.infer("slow", SLOW, metadata)
    while not server.metric("netweight_pending_requests", model="slow"):
        assert not waiting.done()
    waiting.cancel()
    running.result()
    (request,) = receiver.wait(of_trace(trace_id))
    assert request.attributes["rpc.response.status_code"] == "CANCELLED"
    assert [part.name for part in request.parts] == ["decode", "queue"]
    assert request.parts[-1].end_time_unix_nano == request.span.end_time_unix_nano


def test_each_request_of_a_stream_is_a_span(caller: Caller, receiver: Receiver) -> None:
    """They are all below the span that the stream's metadata names, the failed one among them."""
    trace_id, span_id, metadata = parent()
    names = ["first", "second", "third"]
    requests = [infer_request("scale", {"x": np.ones((1, width), np.float32)}) for width in (4, 5, 4)]
    for request, name in zip(requests, names, strict=True):
        request.id = name
    stream = caller.channel.stream_stream(
        MODEL_STREAM_INFER, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
    answers = list(stream(iter(requests), timeout=60, metadata=(metadata,)))
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    spans = receiver.wait(of_trace(trace_id), 3)
    assert {each.span.parent_span_id.hex() for each in spans} == {span_id}
    codes = {each.attributes["netweight.request.id"]: each.attributes["rpc.response.status_code"] for each in spans}
    assert codes == {"first": "OK", "second": "INVALID_ARGUMENT", "third": "OK"}


def test_trace_settings_of_a_model_act(caller: Caller, receiver: Receiver, client: Any) -> None:
    """A model whose level is OFF has no spans, others have theirs; cleared, it has them again."""
    initial = {"trace_level": "TIMESTAMPS", "trace_rate": "1", "trace_count": "-1", "trace_mode": "opentelemetry"}
    assert shown(client.get_trace_settings("other")) == shown(client.get_trace_settings()) == initial
    off = client.update_trace_settings("other", {"trace_level": ["OFF"]})
    assert shown(off) == {**initial, "trace_level": "OFF"}
    dropped, _, metadata = parent()
    caller.infer("other", None, metadata).result()
    kept, _, metadata = parent()
    caller.infer("scale", None, metadata).result()
    assert shown(client.update_trace_settings("other", {"trace_level": None})) == initial
    again, _, metadata = parent()
    caller.infer("other", None, metadata).result()
    receiver.wait(of_trace(kept))
    receiver.wait(of_trace(again))
    assert not receiver.requests(of_trace(dropped))


def test_rate_and_count_choose_traces_that_begin_here(caller: Caller, receiver: Receiver, client: Any) -> None:
    """Every second of them, until two were traced; a request in its caller's trace is traced all the same."""
    client.update_trace_settings("other", {"trace_rate": "2", "trace_count": "2"})
    mark = secrets.token_hex(4)
    for number in range(8):
        caller.infer("other", request_id=f"{mark}-{number}").result()
    trace_id, _, metadata = parent()
    caller.infer("other", None, metadata).result()
    assert client.get_trace_settings("other").settings["trace_count"].value == ["0"]
    client.update_trace_settings("other", {"trace_rate": None, "trace_count": None})
    receiver.wait(of_trace(trace_id))
    ids = [str(each.attributes.get("netweight.request.id", "")) for each in receiver.requests()]
    assert sorted(each for each in ids if each.startswith(mark)) == [f"{mark}-1", f"{mark}-3"]


@pytest.mark.parametrize(
    ("model", "settings", "status"),
    [
        ("nosuch", {}, "INVALID_ARGUMENT"),
        ("", {"trace_colour": "red"}, "INVALID_ARGUMENT"),
        ("scale", {"trace_level": ["TENSORS"]}, "INVALID_ARGUMENT"),
        ("", {"trace_file": "trace.json"}, "UNIMPLEMENTED"),
    ],
)
def test_wrong_trace_settings_are_refused(client: Any, model: str, settings: dict[str, Any], status: str) -> None:
    """An unknown model or setting, or a value that is none, is told with its status."""
    with pytest.raises(InferenceServerException) as raised:
        client.update_trace_settings(model, settings)
    assert raised.value.status() == f"StatusCode.{status}"


def test_log_settings_act(server: RunningServer, client: Any) -> None:
    """The log's settings are read and changed by tritonclient, on every way."""
    initial = client.get_log_settings(as_json=True)["settings"]
    assert initial == {
        "log_file": {"string_param": ""},
        "log_info": {"bool_param": True},
        "log_warning": {"bool_param": True},
        "log_error": {"bool_param": True},
        "log_verbose_level": {"uint32_param": 0},
        "log_format": {"string_param": "default"},
    }
    changed = client.update_log_settings({"log_info": False, "log_format": "ISO8601"}, as_json=True)["settings"]
    assert changed == {**initial, "log_info": {"bool_param": False}, "log_format": {"string_param": "ISO8601"}}
    client.update_log_settings({"log_info": True, "log_format": "default", "log_verbose_level": 0})
    assert client.get_log_settings(as_json=True)["settings"] == initial


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"log_colour": True}, "INVALID_ARGUMENT"),
        ({"log_info": None}, "INVALID_ARGUMENT"),
        ({"log_format": "xml"}, "INVALID_ARGUMENT"),
        ({"log_file": "out.log"}, "UNIMPLEMENTED"),
    ],
)
def test_wrong_log_settings_are_refused(client: Any, settings: dict[str, Any], status: str) -> None:
    """An unknown setting, a value of the wrong type, and a log file are told with their status."""
    with pytest.raises(InferenceServerException) as raised:
        client.update_log_settings(settings)
    assert raised.value.status() == f"StatusCode.{status}"


def test_front_ends_follow_the_log_settings(repository: Path, tmp_path: Path) -> None:
    """What a front end logs (here: that it has read the tokens anew) is on and off with the engine's log."""
    file = tmp_path / "tokens"
    line = f"control {hashlib.sha256(b'secret').hexdigest()}\n"
    file.write_text(line, encoding="utf-8")
    headers = {"authorization": "Bearer secret"}
    with (
        running_server(repository, tmp_path, "--frontends", "2", "--tokens", str(file)) as own,
        triton.InferenceServerClient(own.address) as client,
    ):
        for number, shown in enumerate((False, True)):
            client.update_log_settings({"log_info": shown}, headers=headers)
            file.write_text(line + "# more\n" * (number + 1), encoding="utf-8")
            time.sleep(CHECK_SECONDS + 0.1)
            client.get_server_metadata(headers=headers)
            assert ("the tokens were read anew" in own.log()) is shown


def test_the_extensions_tell_of_tracing(client: Any) -> None:
    """ServerMetadata lists `trace` where the server traces, and `logging`."""
    assert {"trace", "logging"} <= set(client.get_server_metadata().extensions)


def test_stopping_sends_what_is_left(repository: Path, receiver: Receiver, tmp_path: Path) -> None:
    """Spans that wait are sent when the server stops; with ratio 0 those of the traces that callers keep."""
    kept, _, metadata = parent()
    mark = secrets.token_hex(4)
    late = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "ours"}
    with traced(repository, tmp_path, receiver.address, "--trace-ratio", "0", **late) as own:
        caller = Caller(own.address)
        with caller.channel:
            for _ in range(5):
                caller.infer(request_id=mark).result()
            caller.infer("scale", None, metadata).result()
        assert not receiver.requests(of_trace(kept))
    (request,) = receiver.requests(of_trace(kept))
    assert request.resource["service.name"] == "ours"
    assert len(request.parts) == len(PARTS)
    assert not receiver.requests(named(mark))


def test_a_receiver_that_is_down_harms_nobody(repository: Path, tmp_path: Path) -> None:
    """Requests are answered, one line tells that no spans arrive, and another that they do when it is there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with traced(repository, tmp_path, address, OTEL_EXPORTER_OTLP_TIMEOUT="1") as own:
        caller = Caller(own.address)
        with caller.channel:
            end = time.monotonic() + 20
            answered = 0
            while "no spans reach" not in own.log():
                caller.infer().result()
                answered += 1
                assert time.monotonic() < end
            for _ in range(100):
                caller.infer().result()
            time.sleep(2.5)  # another export has failed
            caller.infer().result()
            lines = own.log().splitlines()
            assert sum(f"no spans reach http://{address}" in line for line in lines) == 1, own.log()
            assert "Traceback" not in own.log()
            assert "Transient" not in own.log()
            assert own.metric("netweight_requests_total", model="scale", code="OK") == answered + 101
            with receiving(address) as late:
                end = time.monotonic() + 60
                while not late.requests():  # those of an export that was under way are lost
                    caller.infer().result()
                    time.sleep(0.1)
                    assert time.monotonic() < end
                while f"spans reach http://{address} again" not in own.log():
                    assert time.monotonic() < end


def test_a_stop_does_not_wait_for_a_receiver_that_hangs(repository: Path, tmp_path: Path) -> None:
    """A receiver that takes connections and never answers does not keep the server from ending in order."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with traced(repository, tmp_path, address, OTEL_EXPORTER_OTLP_TIMEOUT="600") as own:
            caller = Caller(own.address)
            with caller.channel:
                caller.infer().result()
            assert own.stop() == 0


OFF = """
import sys
from pathlib import Path
from server.app import App
from server.config import Settings
app = App(Settings(repository=Path(sys.argv[1]), grpc_port=0, metrics_port=0))
app.start()
app.stop()
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def test_without_an_endpoint_nothing_is_imported(repository: Path) -> None:
    """A server that does not trace has loaded no module of OpenTelemetry."""
    done = subprocess.run([sys.executable, "-c", OFF, str(repository)], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "NETWEIGHT_TRACE_ENDPOINT"])
def test_a_missing_extra_is_told(repository: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry is not installed, a server that shall trace ends with one line that says how to mend it."""
    monkeypatch.setenv(variable, "http://127.0.0.1:4317")
    code = "import sys; sys.modules['opentelemetry'] = None; from netweight import main; main()"
    command = [sys.executable, "-c", code, "serve", "--repository", str(repository), "--grpc-port", "0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "Error: tracing needs the package opentelemetry, which is not installed: pip install "
    )
    assert "pip install -e '.[tracing]'" in done.stderr


def test_an_endpoint_that_is_none_ends_the_start(repository: Path) -> None:
    """An endpoint without a scheme is refused with what was expected."""
    command = [sys.executable, "-m", "netweight", "serve", "--repository", str(repository)]
    done = subprocess.run([*command, "--trace-endpoint", "collector:4317"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "trace_endpoint is 'collector:4317'; expected http://HOST:PORT or https://HOST:PORT" in done.stderr


def shown(answer: Any) -> dict[str, str]:
    """Return trace settings of one value each."""
    return {name: each.value[0] for name, each in answer.settings.items() if len(each.value) == 1}

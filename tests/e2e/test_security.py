"""Who may do what, against a real process: TLS, certificates and tokens, on each way that calls take."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from server import tokens
from server.access import Access
from server.client import Client, ClientError
from server.pb import inference_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server

X = np.arange(8, dtype=np.float32).reshape(2, 4)
INFER, CONTROL = tokens.make("infer"), tokens.make("control")
SETTINGS, PING, GOAWAY = 4, 6, 7
"""Frames of HTTP/2."""
MAX_CONNECTION_CALLS, MAX_HEADER_LIST_SIZE = 3, 6
"""What SETTINGS say."""
WAYS = {"direct": ("--way", "direct"), "ordinary": ("--way", "ordinary"), "front ends": ("--frontends", "2")}


@dataclass(frozen=True)
class Certificates:
    """PEM files of a server, of a caller, and of who has signed both."""

    directory: Path
    authority: trustme.CA

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def names(self, who: str) -> tuple[str, str]:
        """Return the files of a certificate and its key."""
        return str(self.directory / f"{who}.pem"), str(self.directory / f"{who}.key")

    def issue(self, who: str, *hosts: str, authority: trustme.CA | None = None) -> None:
        made = (authority or self.authority).issue_cert(*hosts)
        certificate, key = self.names(who)
        for content, name in ((made.cert_chain_pems[0], certificate), (made.private_key_pem, key)):
            content.write_to_path(f"{name}.new")
            Path(f"{name}.new").replace(name)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"), trustme.CA())
    made.authority.cert_pem.write_to_path(made.ca)
    made.issue("server", "localhost", "127.0.0.1")
    made.issue("caller", "camera.example")
    made.issue("stranger", "camera.example", authority=trustme.CA())
    return made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    graphs.scale(path)
    return path


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{INFER.line}\n{CONTROL.line}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=WAYS)
def mutual(
    request: pytest.FixtureRequest,
    repository: Path,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    """Return a server that asks callers for certificates."""
    certificate, key = certificates.names("server")
    options = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", certificates.ca)
    with running_server(repository, tmp_path_factory.mktemp("mutual"), *options, *WAYS[request.param]) as server:
        yield server


@pytest.fixture(scope="module", params=WAYS)
def guarded(
    request: pytest.FixtureRequest, repository: Path, tokens_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Return a server that asks callers for tokens."""
    options = ("--tokens", str(tokens_file), "--model-control", "explicit", "--model", "scale")
    with running_server(repository, tmp_path_factory.mktemp("guarded"), *options, *WAYS[request.param]) as server:
        yield server


def infer_with_triton(client: triton.InferenceServerClient, **options: Any) -> Any:
    tensor = triton.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    return client.infer("scale", [tensor], **options).as_numpy("y")


def test_tritonclient_with_a_certificate(mutual: RunningServer, certificates: Certificates) -> None:
    """Tritonclient's own TLS options work, and its answers are the model's."""
    certificate, key = certificates.names("caller")
    with triton.InferenceServerClient(
        mutual.address, ssl=True, root_certificates=certificates.ca, private_key=key, certificate_chain=certificate
    ) as client:
        assert client.is_server_ready()
        np.testing.assert_array_equal(infer_with_triton(client), 2 * X)


def test_callers_without_a_good_certificate_are_not_let_in(mutual: RunningServer, certificates: Certificates) -> None:
    """Without TLS, without a certificate, or with one that others have signed, no call is answered."""
    strangers = certificates.names("stranger")
    for access in (Access(), Access(certificates.ca), Access(certificates.ca, *strangers)):
        with Client(mutual.address, timeout_seconds=5, access=access) as client, pytest.raises(ClientError) as refused:
            client.live()
        assert refused.value.code == grpc.StatusCode.UNAVAILABLE


def test_a_server_that_cannot_be_trusted_is_told(mutual: RunningServer, certificates: Certificates) -> None:
    """A client that trusts others gets no answer, and its user is told that it is TLS that failed."""
    other = certificates.directory / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with (
        Client(mutual.address, timeout_seconds=5, access=Access(str(other))) as client,
        pytest.raises(ClientError, match=r"TLS with 127\.0\.0\.1:\d+ failed"),
    ):
        client.live()


def test_own_clients_with_a_certificate(mutual: RunningServer, certificates: Certificates, tmp_path: Path) -> None:
    """`netweight health` and `netweight infer` reach a server with TLS, by options and by the environment."""
    certificate, key = certificates.names("caller")
    given = {"TLS_CA": certificates.ca, "TLS_CERT": certificate, "TLS_KEY": key}
    options = ["--tls-ca", certificates.ca, "--tls-cert", certificate, "--tls-key", key]
    np.save(tmp_path / "x.npy", X)
    health = run("health", "--address", mutual.address, *options)
    assert (health.returncode, health.stdout) == (0, "SERVING\n")
    asked = run("infer", "scale", str(tmp_path / "x.npy"), "--address", mutual.address, "--json", environment=given)
    assert [[each["index"] for each in sample] for sample in json.loads(asked.stdout)] == [[3, 2, 1, 0]] * 2
    assert run("health", "--address", mutual.address).returncode == 1
    missing = run("health", "--address", mutual.address, "--tls-ca", "/absent.pem")
    assert missing.returncode == 1
    assert "/absent.pem cannot be read: No such file" in missing.stderr


def test_metrics_ask_for_a_certificate_too(mutual: RunningServer, certificates: Certificates) -> None:
    """The metrics page is behind the same TLS; one who connects and says nothing does not keep it from others."""
    assert mutual.metrics_url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=certificates.ca)
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(mutual.metrics_url, context=trusting, timeout=5)  # noqa: S310  our own server
    until(lambda: "the metrics page did not answer 127.0.0.1" in mutual.log())
    assert "Traceback" not in mutual.log()
    page = urlsplit(mutual.metrics_url)
    assert page.hostname
    assert page.port
    trusting.load_cert_chain(*certificates.names("caller"))
    with socket.create_connection((page.hostname, page.port)):
        answer = urllib.request.urlopen(mutual.metrics_url, context=trusting, timeout=5)  # noqa: S310
        assert "netweight_model_state" in answer.read().decode()


def test_a_renewed_certificate_is_shown_without_a_restart(
    repository: Path, tmp_path: Path, certificates: Certificates
) -> None:
    """New connections, of gRPC and of metrics, get the certificate that lies there; half a pair changes nothing."""
    own = Certificates(tmp_path, certificates.authority)
    own.issue("server", "localhost", "127.0.0.1")
    certificate, key = own.names("server")
    with running_server(repository, tmp_path, "--tls-certificate", certificate, "--tls-key", key) as server:
        places = server.address, server.metrics_url.removeprefix("https://").removesuffix("/metrics")
        with Client(server.address, access=Access(certificates.ca)) as client:
            first = {shown(place) for place in places}
            assert len(first) == 1
            old_key = Path(key).read_bytes()
            own.issue("server", "localhost", "127.0.0.1")
            new_key = Path(key).read_bytes()
            Path(key).write_bytes(old_key)
            assert {shown(place) for place in places} == first
            Path(key).write_bytes(new_key)
            renewed = Path(certificate).read_text(encoding="utf-8")
            until(lambda: all(shown(place).strip() == renewed.strip() for place in places))
            assert client.live()  # a connection that stands goes on
        with Client(server.address, access=Access(certificates.ca)) as client:
            np.testing.assert_array_equal(client.infer("scale", {"x": X}).outputs["y"], 2 * X)


def test_tokens_let_through_what_their_role_may(guarded: RunningServer) -> None:
    """Infer runs and reads, control loads besides; both by tritonclient's headers, as a caller would send them."""
    with triton.InferenceServerClient(guarded.address) as client:
        for made in (INFER, CONTROL):
            headers = {"authorization": f"Bearer {made.token}"}
            np.testing.assert_array_equal(infer_with_triton(client, headers=headers), 2 * X)
            assert client.get_model_metadata("scale", headers=headers).name == "scale"
            assert client.get_model_repository_index(headers=headers).models[0].name == "scale"
        client.load_model("scale", headers={"authorization": f"Bearer {CONTROL.token}"})
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("scale", headers={"authorization": f"Bearer {INFER.token}"})
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
        assert refused.value.message() == "RepositoryModelLoad needs a token of the role control; this one has infer"


def test_calls_without_a_good_token_are_refused(guarded: RunningServer) -> None:
    """No token, or one that nobody knows, is UNAUTHENTICATED for every call, and nothing of the call is read."""
    before = guarded.metric("netweight_requests_total")
    with grpc.insecure_channel(guarded.address) as channel:
        for metadata in ((), (("authorization", "Bearer guessed"),)):
            for name in ("ModelInfer", "ServerMetadata", "ModelMetadata", "LogSettings", "RepositoryModelUnload"):
                for service in ("inference", "netweight.v1"):
                    call = channel.unary_unary(f"/{service}.GRPCInferenceService/{name}", None, None)
                    with pytest.raises(grpc.RpcError) as refused:
                        call(b"no message at all", metadata=metadata, timeout=10)
                    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, name
                    assert "guessed" not in str(refused.value.details())
    assert guarded.metric("netweight_requests_total") == before
    assert "guessed" not in guarded.log()
    assert INFER.token not in guarded.log()


def test_streams_need_a_token(guarded: RunningServer) -> None:
    """A stream is refused before it has sent anything; with a token its requests are answered."""
    with grpc.insecure_channel(guarded.address) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)
        with pytest.raises(grpc.RpcError) as refused:
            list(stream(iter([pb.ModelInferRequest(model_name="scale").SerializeToString()]), timeout=10))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        message = pb.ModelInferRequest(model_name="scale", raw_input_contents=[X.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=X.shape)
        (raw,) = stream(iter([message.SerializeToString()]), metadata=Access(token=INFER.token).metadata, timeout=10)
        answer = pb.ModelStreamInferResponse.FromString(raw)
        assert not answer.error_message
        assert answer.infer_response.raw_output_contents[0] == (2 * X).tobytes()


def test_probes_go_without_a_token_and_reflection_does_not(guarded: RunningServer) -> None:
    """Health, liveness and readiness answer everybody; what the server can do is told to those who may call it."""
    with grpc.insecure_channel(guarded.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        assert next(iter(health.Watch(health_pb2.HealthCheckRequest(), timeout=10))).status == 1
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([question]), timeout=10))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        (told,) = ask(iter([question]), metadata=Access(token=INFER.token).metadata, timeout=10)
        assert "inference.GRPCInferenceService" in {each.name for each in told.list_services_response.service}
    with Client(guarded.address) as client:
        assert client.live()
        assert client.ready()


def test_own_client_with_a_token(guarded: RunningServer, tmp_path: Path) -> None:
    """`netweight infer` takes its token from the environment, and `netweight health` needs none."""
    np.save(tmp_path / "x.npy", X)
    command = ("infer", "scale", str(tmp_path / "x.npy"), "--address", guarded.address, "--top", "1")
    assert run(*command, environment={"TOKEN": INFER.token}).stdout.splitlines()[1].split() == ["6.0000", "3"]
    refused = run(*command)
    assert refused.returncode == 1
    assert "this server asks for a token" in refused.stderr
    assert run("health", "--address", guarded.address).returncode == 0


def test_a_new_token_counts_without_a_restart(repository: Path, tmp_path: Path) -> None:
    """The file is read anew within seconds, and who was taken out of it is refused."""
    file, new = tmp_path / "tokens", tokens.make("infer")
    file.write_text(INFER.line, encoding="utf-8")
    with running_server(repository, tmp_path, "--tokens", str(file)) as server:
        assert may_infer(server, INFER.token)
        (tmp_path / "next").write_text(new.line, encoding="utf-8")
        (tmp_path / "next").replace(file)
        until(lambda: may_infer(server, new.token))
        assert not may_infer(server, INFER.token)
        assert "the tokens were read anew" in server.log()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("--host", "0.0.0.0", "--model-control", "explicit"),
            "--model-control explicit on 0.0.0.0 would let everyone",
        ),
        (("--host", "0.0.0.0", "--shared-memory"), "--shared-memory on 0.0.0.0 would let everyone"),
        (("--tls-certificate", "/absent", "--tls-key", "/absent"), "--tls-certificate /absent cannot be read"),
        (("--tokens", "/absent"), "--tokens /absent cannot be read: No such file"),
    ],
)
def test_starts_that_are_refused(repository: Path, options: tuple[str, ...], text: str) -> None:
    """What is missing, or would let everyone in, ends the start with one line and exit code 1."""
    ended = run("serve", "--repository", str(repository), "--grpc-port", "0", "--metrics-port", "0", *options)
    assert ended.returncode == 1
    assert text in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("way", ["direct", "front ends"])
def test_limits_of_a_call(repository: Path, tmp_path: Path, way: str) -> None:
    """Headers and requests beyond the limits are refused by name, and the server goes on."""
    options = ("--max-metadata-bytes", "4096", "--max-tensor-elements", "8", "--max-parameters", "2", *WAYS[way])
    with running_server(repository, tmp_path, *options) as server, Client(server.address) as client:
        with pytest.raises(ClientError, match="got 12 elements; expected at most 8") as refused:
            client.infer("scale", {"x": np.zeros((3, 4), np.float32)})
        assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
        with (
            Client(server.address, access=Access(token="x" * 8192)) as talkative,
            pytest.raises(ClientError) as refused,
        ):
            talkative.live()
        assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        np.testing.assert_array_equal(client.infer("scale", {"x": X}).outputs["y"], 2 * X)


def test_what_a_load_call_brings_stays_inside(guarded: RunningServer, tmp_path: Path) -> None:
    """Names that climb, and weights elsewhere, are INVALID_ARGUMENT whatever the token; the model goes on as it was."""
    headers = {"authorization": f"Bearer {CONTROL.token}"}
    good = graphs.scale(tmp_path).read_bytes()
    (tmp_path / "secret").write_bytes(bytes(16))
    away = onnx.load_from_string(good)
    weight = away.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add(key="location")
    for location in (str(tmp_path / "secret"), "../../../../../../../../etc/hostname", "/dev/zero"):
        entry.value = location
        refuse_load(guarded, "scale", "{}", {"file:1/model.onnx": away.SerializeToString()}, headers)
    for name in ("file:../../1/model.onnx", "file:/tmp/model.onnx", "file:1/../../model.onnx"):
        refuse_load(guarded, "scale", "{}", {name: good}, headers)
    for name in ("../scale", "/etc", "scale/1", "..", ""):
        refuse_load(guarded, name, "{}", {"file:1/model.onnx": good}, headers)
    for config in ({"default_model_filename": "../../../secret"}, {"default_model_filename": "/dev/zero"}):
        refuse_load(guarded, "scale", json.dumps(config), {"file:1/model.onnx": good}, headers)
    with triton.InferenceServerClient(guarded.address) as client:
        np.testing.assert_array_equal(infer_with_triton(client, headers=headers), 2 * X)


def refuse_load(
    server: RunningServer, name: str, config: str, files: dict[str, bytes], headers: dict[str, str]
) -> None:
    with triton.InferenceServerClient(server.address) as client, pytest.raises(InferenceServerException) as refused:
        client.load_model(name, headers=headers, config=config, files=files)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT", refused.value
    assert "\n" not in refused.value.message()


def test_limits_of_a_connection(repository: Path, tmp_path: Path) -> None:
    """The server announces how many calls and how large headers it takes, and closes on one who only pings."""
    options = ("--max-connection-calls", "7", "--max-metadata-bytes", "5000")
    with running_server(repository, tmp_path, *options) as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))
            kind, announced = received(connection)
            assert kind == SETTINGS
            values = dict(struct.iter_unpack("!HI", announced))
            assert values[MAX_CONNECTION_CALLS] == 7
            assert values[MAX_HEADER_LIST_SIZE] == 5000
            connection.sendall(4 * frame(PING, bytes(8)))  # the first is fine, the fourth is the third too many
            while kind != GOAWAY:
                kind, why = received(connection)
            assert b"too_many_pings" in why


def frame(kind: int, content: bytes = b"") -> bytes:
    """Return a frame of HTTP/2, of the connection itself."""
    return struct.pack("!I", len(content))[1:] + bytes([kind, 0]) + bytes(4) + content


def received(connection: socket.socket) -> tuple[int, bytes]:
    head = exactly(connection, 9)
    return head[3], exactly(connection, int.from_bytes(head[:3], "big"))


def exactly(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        assert more, "the connection was closed"
        content += more
    return content


def may_infer(server: RunningServer, token: str) -> bool:
    code = grpc.StatusCode.OK
    with Client(server.address, access=Access(token=token)) as client:
        try:
            client.infer("scale", {"x": X})
        except ClientError as error:
            code = error.code
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    return code == grpc.StatusCode.OK


def shown(place: str) -> str:
    """Return the certificate that a port shows to a new connection."""
    host, port = place.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)), timeout=10)


def until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of netweight; the environment's names go without their prefix."""
    given = {f"NETWEIGHT_CLIENT_{name}": value for name, value in (environment or {}).items()}
    return subprocess.run(
        [sys.executable, "-m", "netweight", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **given},
    )

"""Who may do what: tokens, certificates, and where a server may listen without them."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from server import security, tls, tokens
from server.config import Settings
from server.errors import ModelLoadError, PermissionDeniedError, StartError, UnauthenticatedError
from server.pb import model_config_pb2 as pb
from server.provider_options import TENSORRT_PATHS
from server.tokens import Guard, Role
from server.transport import SERVICE, WEIGHBRIDGE
from server.tuning import tuning_of

INFER = tokens.make("infer")
CONTROL = tokens.make("control")


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\n{INFER.line}  # the camera\n{CONTROL.line}\n", encoding="utf-8")
    return path


@pytest.fixture
def guard(tokens_file: Path) -> Guard:
    made = Guard(str(tokens_file))
    made.load()
    return made


def bearer(token: str) -> list[tuple[str, Any]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def test_the_file_holds_no_token() -> None:
    """Of a token the file has its SHA-256 alone; two tokens are never the same."""
    assert INFER.token not in INFER.line
    assert len(INFER.token) > 40
    assert tokens.make("infer").token != INFER.token


@pytest.mark.parametrize("call", ["ModelInfer", "ModelStreamInfer", "RepositoryIndex", "ServerReflectionInfo"])
def test_either_role_may_infer(guard: Guard, call: str) -> None:
    """Reading and running models needs a token, of whichever role."""
    guard.check(call, bearer(INFER.token))
    guard.check(call, bearer(CONTROL.token))
    with pytest.raises(UnauthenticatedError):
        guard.check(call, [])


@pytest.mark.parametrize(
    "call",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
        "ACallOfALaterProtocol",
    ],
)
def test_control_needs_its_role(guard: Guard, call: str) -> None:
    """What changes the server, and whatever nobody has thought of, needs control."""
    guard.check(call, bearer(CONTROL.token))
    with pytest.raises(PermissionDeniedError, match=f"{call} needs a token of the role control; this one has infer"):
        guard.check(call, bearer(INFER.token))


@pytest.mark.parametrize("call", ["ServerLive", "ServerReady", "Check", "Watch"])
def test_probes_need_no_token(guard: Guard, call: str) -> None:
    """Liveness, readiness and health answer everybody."""
    guard.check(call, [])


def test_every_call_of_the_protocol_has_a_role() -> None:
    """The protocol's twenty: two open, nine for infer (reflection besides), the others control; ours are for infer."""
    calls = {method.name for service in (SERVICE, WEIGHBRIDGE) for method in service.methods}
    assert calls - tokens.OPEN - tokens.INFER == {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    }
    assert tokens.INFER - calls == {"ServerReflectionInfo"}


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", INFER.token)],
        [("authorization", f"Basic {INFER.token}")],
        [("authorization", f"Bearer {INFER.token}x")],
        [("authorization", f"Bearer {INFER.token[:-1]}")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer ü\udcff")],
        [("authorization", b"\xff\xfe")],
        [("authorization", f"Bearer {INFER.line.split()[1]}")],
        [*bearer(INFER.token), ("authorization", f"Bearer {CONTROL.token}")],
        [("x-authorization", f"Bearer {INFER.token}")],
    ],
)
def test_what_is_no_token_is_refused(guard: Guard, metadata: list[tuple[str, Any]]) -> None:
    """A wrong scheme, a wrong token, the hash itself, two headers: refused, and the answer quotes nothing of it."""
    with pytest.raises(UnauthenticatedError) as refused:
        guard.check("ModelInfer", metadata)
    assert INFER.token[:8] not in str(refused.value)
    assert INFER.line.split()[1][:8] not in str(refused.value)


def test_the_scheme_may_be_written_in_any_case(guard: Guard) -> None:
    """As HTTP says, a scheme has no case."""
    guard.check("ModelInfer", [("authorization", f"bearer {INFER.token}")])


def test_a_guard_that_has_read_nothing_refuses(tokens_file: Path) -> None:
    """Before the file is read no token is good."""
    with pytest.raises(UnauthenticatedError):
        Guard(str(tokens_file)).check("ModelInfer", bearer(INFER.token))


def test_accepted_headers_are_bounded(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a caller writes its header, few ways are remembered."""
    monkeypatch.setattr(tokens, "MOST_ACCEPTED", 4)
    for spaces in range(1, 20):
        guard.check("ModelInfer", [("authorization", f"Bearer{' ' * spaces}{INFER.token}")])
        assert len(guard._known[1]) <= 4


def test_a_changed_file_counts_within_seconds(
    guard: Guard, tokens_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that was taken out is refused and a new one accepted; a file that cannot be used changes nothing."""
    caplog.set_level(logging.INFO)
    guard.check("ModelInfer", bearer(INFER.token))
    new = tokens.make("infer")
    replace(tokens_file, new.line)
    guard.check("ModelInfer", bearer(INFER.token))  # not looked at yet
    later(monkeypatch)
    guard.check("ModelInfer", bearer(new.token))
    with pytest.raises(UnauthenticatedError):
        guard.check("ModelInfer", bearer(INFER.token))
    for broken in ("", "infer abc", None):
        if broken is None:
            tokens_file.unlink()
        else:
            replace(tokens_file, broken)
        later(monkeypatch)
        guard.check("ModelInfer", bearer(new.token))
    assert caplog.text.count("the tokens in use stay") == 3
    assert new.token not in caplog.text


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    os.replace(other, path)  # noqa: PTH105  as those do who renew files


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some seconds pass."""
    passed = time.monotonic() + tokens.CHECK_SECONDS + 0.1
    monkeypatch.setattr(time, "monotonic", lambda: passed)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no token; make one: netweight token infer"),
        ("# nobody", "has no token"),
        (f"admin {'0' * 64}", "line 1: expected infer or control and a SHA-256 hash"),
        (f"infer {INFER.token}", "line 1: expected infer or control and a SHA-256 hash"),
        ("infer", "line 1: expected"),
        (f"{INFER.line} more", "line 1: expected"),
        (f"{INFER.line}\n{INFER.line.replace('infer', 'control')}", "line 2: this token has a role already"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, problem: str) -> None:
    """What is wrong with a file of tokens is one line, which quotes none of it: somebody may have put a token there."""
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StartError, match=problem) as refused:
        tokens.read(str(path))
    assert INFER.token not in str(refused.value)
    with pytest.raises(StartError, match=r"--tokens .*absent cannot be read: No such file"):
        tokens.read(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("unix:/run/netweight", True),
        ("0.0.0.0", False),
        ("::", False),
        ("[::]", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    """Only addresses that other machines cannot reach count as loopback."""
    assert security.is_loopback(host) is expected


CHANGING: list[dict[str, Any]] = [{"model_control": "explicit"}, {"shared_memory": True}]


@pytest.mark.parametrize("changing", CHANGING)
def test_nobody_unknown_may_change_a_server_from_elsewhere(
    changing: dict[str, Any], tokens_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond loopback, what lets callers change the server needs tokens or certificates, or --insecure."""
    security.check(Settings(**changing))
    with pytest.raises(StartError, match=r"would let everyone who reaches it change this server; .* --insecure"):
        security.check(Settings(host="0.0.0.0", **changing))
    security.check(Settings(host="0.0.0.0", tokens=str(tokens_file), **changing))
    assert "--insecure" not in caplog.text
    security.check(Settings(host="0.0.0.0", insecure=True, **changing))
    assert "--insecure: everyone who reaches 0.0.0.0 may change this server" in caplog.text
    security.check(Settings(host="0.0.0.0"))
    security.check(Settings(host="0.0.0.0", model_control="poll"))


def test_tls_alone_names_no_caller(certificates: tls.Files) -> None:
    """A server's own certificate is not enough; asking callers for theirs is."""
    own: dict[str, Any] = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    open_settings: dict[str, Any] = {"host": "0.0.0.0", "model_control": "explicit", **own}
    with pytest.raises(StartError, match="--tls-client-ca"):
        security.check(Settings(**open_settings))
    security.check(Settings(tls_client_ca=certificates.client_ca, **open_settings))


def test_tokens_in_clear_are_told(tokens_file: Path, certificates: tls.Files, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens that leave the machine without TLS are a loud warning; on loopback, or with TLS, there is none."""
    security.check(Settings(tokens=str(tokens_file)))
    own: dict[str, Any] = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    security.check(Settings(host="0.0.0.0", tokens=str(tokens_file), **own))
    assert not caplog.records
    security.check(Settings(host="0.0.0.0", tokens=str(tokens_file)))
    assert "TOKENS TRAVEL IN CLEAR" in caplog.text


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificates(tmp_path: Path, authority: trustme.CA) -> tls.Files:
    return issue(authority, tmp_path)


def issue(authority: trustme.CA, directory: Path) -> tls.Files:
    made = authority.issue_cert("localhost", "127.0.0.1")
    names = [str(directory / name) for name in ("server.pem", "server.key", "ca.pem")]
    made.cert_chain_pems[0].write_to_path(names[0])
    made.private_key_pem.write_to_path(names[1])
    authority.cert_pem.write_to_path(names[2])
    return tls.Files(*names)


def test_certificates_that_cannot_be_used(certificates: tls.Files, tmp_path: Path, authority: trustme.CA) -> None:
    """A missing file, the wrong key, no PEM, half a pair: each is one line that names the option."""
    tls.check(certificates)
    empty, other = str(tmp_path / "empty"), str(tmp_path / "other.key")
    Path(empty).touch()
    authority.issue_cert("elsewhere").private_key_pem.write_to_path(other)
    good = certificates
    for files, text in (
        (tls.Files("/absent", good.key), "--tls-certificate /absent cannot be read: No such file"),
        (tls.Files(good.certificate, str(tmp_path)), "--tls-key .* cannot be read: Is a directory"),
        (tls.Files(good.certificate, other), "other.key is not the key of --tls-certificate"),
        (tls.Files(empty, good.key), "cannot be used: expected a certificate and its key in PEM"),
        (tls.Files(good.certificate, good.certificate), "cannot be used: expected a certificate and its key in PEM"),
        (tls.Files(good.certificate, good.key, empty), "--tls-client-ca .*empty holds no certificate"),
        (tls.Files(good.certificate, good.key, "/absent"), "--tls-client-ca /absent cannot be read"),
    ):
        with pytest.raises(StartError, match=text) as refused:
            tls.check(files)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("tls_certificate",), "--tls-certificate and --tls-key belong together"),
        (("tls_key",), "--tls-certificate and --tls-key belong together"),
        (("tls_client_ca",), "--tls-client-ca needs TLS"),
    ],
)
def test_halves_are_refused(certificates: tls.Files, given: tuple[str, ...], text: str) -> None:
    """A certificate without its key, a key alone, callers' authorities without TLS: the start ends with one line."""
    values = {name: getattr(certificates, name.removeprefix("tls_")) for name in given}
    with pytest.raises(StartError, match=text):
        security.check(Settings(**values))


def test_a_key_with_a_password_is_refused(certificates: tls.Files, tmp_path: Path) -> None:
    """Nobody is there to type a password: the start does not wait for one."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(certificates.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    with pytest.raises(StartError, match="without a password"):
        tls.check(tls.Files(certificates.certificate, str(locked)))


def test_renewal_waits_until_certificate_and_key_fit(
    certificates: tls.Files, tmp_path: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a new pair the first file alone is not taken; once the second is there, it is, once."""
    renewal = tls.Renewal(certificates)
    assert not renewal.due()
    (tmp_path / "new").mkdir()
    new = issue(authority, tmp_path / "new")
    Path(new.certificate).replace(certificates.certificate)
    assert not renewal.due()
    assert "the certificate in use stays" in caplog.text
    Path(new.key).replace(certificates.key)
    assert renewal.due()
    assert not renewal.due()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, "here") for name in sorted(TENSORRT_PATHS)),
        ("int8_calibration_table_name", "../../table"),
        ("int8_calibration_table_name", "/etc/table"),
    ],
)
def test_a_models_configuration_names_no_files_of_the_machine(option: str, value: str) -> None:
    """Options by which TensorRT writes files or loads libraries are the operator's, whoever brings the configuration."""
    config = pb.ModelConfig()
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters[option] = value
    with pytest.raises(ModelLoadError, match=option):
        tuning_of(config)
    accelerator.parameters.clear()
    accelerator.parameters["int8_calibration_table_name"] = "table"
    assert tuning_of(config).trt["trt_int8_calibration_table_name"] == "table"


def test_roles_are_ordered() -> None:
    """There are two roles."""
    expected: tuple[Role, ...] = ("infer", "control")
    assert expected == tokens.ROLES

"""TLS: the server's certificate and whose certificates callers must show, read anew when the files change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from server import paths
from server.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """PEM files, by name: key material stays in them."""

    certificate: str
    """The server's, followed by those between it and its authority."""
    key: str
    client_ca: str = ""
    """The authorities of callers' certificates; empty: callers show none."""

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Return what differs once they were replaced."""
        return paths.stamps(self.certificate, self.key, self.client_ca)


class Renewal:
    """Notices new files, and takes them once they fit each other: certificate and key are not replaced at one moment."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen = files.stamps()

    def due(self) -> bool:
        """Whether the files have changed since the last time, and can be used; why they cannot is logged."""
        stamps = self._files.stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            check(self._files)
        except StartError as error:
            log.error("the certificate in use stays: %s", error)  # noqa: TRY400  one line, it says all
            return False
        log.info("the certificate was renewed from %s", self._files.certificate)
        return True


def check(files: Files) -> None:
    """See that the files are there, are what they should be, and that the key is the certificate's.

    Raises:
        StartError: they are not; the message names the file.
    """
    for option, name in (
        ("--tls-certificate", files.certificate),
        ("--tls-key", files.key),
        ("--tls-client-ca", files.client_ca),
    ):
        if name:
            _check_readable(option, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise StartError(
                f"--tls-key {files.key} is not the key of --tls-certificate {files.certificate}"
            ) from error
        raise StartError(
            f"--tls-certificate {files.certificate} and --tls-key {files.key} cannot be used: "
            "expected a certificate and its key in PEM, without a password"
        ) from error
    if files.client_ca:
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise StartError(f"--tls-client-ca {files.client_ca} holds no certificate; expected PEM") from error


def credentials(files: Files) -> grpc.ServerCredentials:
    """Return what a gRPC port listens with; each new connection sees the files as they are then.

    Raises:
        StartError: the files cannot be used.
    """
    renewal = Renewal(files)
    check(files)

    def renewed() -> Any:
        return _configuration(files) if renewal.due() else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(files), renewed, require_client_authentication=bool(files.client_ca)
    )


def renewing(context: ssl.SSLContext, files: Files) -> Callable[[], None]:
    """Return what has a context show the files as they are, when called now and then."""
    renewal = Renewal(files)

    def renew() -> None:
        if renewal.due():
            context.load_cert_chain(files.certificate, files.key)

    return renew


def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    key, certificate = Path(files.key).read_bytes(), Path(files.certificate).read_bytes()
    authorities = Path(files.client_ca).read_bytes() if files.client_ca else None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authorities)


def _check_readable(option: str, name: str) -> None:
    try:
        with Path(name).open("rb"):
            pass
    except OSError as error:
        raise StartError(f"{option} {name} cannot be read: {error.strerror}") from error


def _no_password() -> str:
    raise ValueError("the key has a password")

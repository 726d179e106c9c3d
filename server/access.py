"""How a caller reaches a server: whom it trusts, and how it shows who it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from server.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Access:
    """Of one server; nothing of it: in clear, and nobody in particular."""

    tls_ca: str = ""
    """PEM file of the authorities that the server's certificate may come from; empty: no TLS."""
    tls_cert: str = ""
    """PEM file of the caller's own certificate, where the server asks for one."""
    tls_key: str = ""
    token: str = ""

    def channel(self, address: str, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
        """Return a channel to ``host:port``.

        Raises:
            InvalidArgumentError: a file is missing, or cannot be read.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise InvalidArgumentError("--tls-cert and --tls-key belong together: give both, or neither")
        if not self.tls_ca:
            if self.tls_cert:
                raise InvalidArgumentError("--tls-cert needs TLS: give --tls-ca too")
            return grpc.insecure_channel(address, options=list(options))
        authorities, key, certificate = (_content(each) for each in (self.tls_ca, self.tls_key, self.tls_cert))
        return grpc.secure_channel(
            address, grpc.ssl_channel_credentials(authorities, key, certificate), options=list(options)
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


ANYONE = Access()


def _content(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}") from error

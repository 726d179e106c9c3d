"""What a listener asks of its callers, and whether that is enough for where it listens."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server import tls
from server.errors import StartError
from server.tokens import Guard
from server.tokens import read as read_tokens

if TYPE_CHECKING:
    from server.config import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Security:
    """Names of files only: it goes to the front ends on their command line."""

    certificate: str = ""
    """Empty: no TLS."""
    key: str = ""
    client_ca: str = ""
    tokens: str = ""
    """Empty: no token is asked for."""

    @property
    def tls(self) -> tls.Files | None:
        """The files of TLS; None: it is off."""
        return tls.Files(self.certificate, self.key, self.client_ca) if self.certificate else None

    def guard(self) -> Guard | None:
        """Return what holds calls against the tokens, not loaded yet; None: none is asked for."""
        return Guard(self.tokens) if self.tokens else None


def of(settings: Settings) -> Security:
    """Return what the settings ask of callers."""
    return Security(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, settings.tokens)


def check(settings: Settings) -> None:
    """See that the settings fit each other, and warn of what they leave open.

    Raises:
        StartError: a file is missing or cannot be used, or callers from other machines could change the server.
    """
    security = of(settings)
    if bool(security.certificate) != bool(security.key):
        raise StartError("--tls-certificate and --tls-key belong together: give both, or neither")
    if security.client_ca and not security.certificate:
        raise StartError("--tls-client-ca needs TLS: give --tls-certificate and --tls-key too")
    if security.tls:
        tls.check(security.tls)
    if security.tokens:
        read_tokens(security.tokens)
    if not is_loopback(settings.host):
        _check_exposed(settings, security)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address: localhost, 127.0.0.0/8, ::1, a Unix socket."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_exposed(settings: Settings, security: Security) -> None:
    changes = _what_callers_change(settings)
    if changes and not (security.client_ca or security.tokens or settings.insecure):
        raise StartError(
            f"{changes} on {settings.host} would let everyone who reaches it change this server; ask callers for tokens "
            "(--tokens FILE) or certificates (--tls-client-ca FILE), listen on 127.0.0.1, or say --insecure"
        )
    if changes and settings.insecure and not (security.client_ca or security.tokens):
        log.warning("--insecure: everyone who reaches %s may change this server, by %s", settings.host, changes)
    if security.tokens and not security.tls:
        log.warning(
            "TOKENS TRAVEL IN CLEAR: whoever is between a caller and %s can read and use them; give --tls-certificate",
            settings.host,
        )


def _what_callers_change(settings: Settings) -> str:
    """Return the settings by which callers may change the server; empty: none is on."""
    on = []
    if settings.model_control == "explicit":
        on.append("--model-control explicit")
    if settings.shared_memory:
        on.append("--shared-memory")
    return " and ".join(on)

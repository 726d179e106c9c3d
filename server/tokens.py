"""Bearer tokens: who may call what. The file holds their SHA-256 hashes, so that it is no secret.

# a role and the hash of a token on each line
infer 4c5b…
control 9a1e…
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import grpc

from server import paths
from server.errors import PermissionDeniedError, ServerError, StartError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)
Role = Literal["infer", "control"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""
OPEN = frozenset({"ServerLive", "ServerReady", "Check", "Watch"})
"""Calls that need no token: probes have none. The last two are those of grpc.health.v1."""
INFER = frozenset(
    {
        "GetCard",
        "ListCards",
        "ModelConfig",
        "ModelInfer",
        "ModelMetadata",
        "ModelReady",
        "ModelStatistics",
        "ModelStreamInfer",
        "RepositoryIndex",
        "ServerMetadata",
        "ServerReflectionInfo",
        "WatchCards",
    }
)
"""Calls that read, or run models; every other one changes the server, and needs control."""
CHECK_SECONDS = 2.0
"""The file is looked at again after so long."""
MOST_ACCEPTED = 1024
"""Headers that are remembered to be good; all are forgotten when there are more."""
PREFIX = "nw_"
"""By which those who look for secrets in the wrong places know a token."""
TOKEN_BYTES = 32
_HASH = re.compile("[0-9a-f]{64}")


class Made(NamedTuple):
    """A new token."""

    token: str
    """For the caller."""
    line: str
    """For the server's file."""


def make(role: Role) -> Made:
    """Return a random token, which cannot be guessed: a plain hash of it tells nothing."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return Made(token, f"{role} {_hash(token)}")


def read(file: str) -> dict[str, Role]:
    """Return the role of each token's hash.

    Raises:
        StartError: the file cannot be read, has no token, or has a line that is none; the message quotes no line.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--tokens {file} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from error
    found: dict[str, Role] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        role = next((each for each in ROLES if words[0] == each), None)
        if role is None or len(words) != 2 or not _HASH.fullmatch(words[1]):
            raise StartError(
                f"--tokens {file}, line {number}: expected {' or '.join(ROLES)} and a SHA-256 hash; "
                "make one: netweight token infer"
            )
        if words[1] in found:
            raise StartError(f"--tokens {file}, line {number}: this token has a role already; remove either line")
        found[words[1]] = role
    if not found:
        raise StartError(f"--tokens {file} has no token; make one: netweight token infer")
    return found


class Guard:
    """Holds calls against the tokens of a file, which is read anew when it changes.

    Until `load` it knows no token, and refuses what needs one.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._known: tuple[dict[str, Role], dict[str, Role]] = {}, {}
        """The role of each hash; that of each header that was good: replaced together."""
        self._stamps = paths.stamps(file)
        self._look_at = 0.0

    def load(self) -> None:
        """Read the file.

        Raises:
            StartError: it cannot be used.
        """
        self._stamps = paths.stamps(self._file)
        self._look_at = time.monotonic() + CHECK_SECONDS
        self._known = read(self._file), {}

    def check(self, call: str, metadata: Iterable[tuple[str, Any]]) -> None:
        """See that a call's token lets it through.

        Args:
            call: the method's name, without its service.
            metadata: what came with the call.

        Raises:
            UnauthenticatedError: there is no token, or none that is known.
            PermissionDeniedError: its role is not enough.
        """
        if call in OPEN:
            return
        if time.monotonic() >= self._look_at:
            self._renew()
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1:
            raise UnauthenticatedError("this server asks for a token: send one header 'authorization: Bearer TOKEN'")
        hashes, accepted = self._known
        role = accepted.get(values[0])
        if role is None:
            role = _role(values[0], hashes)
            if role is None:
                raise UnauthenticatedError("this server does not know the token that came: ask its operator for one")
            if len(accepted) >= MOST_ACCEPTED:
                accepted.clear()
            accepted[values[0]] = role
        if role == "infer" and call not in INFER:
            raise PermissionDeniedError(f"{call} needs a token of the role control; this one has infer")

    def _renew(self) -> None:
        """Read the file if it has changed; the tokens stay as they are while it cannot be used."""
        self._look_at = time.monotonic() + CHECK_SECONDS
        if paths.stamps(self._file) == self._stamps:
            return
        try:
            self.load()
        except StartError as error:
            log.error("the tokens in use stay: %s", error)  # noqa: TRY400  one line, it says all
        else:
            log.info("the tokens were read anew from %s: %d", self._file, len(self._known[0]))


class Gate(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls before anything of them is read."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the call's handler, or one that refuses it."""
        details: Any = handler_call_details
        try:
            self._guard.check(details.method.rpartition("/")[2], details.invocation_metadata)
        except ServerError as error:
            return grpc.stream_stream_rpc_method_handler(_refusing(error))
        return continuation(handler_call_details)


def _role(header: Any, hashes: dict[str, Role]) -> Role | None:
    """Return the role that a header's token has. It is compared with every hash: the time tells nothing."""
    scheme, _, token = header.partition(" ") if isinstance(header, str) else ("", "", "")
    hashed, found = _hash(token.strip()), None
    for each, role in hashes.items():
        if hmac.compare_digest(each, hashed):
            found = role
    return found if scheme.lower() == "bearer" else None


def _refusing(error: ServerError) -> Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]:
    def refuse(_: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(error.code, str(error))
        raise AssertionError("abort always raises")

    return refuse


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()

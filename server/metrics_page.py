"""/metrics, by HTTP; with TLS by HTTPS, and to callers with a certificate where gRPC asks for one too."""

from __future__ import annotations

import logging
import re
import ssl
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import prometheus_client

from server import gpu, tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

log = logging.getLogger(__name__)
EXPONENT = re.compile(rb"^(nv_gpu_\w+\{[^}\n]*\} )(\d\S*e\S+)$", re.MULTILINE)
"""A value that perf_analyzer reads, as it misreads it."""


def start(
    host: str, port: int, registry: prometheus_client.CollectorRegistry, files: tls.Files | None
) -> tuple[WSGIServer, Thread]:
    """Serve the page, from a thread.

    Args:
        host: the address to listen on.
        port: 0 for any free one.
        registry: what the page shows.
        files: of TLS; None: without.

    Raises:
        OSError: the port cannot be taken.
    """
    given: dict[str, Any] = {}
    if files is not None:
        given = {"certfile": files.certificate, "keyfile": files.key, "tls_min_version": ssl.TLSVersion.TLSv1_2}
        if files.client_ca:
            given |= {"client_cafile": files.client_ca, "client_auth_required": True}
    server, thread = prometheus_client.start_http_server(port, host, registry, **given)
    if gpu.find() is not None:
        server.set_app(plain(server.get_app()))  # type: ignore[arg-type]
    server.handle_error = _failed  # type: ignore[method-assign]
    if files is not None:
        assert isinstance(server.socket, ssl.SSLSocket)
        # In the thread of a request: one who connects and then says nothing keeps nobody else from being answered.
        server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
        # The server calls this twice a second.
        server.service_actions = tls.renewing(server.socket.context, files)  # type: ignore[method-assign]
    return server, thread


def plain(page: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Have a page show what perf_analyzer reads without exponents: it takes 1.5e+10 for 1.5.

    Such a page is not compressed.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop("HTTP_ACCEPT_ENCODING", None)
        return [EXPONENT.sub(_decimal, part) for part in page(environ, start_response)]

    return answer


def _decimal(line: re.Match[bytes]) -> bytes:
    return line[1] + f"{Decimal(line[2].decode()):f}".encode()


def _failed(request: Any, client_address: Any) -> None:  # noqa: ARG001  socketserver's signature
    """Tell of a request that failed in one line; the library would print its trace."""
    log.info("the metrics page did not answer %s: %s", client_address[0], sys.exc_info()[1])

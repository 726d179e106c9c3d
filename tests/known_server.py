"""A gRPC server of known service time, for tests of what measures servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

REPLY = b"reply"


class KnownServer:
    """Answers ModelInfer after `service_seconds(n)` for the n-th request (from 0), or with the status `status(n)`."""

    def __init__(self, service_seconds: Any, status: Any) -> None:
        self.service_seconds = service_seconds
        self.status = status
        self.lock = threading.Lock()
        self.requests: list[bytes] = []
        self.now = self.most_at_once = 0
        self.address = ""

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        time.sleep(self.service_seconds(number))
        with self.lock:
            self.now -= 1
        if code := self.status(number):
            context.abort(code, f"request {number}")
        return REPLY


@contextmanager
def known_server(service_seconds: Any = lambda _: 0.0, status: Any = lambda _: None) -> Iterator[KnownServer]:
    """Serve on a free port, up to 16 requests at once."""
    known = KnownServer(service_seconds, status)
    server = grpc.server(ThreadPoolExecutor(16))
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(known.answer)}
    handlers = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers([handlers])
    known.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield known
    finally:
        server.stop(None).wait()

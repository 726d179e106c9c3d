"""gRPC servers of known service time, for tests of what measures servers."""

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
        self.peers: set[str] = set()
        self.now = self.most_at_once = 0
        self.address = ""
        self.reply = REPLY

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.peers.add(context.peer())
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        time.sleep(self.service_seconds(number))
        with self.lock:
            self.now -= 1
        if code := self.status(number):
            context.abort(code, f"request {number}")
        return self.reply


class OneByOne:
    """Serves one request after the other in the order of arrival, each for exactly `service_seconds(request)`.

    It keeps the moment when it is free again and each request's thread sleeps until its own end, so that it needs no
    CPU, and a sleep that takes longer than asked delays one reply, not all that come after it.
    """

    def __init__(self, service_seconds: Any) -> None:
        self.service_seconds = service_seconds
        self.lock = threading.Lock()
        self.free = 0.0
        self.count = 0
        self.address = ""

    def answer(self, request: bytes, _context: grpc.ServicerContext) -> bytes:
        with self.lock:
            self.count += 1
            self.free = end = max(time.perf_counter(), self.free) + self.service_seconds(request)
        while (remaining := end - time.perf_counter()) > 0:
            time.sleep(remaining)
        return REPLY


@contextmanager
def known_server(service_seconds: Any = lambda _: 0.0, status: Any = lambda _: None) -> Iterator[KnownServer]:
    """Serve on a free port, up to 16 requests at once."""
    known = KnownServer(service_seconds, status)
    with _serving(known.answer, 16) as known.address:
        yield known


@contextmanager
def one_by_one(service_seconds: Any) -> Iterator[OneByOne]:
    """Serve on a free port, one request at a time; up to 200 wait."""
    known = OneByOne(service_seconds)
    with _serving(known.answer, 200) as known.address:
        yield known


@contextmanager
def _serving(answer: Any, threads: int) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(threads))
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    handlers = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers([handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()

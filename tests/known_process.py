"""A `netweight serve` in a process of its own that takes a known amount of everything, for tests of what measures it.

As `ServerProcess` starts it, and with a metrics page. What it takes stands in the environment: KNOWN_CPU_SECONDS for each
request, KNOWN_HELD_BYTES from before the ready line until the model is unloaded, KNOWN_KEPT_BYTES from the first request
on until it ends, KNOWN_PEAK_BYTES during the first request, KNOWN_START_SECONDS before the ready line,
KNOWN_ANSWER_SECONDS for the first answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from server.pb import inference_pb2 as pb

MODEL = "known"
PROCESS_SECONDS, IMPORT_SECONDS, SESSION_SECONDS, WARM_UP_SECONDS = 0.01, 0.02, 0.03, 0.04
"""What its page says of its start."""
SERVICES = ("inference.GRPCInferenceService", "netweight.v1.GRPCInferenceService")
"""The protocol's name, and ours."""


def known(name: str) -> float:
    return float(os.environ.get(f"KNOWN_{name}", "0"))


class Known:
    """Holds and burns what it was told to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answered = 0
        self.kept = b""
        self.held: bytes | None = bytes_that_count(int(known("HELD_BYTES")))

    def infer(self, _request: bytes, _context: Any) -> bytes:
        with self.lock:
            if self.answered == 0:
                bytes_that_count(int(known("PEAK_BYTES")))
                self.kept = bytes_that_count(int(known("KEPT_BYTES")))
                time.sleep(known("ANSWER_SECONDS"))
            until = time.thread_time() + known("CPU_SECONDS")
            while time.thread_time() < until:
                pass
            self.answered += 1
        return b"reply"

    def unload(self, _request: bytes, _context: Any) -> bytes:
        self.held = None
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    def index(self, _request: bytes, _context: Any) -> bytes:
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name=MODEL, version="1", state="READY" if self.held is not None else "UNAVAILABLE")
        return answer.SerializeToString()

    def page(self) -> str:
        phases = {"process": PROCESS_SECONDS, "imports": IMPORT_SECONDS}
        labels = f'{{model="{MODEL}",version="1"}}'
        lines = [f'netweight_startup_seconds{{phase="{phase}"}} {seconds}' for phase, seconds in phases.items()]
        lines += [
            f"netweight_model_session_seconds{labels} {SESSION_SECONDS}",
            f"netweight_model_warm_up_seconds{labels} {WARM_UP_SECONDS}",
            f"netweight_model_resident_bytes{labels} {known('HELD_BYTES')}",
            f'netweight_requests_total{{model="{MODEL}",code="OK"}} {self.answered}',
            f"netweight_inferences_total{labels} {self.answered}",
        ]
        return "\n".join(lines) + "\n"


def bytes_that_count(count: int) -> bytes:
    """Return bytes that are really in memory: zeros would be pages that nobody has touched."""
    return b"\1" * count


def metrics(server: Known) -> int:
    """Serve the page in a thread; return its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.page().encode())

        def log_message(self, *_: Any) -> None:
            pass

    pages = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    return pages.server_port


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    known_ = Known()
    server = grpc.server(ThreadPoolExecutor(2))
    calls = {"ModelInfer": known_.infer, "RepositoryModelUnload": known_.unload, "RepositoryIndex": known_.index}
    methods = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in calls.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods) for name in SERVICES])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    time.sleep(known("START_SECONDS"))
    page = f"http://127.0.0.1:{metrics(known_)}/metrics"
    print(f"netweight ready grpc=127.0.0.1:{port} metrics={page} models=1/1 seconds=0", flush=True)
    signal.sigwait({signal.SIGTERM})
    server.stop(None).wait()


if __name__ == "__main__":
    main()

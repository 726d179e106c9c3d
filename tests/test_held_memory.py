"""What is held for a model in memory and on a GPU; the GPU is a metrics page that says so."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from compare import held_memory
from compare.held_memory import Memories
from compare.metrics_page import ModelFigures
from compare.place import Place


@contextmanager
def pages(*gpu_bytes: int | None) -> Iterator[str]:
    """Serve metrics pages, one after the other, that tell these bytes of GPU memory; None: no GPU."""
    told = iter(gpu_bytes)

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            held = next(told)
            self.send_response(200)
            self.end_headers()
            if held is not None:
                self.wfile.write(f'netweight_gpu_process_memory_bytes{{gpu_uuid="GPU-1"}} {held}\n'.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the models that were unloaded."""
    models: list[str] = []
    monkeypatch.setattr(held_memory, "unload", lambda _address, model: models.append(model))
    return models


def place(url: str) -> Place:
    """Return this very process as if it were the server."""
    server: Any = SimpleNamespace(pid=os.getpid())
    return Place("127.0.0.1:1", url, server)


def test_memory_of_a_gpu(unloaded: list[str]) -> None:
    """Ready, at most in between, and given back by unloading are told apart; the page tells what loading added."""
    with pages(500, 900, 800, 100) as url:
        memories = Memories(place(url))
        memories.look()
        held, gpu = memories.end("tiny", ModelFigures(resident_bytes=1000, gpu_memory_bytes=400))
    assert unloaded == ["tiny"]
    assert gpu is not None
    assert (gpu.added_bytes, gpu.process_bytes, gpu.peak_bytes, gpu.given_back_bytes) == (400, 500, 900, 700)
    assert held is not None
    assert held.added_bytes == 1000
    assert (held.peak_bytes or 0) >= (held.process_bytes or 0) > 0


def test_memory_without_a_gpu(unloaded: list[str]) -> None:
    """Where the page tells nothing of a GPU, nothing is made up; nor of memory, where it does not tell what was added."""
    with pages(None, None, None) as url:
        assert Memories(place(url)).end("tiny", ModelFigures()) == (None, None)
    assert unloaded == ["tiny"]

"""What a version costs on its way to a server: compressed as a registry sends it, optimised as a session holds it."""

from __future__ import annotations

import io
import os
import tarfile
import time
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

GZIP_LEVEL, ZSTD_LEVEL = 6, 3
"""Docker's defaults for an image's layers: gzip as zlib does by default, zstd as its command does."""

SERVER_IMAGE_BYTES = 145_000_000
"""The layers of netweight's CPU image on top of python:3.11-slim-bookworm, uncompressed, as `make image-sizes` saw them
(docs/deployment.md)."""

_SERVER_IMAGE = "layers of netweight:cpu above python:3.11-slim-bookworm, uncompressed (docs/deployment.md)"

_BLOCK_BYTES = 4 * 2**20
_HISTORY_BYTES = 2**15
"""What gzip looks back on: a block begins with the end of the one before, so that blocks side by side cost nothing."""

_GZIP_FRAME_BYTES = 10 + 2 + 8
"""Header, the mark of the last block, checksum and length."""

_PROTOBUF_BYTES = 2 * 10**9
"""From here on a graph cannot hold its weights itself."""


def deployment(files: Sequence[Path], *, server_image_bytes: int = SERVER_IMAGE_BYTES) -> dict[str, Any]:
    """Measure what a version's files cost to deploy.

    Args:
        files: The ONNX file, then what lies beside it.
        server_image_bytes: Of the server without a model, for the model's share.

    Returns:
        For the card: ``bytes`` of the files; ``registry`` with the size of one image layer that holds them, by gzip
        and by zstd; ``optimized_bytes`` of the graph as ONNX Runtime's CPU provider writes it at the server's level of
        optimisation, which may depend on the machine; ``image`` with the model's share of a server image that holds it.
    """
    size = sum(file.stat().st_size for file in files)
    start = time.perf_counter()
    gzip_bytes, zstd_bytes = compressed(files)
    return {
        "bytes": size,
        "registry": {
            "gzip_bytes": gzip_bytes,
            "gzip_level": GZIP_LEVEL,
            "zstd_bytes": zstd_bytes,
            "zstd_level": ZSTD_LEVEL,
            "seconds": round(time.perf_counter() - start, 2),
        },
        "optimized_bytes": optimized_bytes(files[0], external=size > _PROTOBUF_BYTES),
        "image": {
            "server_bytes": server_image_bytes,
            "source": _SERVER_IMAGE,
            "model_share": size / (size + server_image_bytes),
        },
    }


def compressed(files: Sequence[Path]) -> tuple[int, int]:
    """Return how many bytes the files take as one compressed layer, a tar archive: by gzip, and by zstd.

    Every core is used; zlib and zstandard give the interpreter free while they work.
    """
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        layer = _Layer(workers)
        with tarfile.open(fileobj=layer, mode="w|", bufsize=_BLOCK_BYTES) as archive:
            for file in files:
                archive.add(file, arcname=file.name, filter=_anonymous)
        return layer.finish()


def optimized_bytes(path: Path, *, external: bool = False) -> int:
    """Return the bytes of the graph, with its weights, after ONNX Runtime has optimised it as for a server.

    Args:
        path: The ONNX file; a directory beside it holds the optimised one for as long as this takes.
        external: Whether weights are to be written beside the graph: more than a graph can hold itself.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; it would warn that the result depends on the machine
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    with TemporaryDirectory(dir=path.parent, prefix=".optimized-") as directory:
        target = Path(directory) / path.name
        options.optimized_model_filepath = str(target)
        if external:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return sum(each.stat().st_size for each in target.parent.iterdir())


class _Layer(io.RawIOBase):
    """A file that is only compressed and counted."""

    def __init__(self, workers: ThreadPoolExecutor) -> None:
        self.workers = workers
        self.zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=-1).compressobj()
        self.zstd_bytes = 0
        self.gzip_bytes = _GZIP_FRAME_BYTES
        self.blocks: deque[Future[int]] = deque()
        """Of gzip, under way; twice as many as there are cores at most, which bounds the memory."""
        self.history = b""

    def write(self, data: Any, /) -> int:
        """Compress one block: by zstd here, by gzip in a worker."""
        block = bytes(data)
        self.blocks.append(self.workers.submit(_deflated, block, self.history))
        self.history = block[-_HISTORY_BYTES:]
        self.zstd_bytes += len(self.zstd.compress(block))
        while len(self.blocks) > 2 * (os.cpu_count() or 1):
            self.gzip_bytes += self.blocks.popleft().result()
        return len(block)

    def finish(self) -> tuple[int, int]:
        """Return the bytes by gzip and by zstd."""
        self.gzip_bytes += sum(block.result() for block in self.blocks)
        return self.gzip_bytes, self.zstd_bytes + len(self.zstd.flush())


def _deflated(block: bytes, history: bytes) -> int:
    """Return how long one block of a gzip stream becomes."""
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=history)
    return len(deflate.compress(block)) + len(deflate.flush(zlib.Z_SYNC_FLUSH))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the file and when, so that the same files give the same size."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry

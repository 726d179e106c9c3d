"""What a model takes to ship: the bytes of its files, and what Zstandard makes of them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from compare.cost import Disk
from models.environment import usable_cores

if TYPE_CHECKING:
    from compare.card import Card

ZSTANDARD_LEVEL = 3
"""The default of Zstandard's own program, and of the builders that compress images with it."""
CHUNK_BYTES = 2**20
NOT_SHIPPED = frozenset({"card.json"})


def disk(card: Card, repository: Path | None) -> Disk:
    """Return what a version of a model takes to ship; without its files the compressed bytes are unknown."""
    folder = None if repository is None else repository / card.name / str(card.version)
    return Disk(
        onnx_bytes=card.onnx_bytes,
        compressed_bytes=compressed_bytes(folder) if folder and folder.is_dir() else None,
        checkpoint_bytes=card.checkpoint_bytes,
        layers=card.layers,
    )


def compressed_bytes(folder: Path) -> int:
    """Return the bytes of a version's graph and weights through Zstandard, each file by itself."""
    total = 0
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in NOT_SHIPPED:
            facts = path.stat()
            total += _compressed(path, facts.st_size, facts.st_mtime_ns)
    return total


@lru_cache
def _compressed(path: Path, size: int, changed: int) -> int:  # noqa: ARG001  a file that changed is another one
    """Return the compressed bytes of one file; nothing is kept of them."""
    compressor = zstandard.ZstdCompressor(level=ZSTANDARD_LEVEL, threads=usable_cores())
    with path.open("rb") as source, Path(os.devnull).open("wb") as nowhere:
        _, written = compressor.copy_stream(source, nowhere, size=size, read_size=CHUNK_BYTES)
    return written

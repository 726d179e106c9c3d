"""Text files that appear whole or not at all, their directory made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.atomic import replacing

if TYPE_CHECKING:
    from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""Which pictures of a folder can be read: each is decoded once, and what was found is kept for the next time."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from models.atomic import replacing
from models.environment import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SCHEMA = "netweight-pictures/1"
_SECONDS_BETWEEN_REPORTS = 10.0


@dataclass
class Memory:
    """What was found out about a folder as it now is."""

    path: Path | None
    """The file that keeps it; None: it is kept in memory only."""
    digest: str
    """Of the pictures."""
    facts: dict[str, Any]
    changed: bool
    """Whether the file was of other pictures, so that nothing in it holds any more."""

    def get(self, key: str, find: Callable[[], Any]) -> Any:
        """Return what is known under `key`; else find it, and know it from now on."""
        if key not in self.facts:
            self.facts[key] = find()
            self._write()
        return self.facts[key]

    def _write(self) -> None:
        """Keep what is known."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {"schema": SCHEMA, "digest": self.digest, "facts": self.facts}
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def remember(path: Path | None, folder: Path, names: Sequence[str]) -> Memory:
    """Return what a file knows of a folder's pictures: nothing once one of them has changed, or where it is broken."""
    digest = _digest(folder, names)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
        if content["schema"] != SCHEMA:
            return Memory(path, digest, {}, changed=False)
        changed = content["digest"] != digest
        return Memory(path, digest, {} if changed else dict(content["facts"]), changed)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Memory(path, digest, {}, changed=False)


def unreadable(folder: Path, names: Sequence[str], report: Callable[[str], None]) -> dict[str, str]:
    """Decode each picture; return the names of those that cannot be, each with the reason."""
    found: dict[str, str] = {}
    began = reported = time.monotonic()
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow decodes without Python's lock
        for done, (name, damage) in enumerate(
            zip(names, threads.map(_damage, map(folder.joinpath, names)), strict=True)
        ):
            if damage:
                found[name] = damage
            now = time.monotonic()
            if now - reported > _SECONDS_BETWEEN_REPORTS:
                left = (now - began) / (done + 1) * (len(names) - done - 1)
                report(f"  checked {done + 1:,} of {len(names):,} pictures, about {left:.0f} s left")
                reported = now
    return found


def reason(failure: Exception) -> str:
    """Return in one line why a picture could not be read."""
    known = {"UnidentifiedImageError": "no picture", "FileNotFoundError": "no such file"}
    return known.get(type(failure).__name__) or " ".join(str(failure).split()) or type(failure).__name__


def _damage(path: Path) -> str | None:
    """Return why a picture cannot be read, None where it can."""
    try:
        with Image.open(path) as picture:
            picture.draft(picture.mode, (1, 1))  # a JPEG's smallest form: all of the file is read, in less time
            picture.load()
    except Exception as failure:  # noqa: BLE001 - whatever a damaged file makes Pillow raise
        return reason(failure)
    return None


def _digest(folder: Path, names: Sequence[str]) -> str:
    """Return a digest of the names, the bytes and the times of all pictures."""
    digest = hashlib.sha256()
    for name in names:
        try:
            stat = (folder / name).stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{name}\0\n".encode(errors="surrogateescape"))
    return digest.hexdigest()

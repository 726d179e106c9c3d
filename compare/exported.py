"""What `netweight export` is asked to make, and whether all of it stands in a repository already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compare.card import SCHEMA, versions

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Export:
    """One call of `netweight export`.

    Attributes:
        network: its name in the catalogue.
        makes: the models that it publishes, as the repository calls them.
        checkpoint: whose weights they have; None: random ones, untrained.
        sha256: of the checkpoint.
        options: further words of the command line.
    """

    network: str
    makes: tuple[str, ...]
    checkpoint: Path | None = None
    sha256: str | None = None
    options: tuple[str, ...] = ()

    def words(self, repository: Path) -> list[str]:
        """Return the command line, after ``netweight``."""
        weights = "random" if self.checkpoint is None else str(self.checkpoint)
        return ["export", self.network, "--weights", weights, "--repository", str(repository), *self.options]

    def stands(self, repository: Path) -> bool:
        """Whether the newest version of each of its models is whole and of these very weights."""
        return all(self._is(repository / name / str((versions(repository, name) or [0])[-1])) for name in self.makes)

    def _is(self, folder: Path) -> bool:
        card = _read(folder / "card.json")
        files = (card.get("graph") or {}).get("files") or {}
        return bool(files) and _origin(card) == self.sha256 and all(_whole(folder, *each) for each in files.items())


def _origin(card: dict[str, Any]) -> str | None:
    """Return the SHA-256 of the checkpoint that a model was made from, that from before its head was changed."""
    head = card.get("head") or {}
    source = head.get("origin") or card.get("weights") or {}
    digest: str | None = source.get("sha256")
    return digest


def _whole(folder: Path, name: str, facts: dict[str, Any]) -> bool:
    file = folder / name
    return file.is_file() and bool(file.stat().st_size == facts["bytes"])


def _read(path: Path) -> dict[str, Any]:
    """Read a card; an empty one where there is none that the export wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) and values.get("schema") == SCHEMA else {}

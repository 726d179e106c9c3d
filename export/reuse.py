"""Whether a model's newest fp32 version is what an export would make again: the same origin, and its files are whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from export.card import FP32, SCHEMA, origin, sha256
from export.publish import CARD, Publication, newest

if TYPE_CHECKING:
    from pathlib import Path

    from export.build import Built


def find(repository: Path, name: str, built: Built, opset: int) -> Publication | None:
    """Return the newest version of a model where it has the same origin; None where it has to be made."""
    version = newest(repository / name)
    directory = repository / name / str(version)
    card = _card(directory / CARD)
    expected = json.loads(json.dumps(origin(built)))
    if {key: card.get(key) for key in expected} != expected or not _whole(directory, card, opset):
        return None
    return Publication(name, version, directory, card)


def _card(path: Path) -> dict[str, Any]:
    """Read a card; an empty one where there is none that the export wrote."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) and card.get("schema") == SCHEMA else {}


def _whole(directory: Path, card: dict[str, Any], opset: int) -> bool:
    """Whether the fp32 files that a card tells of lie there as they were written."""
    graph = card["graph"]
    if (graph["variant"], graph["opset"]) != (FP32, opset):
        return False
    paths = {directory / name: each["sha256"] for name, each in graph["files"].items()}
    return all(path.is_file() and sha256(path) == digest for path, digest in paths.items())

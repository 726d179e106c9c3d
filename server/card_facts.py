"""What a version's card.json tells of its model, for those who ask what it weighs.

The card comes with the model, from whoever exported or sent it: what is not of the type and range that is expected is
left out, and nothing of it prevents loading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server import card

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_TEXT = 200
"""Characters of a name or a title; a longer one is left out."""
MOST_LAYERS = 4096
MOST_PUBLISHED = 32
LARGEST = 2**63 - 1
"""What an int64 holds."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights."""

    name: str
    op: str
    parameters: int
    bytes: int
    multiply_accumulates: int
    """For one sample."""


@dataclass(frozen=True)
class Published:
    """An accuracy that the weights' publisher states, and nobody here has measured."""

    top1_percent: float
    top5_percent: float | None
    data: str
    source: str


@dataclass(frozen=True)
class Parity:
    """How far the graph's outputs were from those of the network that it was exported from."""

    max_absolute: float
    """The largest difference that was found."""
    tolerance: float | None
    """Relative to the largest output."""
    within_tolerance: bool | None


@dataclass(frozen=True)
class Facts:
    """Whatever the card tells; None, or nothing: it does not."""

    title: str = ""
    family: str = ""
    variant: str = ""
    """As it was exported: fp32, int8, ..."""
    reference: str = ""
    """The model that this one is a variant of."""
    trained: bool | None = None
    parameters: int | None = None
    multiply_accumulates: int | None = None
    """For one sample."""
    onnx_bytes: int | None = None
    """The graph and the weights beside it."""
    layers: tuple[Layer, ...] = ()
    heldout_accuracy: float | None = None
    """Share of the held-out images whose highest class is right, 0 to 1."""
    heldout_images: int | None = None
    published: tuple[Published, ...] = ()
    parity: Parity | None = None


NOTHING = Facts()


def read(directory: Path) -> Facts:
    """Return what the card in a version's directory tells; nothing where there is none, or none that can be read."""
    values = card.content(directory)
    architecture, graph = _dict(values, "architecture"), _dict(values, "graph")
    accuracy = _accuracy(values)
    return Facts(
        title=_text(architecture, "title"),
        family=_text(architecture, "family"),
        variant=_text(graph, "variant"),
        reference=_text(_dict(values, "reference"), "name"),
        trained=_flag(_dict(values, "weights"), "trained"),
        parameters=_count(values, "parameters"),
        multiply_accumulates=_count(values, "multiply_accumulates"),
        onnx_bytes=_count(graph, "onnx_bytes"),
        layers=_layers(values),
        heldout_accuracy=_number(accuracy, "top1", 1.0),
        heldout_images=_count(accuracy, "images"),
        published=_published(values),
        parity=_parity(_dict(values, "parity")),
    )


def _accuracy(values: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured on held-out images: on this graph, or else on the network before its export."""
    on_graph, before = _dict(values, "heldout"), _dict(values, "accuracy")
    if _number(on_graph, "top1", 1.0) is not None:
        return on_graph
    return before if before.get("split") == "held-out" else {}


def _layers(values: dict[str, Any]) -> tuple[Layer, ...]:
    """Return the layers; none if one of them does not fit, for shares of a part of them would mislead."""
    found = []
    for each in _dicts(values, "layers", MOST_LAYERS):
        counts = [_count(each, name) for name in ("parameters", "bytes", "multiply_accumulates")]
        name, op = _text(each, "name"), _text(each, "op")
        if not name or None in counts:
            return ()
        found.append(Layer(name, op, *[count or 0 for count in counts]))
    return tuple(found)


def _published(values: dict[str, Any]) -> tuple[Published, ...]:
    return tuple(
        Published(top1, _number(each, "top5_percent", 100.0), _text(each, "data"), _text(each, "source"))
        for each in _dicts(values, "published", MOST_PUBLISHED)
        if (top1 := _number(each, "top1_percent", 100.0)) is not None
    )


def _parity(values: dict[str, Any]) -> Parity | None:
    differences = [_number(each, "max_absolute") for each in _dicts(values, "batches", MOST_LAYERS)]
    known = [each for each in differences if each is not None]
    if not known:
        return None
    return Parity(max(known), _number(values, "tolerance"), _flag(values, "within_tolerance"))


def _dict(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _dicts(values: dict[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    """Return a list of objects; nothing if it has other elements, or more than ``most``."""
    found = values.get(name)
    if not isinstance(found, list) or len(found) > most or not all(isinstance(each, dict) for each in found):
        return []
    return found


def _text(values: dict[str, Any], name: str) -> str:
    """Return a text that fits into a message and onto a terminal."""
    found = values.get(name)
    return found if isinstance(found, str) and len(found) <= LONGEST_TEXT and found.isprintable() else ""


def _flag(values: dict[str, Any], name: str) -> bool | None:
    found = values.get(name)
    return found if isinstance(found, bool) else None


def _count(values: dict[str, Any], name: str) -> int | None:
    found = values.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= LARGEST else None


def _number(values: dict[str, Any], name: str, most: float = math.inf) -> float | None:
    """Return a finite number from 0 to ``most``."""
    found = values.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= min(most, 1e300):
        return None
    return float(found)

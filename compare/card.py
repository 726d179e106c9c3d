"""What a model repository says of a model: its card (written by the export) and its max batch size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from compare.cost import Layer, Published
from models.spec import NetweightError
from server.pb import model_config_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCHEMA = "netweight-card/1"


@dataclass(frozen=True)
class Reference:
    """The model that a variant or a lighter head was made from."""

    name: str
    version: int


@dataclass(frozen=True)
class Card:
    """The part of a ``card.json`` that a comparison needs."""

    name: str
    version: int
    title: str
    parameters: int | None
    """None: not known."""
    checkpoint_bytes: int | None
    checkpoint_sha256: str | None
    onnx_bytes: int
    trained: bool | None
    """None: not known, as of a model from elsewhere."""
    adaptation: str | None
    preprocessing: dict[str, Any]
    architecture: str | None = None
    family: str | None = None
    variant: str = "fp32"
    reference: Reference | None = None
    multiply_accumulates: int | None = None
    layers: tuple[Layer, ...] = ()
    published: Published | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Card:
        """Read a card's JSON values."""
        architecture, weights = values.get("architecture") or {}, values.get("weights") or {}
        parameters, trained = values.get("parameters"), weights.get("trained")
        reference = values.get("reference")
        return cls(
            name=values["name"],
            version=int(values["version"]),
            title=architecture.get("title") or values["name"],
            parameters=None if parameters is None else int(parameters),
            checkpoint_bytes=weights.get("checkpoint_bytes"),
            checkpoint_sha256=weights.get("sha256"),
            onnx_bytes=int(values["graph"]["onnx_bytes"]),
            trained=None if trained is None else bool(trained),
            adaptation=architecture.get("adaptation"),
            preprocessing=values.get("preprocessing") or {},
            architecture=architecture.get("name"),
            family=architecture.get("family"),
            variant=values["graph"].get("variant") or "fp32",
            reference=Reference(reference["name"], int(reference["version"])) if reference else None,
            multiply_accumulates=values.get("multiply_accumulates"),
            layers=tuple(_layer(each) for each in values.get("layers") or ()),
            published=best([_published(each) for each in values.get("published") or ()]),
        )


def model_names(repository: Path) -> list[str]:
    """Return the names of all models of a repository that have a card, in alphabetical order."""
    return sorted({path.parent.parent.name for path in repository.glob("*/*/card.json")})


def versions(repository: Path, model: str) -> list[int]:
    """Return the versions of a model that have a card, oldest first."""
    folders = (path.parent.name for path in (repository / model).glob("*/card.json"))
    return sorted(int(folder) for folder in folders if folder.isdecimal())


def read_card(repository: Path, model: str, version: int | None = None) -> Card:
    """Return the card of a version of a model, of the newest when no version is named."""
    known = versions(repository, model)
    if not known or (version is not None and version not in known):
        wanted = model if version is None else f"{model} version {version}"
        names = ", ".join(model_names(repository)) or "no model with a card"
        raise NetweightError(f"{wanted}: no card.json in repository {repository}, which has {names}; export it first")
    path = repository / model / str(version or known[-1]) / "card.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise NetweightError(f"{path}: expected schema {SCHEMA}, got {values.get('schema')!r}; export it again")
        return Card.from_dict(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetweightError(f"{path}: not a card that netweight wrote ({error!r}); export the model again") from error


def read_max_batch_size(repository: Path, model: str) -> int:
    """Return ``max_batch_size`` of a model's ``config.pbtxt``; 0 where it does not batch or has no such file."""
    path = repository / model / "config.pbtxt"
    if not path.is_file():
        return 0
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise NetweightError(f"{path}: not a model configuration: {error}") from error
    return config.max_batch_size


def best(published: Sequence[Published]) -> Published | None:
    """Return the accuracy with the highest top-1, of equals the last; its source tells whose it is."""
    return max(reversed(published), key=lambda each: each.top1_percent, default=None)


def _layer(values: dict[str, Any]) -> Layer:
    return Layer(
        values["name"],
        values["op"],
        int(values["parameters"]),
        int(values["bytes"]),
        int(values.get("multiply_accumulates") or 0),
    )


def _published(values: dict[str, Any]) -> Published:
    return Published(
        values["top1_percent"], values.get("top5_percent"), values.get("data") or "", values.get("source") or ""
    )

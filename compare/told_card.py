"""The card of a model: its repository's, or what the server itself tells of one that is not in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from compare.card import Card, Reference, best, read_card, versions
from compare.cost import Layer, Published
from compare.metrics_page import ModelFigures, parse_figures, read_page
from models.spec import NetweightError
from server.client import ClientError

if TYPE_CHECKING:
    from pathlib import Path

    from compare.place import Place
    from server.client import Client
    from server.pb import netweight_pb2


def card_of(client: Client, place: Place, repository: Path, model: str, version: int) -> Card:
    """Return the card of a version; where the repository has none, made of what the server tells.

    Raises:
        NetweightError: nobody tells how large its files are.
    """
    if version in versions(repository, model) or place.server:
        return read_card(repository, model, version)
    try:
        return _told(client.get_card(model, str(version)))
    except ClientError as error:
        if error.code != grpc.StatusCode.UNIMPLEMENTED:  # a server of the Open Inference Protocol alone
            raise
    figures = ModelFigures()
    if place.metrics_url:
        figures = parse_figures(read_page(place.metrics_url)).get((model, str(version)), figures)
    if figures.file_bytes is None:
        raise NetweightError(
            f"{model}: no card in repository {repository}, and the server does not tell its bytes;"
            " name its repository, or its metrics page with --metrics-url"
        )
    return _bare(model, version, figures.file_bytes, figures.parameters, figures.multiply_accumulates)


def _told(card: netweight_pb2.Card) -> Card:
    """Return a card as the server's Weighbridge tells it."""
    facts = card.facts
    published = [
        Published(
            each.top1_percent, each.top5_percent if each.HasField("top5_percent") else None, each.data, each.source
        )
        for each in facts.published
    ]
    return Card(
        name=card.model,
        version=int(card.version),
        title=facts.title or card.model,
        parameters=facts.parameters if facts.HasField("parameters") else None,
        checkpoint_bytes=None,
        checkpoint_sha256=None,
        onnx_bytes=card.load.file_bytes,
        trained=facts.trained if facts.HasField("trained") else None,
        adaptation=None,
        preprocessing={},
        family=facts.family or None,
        variant=facts.variant or "fp32",
        reference=Reference(facts.reference, 0) if facts.reference else None,
        multiply_accumulates=facts.multiply_accumulates if facts.HasField("multiply_accumulates") else None,
        layers=tuple(
            Layer(each.name, each.op, each.parameters, each.bytes, each.multiply_accumulates) for each in facts.layers
        ),
        published=best(published),
    )


def _bare(model: str, version: int, file_bytes: int, parameters: int | None, operations: int | None) -> Card:
    """Return the card of a model of which a metrics page tells a few figures."""
    return Card(
        name=model,
        version=version,
        title=model,
        parameters=parameters,
        checkpoint_bytes=None,
        checkpoint_sha256=None,
        onnx_bytes=file_bytes,
        trained=None,
        adaptation=None,
        preprocessing={},
        multiply_accumulates=operations,
    )

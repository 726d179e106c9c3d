"""Cost cards as people and programs read them: aligned columns, JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from server.pb import netweight_pb2 as pb

MB = 10**6
"""What lies on disk is told in MB."""
MIB = 2**20
"""Memory is told in MiB."""
DASH = "-"
"""Not known; never 0."""
TITLES = (
    "model",
    "version",
    "state",
    "variant",
    "parameters",
    "GMACs",
    "file MB",
    "resident MiB",
    "GPU MiB",
    "load s",
    "accuracy",
    "requests",
    "inferences",
    "batch",
    "pending",
    "p50 ms",
    "p99 ms",
)
WORDS = 4
"""Columns from the left that are words; the others are figures, flush right."""


def table(cards: Iterable[pb.Card]) -> str:
    """Return a line of titles and one for each card."""
    rows = [TITLES, *map(_row, cards)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < WORDS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(cards: Iterable[pb.Card]) -> str:
    """Return the cards as a list of objects, named as in proto/netweight.proto; what is not known is not there."""
    return json.dumps([plain(card) for card in cards], indent=2)


def as_line(message: Message) -> str:
    """Return a message as JSON in one line."""
    return json.dumps(plain(message))


def plain(message: Message) -> dict[str, Any]:
    """Return a message's set fields as an object, 64-bit numbers as numbers."""
    return {field.name: _plain(field, value) for field, value in message.ListFields()}


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is None:
        return value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return [plain(each) for each in value] if field.is_repeated else plain(value)


def _row(card: pb.Card) -> tuple[str, ...]:
    facts, load, traffic = card.facts, card.load, card.traffic
    held, timed = card.HasField("load"), traffic.HasField("latency")
    return (
        card.model,
        card.version,
        card.state,
        facts.variant or DASH,
        _if(facts.HasField("parameters"), facts.parameters, ",d"),
        _if(facts.HasField("multiply_accumulates"), facts.multiply_accumulates / 1e9, ".3f"),
        _if(held, load.file_bytes / MB, ".1f"),
        _if(held, load.resident_bytes / MIB, ".1f"),
        _if(load.HasField("gpu_bytes"), load.gpu_bytes / MIB, ".1f"),
        _if(held, load.seconds, ".3f"),
        _if(facts.HasField("heldout_accuracy"), facts.heldout_accuracy, ".4f"),
        str(sum(traffic.requests.values())),
        str(traffic.inferences),
        _if(traffic.HasField("mean_batch_size"), traffic.mean_batch_size, ".2f"),
        _if(traffic.HasField("pending"), traffic.pending, "d"),
        _if(timed, traffic.latency.p50_seconds * 1e3, ".1f"),
        _if(timed, traffic.latency.p99_seconds * 1e3, ".1f"),
    )


def _if(known: bool, value: float, form: str) -> str:
    return format(value, form) if known else DASH

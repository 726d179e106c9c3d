"""A model's configuration as text: protobuf's text format or JSON, and the fields in it that this server does not know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, text_format

from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST_CHARACTERS = 4_000_000
"""Of a configuration; a text that is longer is not looked at."""
LONGEST_REASON = 500
"""Characters of what a parser says."""
LONGEST_NAME, MOST_LISTED = 100, 20
"""Characters of a field's name, and fields, that a message has."""
QUOTES = ("'", '"')
OPENING, CLOSING = ("{", "<"), ("}", ">")


def from_text(text: str, source: str) -> pb.ModelConfig:
    """Return the configuration that is written in protobuf's text format; fields that are not known are passed over.

    Args:
        text: the file's.
        source: names the text in the message.

    Raises:
        ModelLoadError: the text is no ModelConfig; the message has line and column.
    """
    config = pb.ModelConfig()
    _check_length(text, source)
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise ModelLoadError(f"{source} cannot be read: {_one_line(error)}") from error
    return config


def from_json(text: str, source: str) -> pb.ModelConfig:
    """Return the configuration that is written in JSON; fields that are not known are passed over.

    Raises:
        ModelLoadError: the text is no ModelConfig.
    """
    config = pb.ModelConfig()
    _check_length(text, source)
    if not text.lstrip().startswith("{"):
        raise ModelLoadError(f"{source} cannot be read: expected a JSON object")
    try:
        json_format.Parse(text, config, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError, ValueError) as error:
        raise ModelLoadError(f"{source} cannot be read: {_one_line(error)}") from error
    return config


def unknown_in_text(text: str) -> list[str]:
    """Return the fields of a text that `from_text` has read but does not know, each as ``instance_group.colour``."""
    return sorted(set(_in_message(text_format.Tokenizer(text.split("\n")), pb.ModelConfig.DESCRIPTOR, "")))


def unknown_in_json(text: str) -> list[str]:
    """Return the fields of a text that `from_json` has read but does not know."""
    return sorted(set(_in_object(json.loads(text), pb.ModelConfig.DESCRIPTOR, "")))


def _check_length(text: str, source: str) -> None:
    if len(text) > LONGEST_CHARACTERS:
        raise ModelLoadError(f"{source} cannot be read: {len(text)} characters; expected at most {LONGEST_CHARACTERS}")


def listed(names: Sequence[str]) -> str:
    """Return fields as a message lists them: in one line, and not all of very many."""
    more = f", and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(_printable(name)[:LONGEST_NAME] for name in names[:MOST_LISTED]) + more


def _one_line(error: Exception) -> str:
    return _printable(" ".join(str(error).split()))[:LONGEST_REASON]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _in_message(tokens: Any, kind: Any, above: str) -> Iterator[str]:
    """Walk over the fields of a message up to the token that closes it; the text is known to be well formed.

    Args:
        tokens: a `text_format.Tokenizer`.
        kind: the message's descriptor.
        above: the path down to here.
    """
    while not tokens.AtEnd() and tokens.token not in CLOSING:
        name = tokens.token
        tokens.NextToken()
        if name in (",", ";"):
            continue
        field = kind.fields_by_name.get(name)
        if field is None:
            yield above + name
        tokens.TryConsume(":")
        message = field.message_type if field is not None else None
        yield from _in_value(tokens, message, f"{above}{name}.")


def _in_value(tokens: Any, kind: Any, above: str) -> Iterator[str]:
    """Walk over a field's value: a message of this kind (None: of none that is known), a list, or scalars."""
    if tokens.TryConsume("["):
        while not tokens.AtEnd() and not tokens.TryConsume("]"):
            yield from _in_value(tokens, kind, above)
            tokens.TryConsume(",")
    elif tokens.token in OPENING:
        if kind is None:
            _skip_message(tokens)
        else:
            tokens.NextToken()
            yield from _in_message(tokens, kind, above)
            tokens.NextToken()
    else:
        quoted = tokens.token.startswith(QUOTES)
        tokens.NextToken()
        while quoted and tokens.token.startswith(QUOTES):  # a string in several parts
            tokens.NextToken()


def _skip_message(tokens: Any) -> None:
    depth = 0
    while not tokens.AtEnd():
        depth += (tokens.token in OPENING) - (tokens.token in CLOSING)
        tokens.NextToken()
        if depth == 0:
            return


def _in_object(value: Any, kind: Any, above: str) -> Iterator[str]:
    """Walk over a JSON object that was read as a message, whose fields are named as declared or in lowerCamelCase."""
    if not isinstance(value, dict):
        return
    if kind.GetOptions().map_entry:
        held = kind.fields_by_name["value"].message_type
        for key, each in value.items():
            yield from _in_object(each, held, f"{above}{key}.") if held is not None else ()
        return
    by_name = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    for name, given in value.items():
        field = by_name.get(name)
        if field is None:
            yield above + name
        elif field.message_type is not None:
            for each in given if isinstance(given, list) else [given]:
                yield from _in_object(each, field.message_type, f"{above}{field.name}.")

"""How good bytes and good messages are made bad."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
BYTES_OF_NOTE = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\xff\xff\xff\xff", b"\xff" * 9 + b"\x01", b"\x80" * 10 + b"\x01")
STRINGS_OF_NOTE = (
    "",
    "\x00",
    "../..",
    "/etc/passwd",
    "é" * 400,
    "x" * 20_000,
    "-1",
    "\N{FULLWIDTH DIGIT ONE}",
    "9" * 5000,
    "1e9",
    "%s{0}",
)
MOST_EDITS = 4

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@st.composite
def mutated(draw: Draw, raw: bytes, most: int = MOST_EDITS) -> bytes:
    """Return these bytes with a few spans overwritten, cut out, doubled or put in, or the end cut off."""
    changed = bytearray(raw)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, most)))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.sampled_from((1, 2, 4, 8, 64, 1024))))
        what = draw(st.sampled_from(("flip", "flip", "overwrite", "replace", "cut", "double", "insert", "truncate")))
        if what == "overwrite":
            changed[at:end] = draw(st.sampled_from(BYTES_OF_NOTE))[:1] * (end - at)
        elif what == "replace":
            changed[at:end] = draw(st.sampled_from(BYTES_OF_NOTE))
        elif what == "flip" and at < len(changed):
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del changed[at:end]
        elif what == "double":
            changed[at:at] = changed[at:end]
        elif what == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif what == "truncate":
            del changed[at:]
    return bytes(changed)


@st.composite
def edited(draw: Draw, good: Message, words: tuple[str, ...], most: int = MOST_EDITS) -> Any:
    """Return a copy of this message with a few fields changed, whatever they are.

    Args:
        draw: of hypothesis.
        good: not changed itself.
        words: that strings are drawn from, besides those of note.
        most: edits; there may be none.
    """
    message = type(good)()
    message.CopyFrom(good)
    for _ in range(draw(st.integers(0, most))):
        _edit(draw, message, words)
    return message


def _edit(draw: Draw, message: Message, words: tuple[str, ...]) -> None:
    present = [field for field, _ in message.ListFields()]
    fields = present if present and draw(st.integers(0, 3)) else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = draw(st.sampled_from(fields))
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _edit_map(draw, message, field, words)
    elif field.is_repeated:
        _edit_list(draw, getattr(message, field.name), field, words)
    elif field.message_type is None:
        setattr(message, field.name, draw(_scalar(field, words)))
    elif draw(st.integers(0, 4)):
        child = getattr(message, field.name)
        child.SetInParent()
        _edit(draw, child, words)
    else:
        message.ClearField(field.name)


def _edit_map(draw: Draw, message: Message, field: FieldDescriptor, words: tuple[str, ...]) -> None:
    entries = getattr(message, field.name)
    assert field.message_type is not None
    key_field, value_field = (field.message_type.fields_by_number[number] for number in (1, 2))
    keys = _scalar(key_field, words)
    key = draw(st.sampled_from(sorted(entries)) if entries and draw(st.booleans()) else keys)
    if value_field.message_type is not None:
        _edit(draw, entries[key], words)
    else:
        entries[key] = draw(_scalar(value_field, words))


def _edit_list(draw: Draw, items: Any, field: FieldDescriptor, words: tuple[str, ...]) -> None:
    at = draw(st.integers(0, len(items) - 1)) if items else 0
    what = draw(st.sampled_from(("change", "change", "change", "append", "double", "remove", "reverse")))
    if what == "remove" and items:
        del items[at]
    elif what == "double" and items:
        items.extend([items[at]])
    elif what == "reverse" and field.message_type is None:
        items[:] = list(items)[::-1]
    elif field.message_type is not None:
        _edit(draw, items[at] if items and what == "change" else items.add(), words)
    elif items and what == "change":
        items[at] = draw(_scalar(field, words))
    else:
        items.append(draw(_scalar(field, words)))


def _scalar(field: FieldDescriptor, words: tuple[str, ...]) -> st.SearchStrategy[Any]:
    enum: tuple[int, ...] = ()
    if field.enum_type is not None:
        enum = (*(value.number for value in field.enum_type.values), *(() if field.enum_type.is_closed else (99, -1)))
    return _values(field.type, field.cpp_type, enum, words)


@cache
def _values(kind: int, cpp_kind: int, enum: tuple[int, ...], words: tuple[str, ...]) -> st.SearchStrategy[Any]:
    if enum:
        return st.sampled_from(enum)
    if cpp_kind in _INTEGERS:
        low, high = _INTEGERS[cpp_kind]
        return st.sampled_from((low, high, 0, 1, max(low, -1), 2, 4, 31, 33, 2**16, high // 2)) | st.integers(low, high)
    if cpp_kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.floats(width=32)
    if cpp_kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from((*BYTES_OF_NOTE, b"\x02\x00\x00\x00ab", bytes(16), bytes(64))) | st.binary(max_size=64)
    return st.sampled_from((*words, *STRINGS_OF_NOTE)) | st.text(max_size=8)

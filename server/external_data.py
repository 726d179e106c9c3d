"""Where a graph says that its weights lie: read off the ONNX file before ONNX Runtime opens it, without the onnx package.

ONNX Runtime 1.32 refuses locations that lead out as well; this does not depend on its version, and says more clearly
what is wrong. The file is mapped, and only what leads to a location is read: gigabytes of weights inside cost nothing.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from server import paths
from server.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
    "external data": {1: "key", 2: "value"},
}
"""The messages of onnx.proto on the way to a location, by their fields' numbers."""
DEEPEST = 100
"""Messages inside each other: protobuf's own limit."""
MOST_FIELDS = 5_000_000
"""That are looked at, which takes seconds; a graph of 100,000 nodes has about three million."""
LONGEST_BYTES = 4096
"""Of a location."""
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}
LONGEST_VARINT = 10


def check(path: Path) -> None:
    """See that a graph's external data are files of its own directory. ONNX Runtime's own format (.ort) is passed over.

    Raises:
        ModelLoadError: the file is no ONNX graph, or names data that are absolute, climb, are a link that leads out, or
            are not there.
    """
    if path.suffix == ".ort":
        return
    what = f"{path.name}: external data"
    for location in sorted(locations(path)):
        if not paths.inside(path.parent, location, what).is_file():
            raise ModelLoadError(f"{what} {paths.shown(location)} is no file; expected it beside {path.name}")


def locations(path: Path) -> set[str]:
    """Return the locations of external data that a graph names: in its weights, attributes, branches and functions.

    Raises:
        ModelLoadError: the file cannot be read, or is no ONNX graph.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return set(Walk(content).locations())
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{path.name} is no ONNX graph that can be read: {error}") from error


class Walk:
    """One way through a serialised ModelProto, over everything that is not on the way to a location."""

    def __init__(self, content: mmap.mmap | bytes) -> None:
        self._content = content
        self.fields = 0
        """Looked at so far."""

    def locations(self) -> Iterator[str]:
        """Find every location.

        Raises:
            ValueError: this is no protobuf message, or one that is too large to look through.
        """
        ahead = [("model", 0, len(self._content), 0)]
        while ahead:
            kind, start, end, depth = ahead.pop()
            if depth > DEEPEST:
                raise ValueError(f"more than {DEEPEST} messages inside each other")
            parts = self._parts(kind, start, end)
            if kind == "external data":
                yield from self._location(list(parts))
            else:
                ahead += [(part, first, last, depth + 1) for part, first, last in parts]

    def _location(self, parts: list[tuple[str, int, int]]) -> Iterator[str]:
        """Return the values of an entry of external_data whose key is location."""
        if not any(part == "key" and self._content[start:end] == b"location" for part, start, end in parts):
            return
        for part, start, end in parts:
            if part == "value":
                if end - start > LONGEST_BYTES:
                    raise ValueError(f"a location of {end - start} bytes")
                yield self._content[start:end].decode()

    def _parts(self, kind: str, at: int, end: int) -> Iterator[tuple[str, int, int]]:
        """Find the fields of a message that lead on: what each of them is, where it begins, and where it ends."""
        wanted = FIELDS[kind]
        while at < end:
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise ValueError(f"more than {MOST_FIELDS} fields")
            tag, at = self._varint(at)
            wire_type = tag & 7
            if wire_type == LENGTH_DELIMITED:
                length, start = self._varint(at)
                at = start + length
                if at <= end and (part := wanted.get(tag >> 3)):
                    yield part, start, at
            elif wire_type == VARINT:
                _, at = self._varint(at)
            elif wire_type in FIXED_BYTES:
                at += FIXED_BYTES[wire_type]
            else:
                raise ValueError(f"wire type {wire_type} before byte {at}")
        if at > end:
            raise ValueError(f"a {kind} ends inside a field, at byte {end}")

    def _varint(self, at: int) -> tuple[int, int]:
        """Return the number at a place, and the place after it."""
        if at < len(self._content) and self._content[at] < 128:  # most are short
            return self._content[at], at + 1
        value = shift = 0
        for place, byte in enumerate(self._content[at : at + LONGEST_VARINT], at + 1):
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
            shift += 7
        raise ValueError(f"no number at byte {at}")

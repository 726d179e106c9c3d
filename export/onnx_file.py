"""An ONNX file from elsewhere, with the files beside it that hold its weights: found, read, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIX = ".onnx"
_USUAL = "model.onnx"

_DATATYPES = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}

DOMAINS = ("", "ai.onnx")
"""The names of ONNX's own operators."""


@dataclass(frozen=True)
class OnnxFile:
    """A graph as it came; weights beside it are not read."""

    path: Path
    model: onnx.ModelProto
    locations: tuple[str, ...]
    """Of the files that hold weights, relative to the graph's directory and inside it."""

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0: it uses none."""
        return max((each.version for each in self.model.opset_import if each.domain in DOMAINS), default=0)


def find(path: Path) -> Path:
    """Return the ONNX file that a path names: itself, or the one in that directory.

    Raises:
        NetweightError: nothing is there, or a directory holds none or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise NetweightError(f"no ONNX file at {path}: give the path of a file, or of a directory with one in it")
    there = sorted(path.glob(f"*{_SUFFIX}"))
    usual = [each for each in there if each.name == _USUAL]
    if len(there) == 1 or usual:
        return (usual or there)[0]
    names = ", ".join(each.name for each in there) or f"no *{_SUFFIX}"
    raise NetweightError(f"{path} has {names}: expected one ONNX file; give the path of the file itself")


def read(path: Path) -> OnnxFile:
    """Read a graph and check it with ONNX's own checker.

    Raises:
        NetweightError: it is no ONNX graph, breaks ONNX's rules, or names weights outside its directory.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise NetweightError(
            f"{path} is not an ONNX file: reading it failed with {first_line(error)}; expected a whole file, below 2 GiB but "
            "for weights beside it"
        ) from error
    if not model.HasField("graph"):
        raise NetweightError(f"{path} is not an ONNX file: it holds no graph; copy it again, or export it again")
    if strange := next((each for each in model.graph.initializer if each.data_type not in _DATATYPES), None):
        raise NetweightError(f"{path} breaks ONNX's rules: {strange.name} is of no datatype, {strange.data_type}")
    locations = tuple(sorted({_location(tensor) for tensor in _outside(model)}))
    for location in locations:
        _check_location(path, location)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise NetweightError(f"{path} breaks ONNX's rules: {first_line(error)}; export it again") from error
    return OnnxFile(path, model, locations)


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Find the tensors whose values lie in other files: weights, attributes, those in branches and functions."""
    return (each for each in _tensors(model) if each.data_location == onnx.TensorProto.EXTERNAL)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Find every tensor inside a message."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                yield from _tensors(each)


def _location(tensor: onnx.TensorProto) -> str:
    """Return the file that a tensor says that its values lie in; empty where it says none."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _check_location(path: Path, location: str) -> None:
    """Make sure that weights lie below the graph's directory.

    Raises:
        NetweightError: the location is absolute, climbs, is a link that leads out, or is no file.
    """
    directory = path.parent
    steps = PurePosixPath(location)
    if not location or steps.is_absolute() or ".." in steps.parts or "\\" in location or "\0" in location:
        raise NetweightError(f"{path} names weights in {location!r}: expected a file below its own directory")
    if not (directory / location).resolve().is_relative_to(directory.resolve()):
        raise NetweightError(
            f"{path} names weights in {location!r}, a link that leads out of its directory; copy the file"
        )
    if not (directory / location).is_file():
        raise NetweightError(f"{path} names weights in {location!r}, which is no file; put it beside the graph")

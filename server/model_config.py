"""A model's configuration: read from config.pbtxt, filled in from the graph, and held against it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from server import config_fields, config_text, tuning
from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.reshape import contradiction
from server.tensors import TensorSpec, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from server.session import Session

log = logging.getLogger(__name__)
FILE = tuning.FILE
DEFAULT_MAX_BATCH_SIZE = 32
"""For a graph whose every tensor begins with a dynamic dimension, when no configuration says otherwise."""
DEFAULT_FILENAME = "model.onnx"
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
FORMATTED_RANK = 3
"""Extents that FORMAT_NHWC and FORMAT_NCHW speak of."""


def read(directory: Path) -> pb.ModelConfig:
    """Return the configuration that a model's directory holds; an empty one where there is none.

    Raises:
        ModelLoadError: the file is no ModelConfig in text format, is for another model or runtime, or has a field that
            no model may have here.
    """
    config = config_text.from_text(_text(directory), FILE)
    _check_kind(config, directory.name, FILE)
    return config


def unknown(directory: Path) -> list[str]:
    """Return the fields of the file that this server does not know, of a later Triton, say; none if `read` refuses it."""
    try:
        text = _text(directory)
        config_text.from_text(text, FILE)
    except ModelLoadError:
        return []
    return config_text.unknown_in_text(text)


def from_json(text: str, name: str) -> pb.ModelConfig:
    """Return the configuration that a Load call carries in place of the file's.

    Args:
        text: a ModelConfig as JSON, its fields named as in the file or in lowerCamelCase.
        name: of the model.

    Raises:
        ModelLoadError: as of `read`.
    """
    config = config_text.from_json(text, "config")
    _check_kind(config, name, "config")
    if names := config_text.unknown_in_json(text):
        log.warning("model %s: config: not acted on: %s", name, config_text.listed(names))
    return config


def _text(directory: Path) -> str:
    try:
        return (directory / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (UnicodeDecodeError, OSError) as error:
        raise ModelLoadError(f"{FILE} cannot be read: {error}") from error


def _check_kind(config: pb.ModelConfig, name: str, source: str) -> None:
    """Refuse what is for another model, for another runtime, or changes what an answer means."""
    if config.name not in ("", name):
        raise ModelLoadError(f"{source} says name {config.name!r}, its directory says {name!r}; mend either")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        raise ModelLoadError(
            f"{source} asks for platform {config.platform!r}, backend {config.backend!r}; "
            f"this server runs {PLATFORM!r}, {BACKEND!r}"
        )
    if fields := config_fields.refused(config):
        raise ModelLoadError(
            f"{source} has {', '.join(fields)}, which this server does not do; remove it or serve it elsewhere"
        )


def complete(config: pb.ModelConfig, name: str, session: Session) -> pb.ModelConfig:
    """Return the configuration with everything that it leaves open filled in from the graph.

    Raises:
        ModelLoadError: the configuration contradicts the graph; the message names the field and both sides.
    """
    full = pb.ModelConfig()
    full.CopyFrom(config)
    full.name, full.platform, full.backend = name, PLATFORM, BACKEND
    full.default_model_filename = full.default_model_filename or DEFAULT_FILENAME
    full.max_batch_size = _max_batch_size(config, session)
    batches = full.max_batch_size > 0
    _match("input", full.input, session.inputs, session.overridable, batches=batches)
    _match("output", full.output, session.outputs, (), batches=batches)
    if not full.instance_group:
        full.instance_group.add(count=1)
    if not full.version_policy.WhichOneof("policy_choice"):
        full.version_policy.latest.num_versions = 1
    if batches:
        full.dynamic_batching.SetInParent()
    return full


def specs(tensors: Iterable[pb.ModelInput] | Iterable[pb.ModelOutput], batches: bool) -> tuple[TensorSpec, ...]:
    """Return what the configuration's inputs or outputs look like to a caller, batch dimension included."""
    return tuple(
        TensorSpec(tensor.name, datatype(tensor.data_type), ((-1,) if batches else ()) + tuple(tensor.dims))
        for tensor in tensors
    )


def _max_batch_size(config: pb.ModelConfig, session: Session) -> int:
    """Return what the configuration says, or what the graph allows where it says nothing."""
    largest = config.max_batch_size
    fixed = [spec for spec in (*session.inputs, *session.outputs) if spec.shape[:1] != (-1,)]
    if largest < 0:
        raise ModelLoadError(f"{FILE} says max_batch_size {largest}; expected 0 or more")
    if largest and fixed:
        raise ModelLoadError(
            f"{FILE} says max_batch_size {largest}, but {fixed[0]} has no dynamic first dimension; "
            "export it with a dynamic batch, or say max_batch_size: 0"
        )
    if largest or fixed or (config.input and config.output):
        return largest
    shapes = {spec.name: spec.shape for spec in (*session.inputs, *session.outputs)}
    listed: list[Any] = [*config.input, *config.output]
    leave_batch_out = [len(_graph_dims(tensor)) == len(shapes.get(tensor.name, ())) - 1 for tensor in listed]
    return DEFAULT_MAX_BATCH_SIZE if all(leave_batch_out) else 0


def _match(kind: str, listed: Any, graph: Sequence[TensorSpec], spare: Sequence[TensorSpec], *, batches: bool) -> None:
    """Hold the listed tensors against the graph's, then add those that are not listed.

    Args:
        kind: input or output.
        listed: the configuration's; changed in place.
        graph: what must be there.
        spare: what may be: weights that a request may replace.
        batches: whether a batch dimension stands in front, which the configuration leaves out.
    """
    by_name = {spec.name: spec for spec in (*spare, *graph)}
    names = [tensor.name for tensor in listed]
    for tensor in listed:
        spec = by_name.get(tensor.name)
        if spec is None:
            there = ", ".join(spec.name for spec in graph) or "none"
            raise ModelLoadError(f"{FILE} has {kind} {tensor.name!r}; the graph has {there}")
        if names.count(tensor.name) > 1:
            raise ModelLoadError(f"{FILE} has {kind} {tensor.name!r} twice; list it once")
        _check(f"{FILE}: {kind} {tensor.name!r}", tensor, spec, batches=batches)
        if kind == "input":
            _check_input(f"{FILE}: input {tensor.name!r}", tensor, is_weight=spec not in graph, batches=batches)
    missing = [spec for spec in graph if spec.name not in names]
    if kind == "input" and listed and missing:
        raise ModelLoadError(f"{FILE} lists inputs but not {missing[0]}; list every input or none")
    for spec in missing:
        dims = spec.shape[1:] if batches else spec.shape
        added = listed.add(name=spec.name, data_type=_data_type(spec.datatype), dims=dims or (1,))
        if not dims:  # as Triton does: dims are never empty
            added.reshape.SetInParent()


def _check(where: str, tensor: pb.ModelInput | pb.ModelOutput, spec: TensorSpec, *, batches: bool) -> None:
    """Hold one tensor against the graph's."""
    if tensor.data_type != _data_type(spec.datatype):
        raise ModelLoadError(f"{where} is {_data_type_name(tensor.data_type)}; the graph has {spec.datatype}")
    there = spec.shape[1:] if batches else spec.shape
    dims = tuple(tensor.dims)
    if dims == (1,) and not there:
        tensor.reshape.SetInParent()  # a scalar
    if tensor.HasField("reshape") and (why := contradiction(dims, tuple(tensor.reshape.shape))):
        raise ModelLoadError(f"{where} has dims {show(dims)} and reshape {show(_graph_dims(tensor))}: {why}")
    here = _graph_dims(tensor)
    if not _fits(here, there):
        field = "reshape" if tensor.HasField("reshape") else "dims"
        without = " without the batch" if batches else ""
        raise ModelLoadError(
            f"{where} has {field} {show(here)}; the graph has {show(there)}{without}{_advice(here, spec, batches)}"
        )


def _check_input(where: str, tensor: pb.ModelInput, *, is_weight: bool, batches: bool) -> None:
    """Hold what only inputs have against the graph."""
    if tensor.format not in pb.ModelInput.Format.DESCRIPTOR.values_by_number:
        raise ModelLoadError(f"{where} has format {tensor.format}; expected FORMAT_NONE, FORMAT_NHWC or FORMAT_NCHW")
    if tensor.format != pb.ModelInput.FORMAT_NONE and len(tensor.dims) != FORMATTED_RANK:
        name = pb.ModelInput.Format.Name(tensor.format)
        raise ModelLoadError(f"{where} has format {name} and dims {show(tuple(tensor.dims))}; expected three dims")
    if is_weight and batches:
        raise ModelLoadError(f"{where} is a weight of the graph, which has no batch; say max_batch_size: 0")
    if tensor.optional and not is_weight:
        log.warning("%s is optional, but the graph has no value for it: requests must give it", where)
        tensor.optional = False


def _graph_dims(tensor: pb.ModelInput | pb.ModelOutput) -> tuple[int, ...]:
    """Return the shape that the graph is to have, as the configuration says, without the batch."""
    return tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def _fits(here: tuple[int, ...], there: tuple[int, ...]) -> bool:
    """Whether a configuration's shape narrows the graph's down, or is the same."""
    return len(here) == len(there) and all(have in (-1, want) for want, have in zip(here, there, strict=True))


def _advice(here: tuple[int, ...], spec: TensorSpec, batches: bool) -> str:
    if batches and _fits(here, spec.shape):
        return "; leave the batch out of dims"
    if not batches and spec.shape[:1] == (-1,) and _fits(here, spec.shape[1:]):
        return "; say max_batch_size, or begin dims with -1"
    return ""


def _data_type(datatype: str) -> int:
    """Return the configuration's value for the protocol's datatype: FP32 -> TYPE_FP32, BYTES -> TYPE_STRING."""
    return pb.DataType.Value("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")


def _data_type_name(value: int) -> str:
    known = pb.DataType.DESCRIPTOR.values_by_number.get(value)
    return known.name if known else f"data_type {value}"


def datatype(value: int) -> str:
    """Return the protocol's name of a configuration's data type: TYPE_FP32 -> FP32, TYPE_STRING -> BYTES."""
    name = _data_type_name(value)
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")

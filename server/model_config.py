"""A model's configuration: read from config.pbtxt, filled in from the graph, and held against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.tensors import TensorSpec, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from server.session import Session

FILE = "config.pbtxt"
DEFAULT_MAX_BATCH_SIZE = 32
"""For a graph whose every tensor begins with a dynamic dimension, when no configuration says otherwise."""
PLATFORM = "onnxruntime_onnx"
ACTED_ON = frozenset(
    {
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "input",
        "output",
        "version_policy",
        "instance_group",
        "dynamic_batching",
        "default_model_filename",
    }
)
"""Fields that this server acts on; others are named in a warning."""
REFUSED = ("sequence_batching", "ensemble_scheduling")
"""Fields that change what an answer means: a model that needs them is not served without them."""

_ENUM = {"BYTES": "TYPE_STRING"}


def datatype(value: int) -> str:
    """Return the protocol's name of a configuration's data type: TYPE_FP32 -> FP32, TYPE_STRING -> BYTES."""
    name = pb.DataType.Name(value)
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")


def read(directory: Path) -> pb.ModelConfig:
    """Return the configuration that a model's directory holds; an empty one where there is none.

    Raises:
        ModelLoadError: the file is no ModelConfig in text format, or is for another model or runtime.
    """
    path = directory / FILE
    config = pb.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except FileNotFoundError:
        return config
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise ModelLoadError(f"{FILE} cannot be read: {error}") from error
    if config.name not in ("", directory.name):
        raise ModelLoadError(f"{FILE} says name {config.name!r}, its directory says {directory.name!r}; mend either")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", "onnxruntime"):
        raise ModelLoadError(
            f"{FILE} asks for platform {config.platform!r}, backend {config.backend!r}; "
            f"this server runs {PLATFORM!r}, 'onnxruntime'"
        )
    for field in REFUSED:
        if config.HasField(field):
            raise ModelLoadError(f"{FILE} has {field}, which this server does not do; remove it or serve it elsewhere")
    return config


def ignored(config: pb.ModelConfig) -> list[str]:
    """Return the fields that are set and that this server does not act on."""
    names = [field.name for field, _ in config.ListFields() if field.name not in ACTED_ON]
    batching = config.dynamic_batching
    acted_on = {"default_queue_policy"}
    names += [f"dynamic_batching.{field.name}" for field, _ in batching.ListFields() if field.name not in acted_on]
    return names


def complete(config: pb.ModelConfig, name: str, session: Session) -> pb.ModelConfig:
    """Return the configuration with everything that it leaves open filled in from the graph.

    Raises:
        ModelLoadError: the configuration contradicts the graph; the message names the field and both sides.
    """
    full = pb.ModelConfig()
    full.CopyFrom(config)
    full.name, full.platform, full.backend = name, PLATFORM, "onnxruntime"
    full.default_model_filename = full.default_model_filename or "model.onnx"
    tensors = (*session.inputs, *session.outputs)
    can_batch = all(spec.shape[:1] == (-1,) for spec in tensors)
    if not config.input and not config.output and not config.max_batch_size:
        full.max_batch_size = DEFAULT_MAX_BATCH_SIZE if can_batch else 0
    if full.max_batch_size < 0:
        raise ModelLoadError(f"{FILE} says max_batch_size {full.max_batch_size}; expected 0 or more")
    if full.max_batch_size and not can_batch:
        fixed = next(spec for spec in tensors if spec.shape[:1] != (-1,))
        raise ModelLoadError(
            f"{FILE} says max_batch_size {full.max_batch_size}, but {fixed} has no dynamic first dimension; "
            "export it with a dynamic batch, or say max_batch_size: 0"
        )
    batches = full.max_batch_size > 0
    _match("input", full.input, session.inputs, batches)
    _match("output", full.output, session.outputs, batches)
    if not full.instance_group:
        full.instance_group.add(count=1)
    return full


def specs(tensors: Iterable[pb.ModelInput] | Iterable[pb.ModelOutput], batches: bool) -> tuple[TensorSpec, ...]:
    """Return what the configuration's inputs or outputs look like to a caller, batch dimension included."""
    return tuple(
        TensorSpec(tensor.name, datatype(tensor.data_type), ((-1,) if batches else ()) + tuple(tensor.dims))
        for tensor in tensors
    )


def _match(kind: str, listed: Any, graph: Sequence[TensorSpec], batches: bool) -> None:
    """Hold the listed tensors against the graph's, then add those that are not listed."""
    by_name = {spec.name: spec for spec in graph}
    for tensor in listed:
        spec = by_name.get(tensor.name)
        if spec is None:
            raise ModelLoadError(f"{FILE} has {kind} {tensor.name!r}; the graph has {', '.join(by_name) or 'none'}")
        if tensor.HasField("reshape"):
            raise ModelLoadError(f"{FILE}: {kind} {tensor.name!r} has reshape, which this server does not do yet")
        _check(kind, tensor, spec, batches)
    missing = [spec for spec in graph if spec.name not in {tensor.name for tensor in listed}]
    if kind == "input" and listed and missing:
        raise ModelLoadError(f"{FILE} lists inputs but not {missing[0]}; list every input or none")
    for spec in missing:
        listed.add(
            name=spec.name,
            data_type=pb.DataType.Value(_ENUM.get(spec.datatype, f"TYPE_{spec.datatype}")),
            dims=spec.shape[1:] if batches else spec.shape,
        )


def _check(kind: str, tensor: pb.ModelInput | pb.ModelOutput, spec: TensorSpec, batches: bool) -> None:
    where = f"{FILE}: {kind} {tensor.name!r}"
    if datatype(tensor.data_type) != spec.datatype:
        raise ModelLoadError(f"{where} is {pb.DataType.Name(tensor.data_type)}; the graph has {spec.datatype}")
    graph_dims = spec.shape[1:] if batches else spec.shape
    dims = tuple(tensor.dims)
    fits = len(dims) == len(graph_dims) and all(
        -1 in (want, have) or want == have for want, have in zip(dims, graph_dims, strict=True)
    )
    if not fits:
        raise ModelLoadError(f"{where} has dims {show(dims)}; the graph has {show(graph_dims)} without the batch")

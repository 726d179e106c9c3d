"""A model's configuration: read from config.pbtxt, filled in from the graph, and held against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from server.batcher import QueuePolicy, Scheduling
from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.provider_options import CUDA_OPTIONS, TENSORRT_OPTIONS, Tuning
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
        "optimization",
        "parameters",
    }
)
"""Fields that this server acts on; others are named in a warning."""
MOST_LEVELS = 1000
REFUSED = ("sequence_batching", "ensemble_scheduling")
"""Fields that change what an answer means: a model that needs them is not served without them."""

SCHEDULED = frozenset(
    {
        "preferred_batch_size",
        "max_queue_delay_microseconds",
        "priority_levels",
        "default_priority_level",
        "default_queue_policy",
        "priority_queue_policy",
    }
)
"""Fields of `dynamic_batching` that this server acts on."""
OPTIMIZATION = frozenset({"graph", "cuda", "execution_accelerators", "input_pinned_memory", "output_pinned_memory"})
"""Fields of `optimization` that this server acts on."""
SESSION_PARAMETERS = frozenset(
    {
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
        "session.use_device_allocator_for_initializers",
    }
)
"""Keys of `parameters` that concern the session; keys of the CUDA provider's options are acted on too."""
_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_NUMBERED = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
"""Options that Triton's `parameters` give as a number."""

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
    names += [f"dynamic_batching.{field.name}" for field, _ in batching.ListFields() if field.name not in SCHEDULED]
    optimization, cuda = config.optimization, config.optimization.cuda
    names += [f"optimization.{field.name}" for field, _ in optimization.ListFields() if field.name not in OPTIMIZATION]
    names += [f"optimization.cuda.{field.name}" for field, _ in cuda.ListFields() if field.name != "graphs"]
    if optimization.execution_accelerators.cpu_execution_accelerator:
        names.append("optimization.execution_accelerators.cpu_execution_accelerator")
    names += [f"parameters.{key}" for key in sorted(config.parameters) if key not in CUDA_OPTIONS | SESSION_PARAMETERS]
    return names


def scheduling(config: pb.ModelConfig, instances: int, max_queue_size: int, queue_timeout_seconds: float) -> Scheduling:
    """Return how a model's batches are made: what `dynamic_batching` says, and the server's bounds where it says nothing.

    Args:
        config: filled in.
        instances: batches side by side; 0: in the thread that flushes.
        max_queue_size: the server's setting.
        queue_timeout_seconds: the server's setting.

    Raises:
        ModelLoadError: sizes or levels contradict each other.
    """
    batching = config.dynamic_batching
    largest = max(1, config.max_batch_size)
    preferred = sorted(set(batching.preferred_batch_size))
    if preferred and not 1 <= preferred[0] <= preferred[-1] <= largest:
        raise ModelLoadError(f"{FILE} has preferred_batch_size {preferred}; expected 1 to max_batch_size {largest}")
    levels = batching.priority_levels
    default = batching.default_priority_level or (1 if not levels else 0)
    if levels > MOST_LEVELS or (levels and not 1 <= default <= levels):
        raise ModelLoadError(
            f"{FILE} has priority_levels {levels} and default_priority_level {default}; "
            f"expected at most {MOST_LEVELS} levels, and a default from 1 to that"
        )
    if strange := [level for level in batching.priority_queue_policy if not 1 <= level <= levels]:
        raise ModelLoadError(f"{FILE} has a priority_queue_policy for level {strange[0]}; expected 1 to {levels}")
    server = QueuePolicy(max_queue_size, queue_timeout_seconds)
    policy = _policy(batching.default_queue_policy, server) if batching.HasField("default_queue_policy") else server
    return Scheduling(
        max_batch_size=largest,
        instances=instances,
        preferred_batch_sizes=tuple(preferred),
        max_queue_delay_seconds=batching.max_queue_delay_microseconds / 1e6,
        levels=levels or 1,
        default_level=default,
        policy=policy,
        policies={level: _policy(given, server) for level, given in batching.priority_queue_policy.items()},
    )


def _policy(given: pb.ModelQueuePolicy, server: QueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=given.max_queue_size or server.max_queue_size,
        timeout_seconds=given.default_timeout_microseconds / 1e6 or server.timeout_seconds,
        timeout_delays=given.timeout_action == pb.ModelQueuePolicy.DELAY,
        allow_timeout_override=given.allow_timeout_override,
    )


def tuning(config: pb.ModelConfig) -> Tuning:
    """Return what a configuration asks of ONNX Runtime, named as Triton's onnxruntime backend names it.

    Raises:
        ModelLoadError: an accelerator or one of its options is unknown, or a value is of the wrong kind.
    """
    optimization = config.optimization
    cuda, session = _parameters(config)
    accelerators = optimization.execution_accelerators.gpu_execution_accelerator
    trt: dict[str, str] = {}
    for each in accelerators:
        if each.name == "tensorrt":
            trt |= _tensorrt(dict(each.parameters))
        elif each.name == "cuda":
            cuda |= _known(each.name, {key: _named(key, each.parameters[key]) for key in each.parameters}, CUDA_OPTIONS)
        else:
            raise ModelLoadError(f"{FILE} has the accelerator {each.name!r}; this server has 'tensorrt' and 'cuda'")
    return Tuning(
        graph_level=optimization.graph.level,
        cuda_graphs=optimization.cuda.graphs if optimization.HasField("cuda") else None,
        input_pinned=optimization.input_pinned_memory.enable if optimization.HasField("input_pinned_memory") else True,
        output_pinned=(
            optimization.output_pinned_memory.enable if optimization.HasField("output_pinned_memory") else True
        ),
        tensorrt=any(each.name == "tensorrt" for each in accelerators),
        cuda=cuda,
        trt=trt,
        session=session,
    )


def _parameters(config: pb.ModelConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Return those `parameters` that are options of CUDA, and those of the session; others are not ours."""
    cuda, session = {}, {}
    for key in config.parameters:
        value = config.parameters[key].string_value
        if key in CUDA_OPTIONS:
            cuda[key] = _named(key, value)
        elif key in SESSION_PARAMETERS:
            if not value.isascii() or not value.isdecimal():
                raise ModelLoadError(f"{FILE}: parameter {key} is {value!r}; expected a number")
            session[key] = value
    return cuda, session


def _tensorrt(given: dict[str, str]) -> dict[str, str]:
    precision = given.pop("precision_mode", "FP32")
    if precision not in _PRECISIONS:
        raise ModelLoadError(f"{FILE}: tensorrt's precision_mode is {precision!r}; expected {', '.join(_PRECISIONS)}")
    options = {_TENSORRT_NAMES.get(key, key): value for key, value in given.items()}
    return _PRECISIONS[precision] | _known("tensorrt", options, TENSORRT_OPTIONS)


def _known(accelerator: str, options: dict[str, str], known: frozenset[str]) -> dict[str, str]:
    if unknown := sorted(options.keys() - known):
        raise ModelLoadError(
            f"{FILE}: accelerator {accelerator} has the option {unknown[0]!r}; expected one of {', '.join(sorted(known))}"
        )
    return options


def _named(key: str, value: str) -> str:
    names = _NUMBERED.get(key, ())
    return names[int(value)] if value.isdecimal() and int(value) < len(names) else value


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

"""What a model's configuration asks of ONNX Runtime, named as Triton's onnxruntime backend names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.errors import ModelLoadError
from server.paths import check_file_name, shown
from server.provider_options import CUDA_OPTIONS, TENSORRT_OPTIONS, TENSORRT_PATHS, Tuning

if TYPE_CHECKING:
    from server.pb import model_config_pb2 as pb

FILE = "config.pbtxt"
CALIBRATION_TABLE = "trt_int8_calibration_table_name"
SESSION_SWITCHES = frozenset(
    {"enable_mem_arena", "enable_mem_pattern", "session.use_device_allocator_for_initializers"}
)
SESSION_PARAMETERS = SESSION_SWITCHES | {"intra_op_thread_count", "inter_op_thread_count", "execution_mode"}
"""Keys of `parameters` that concern the session."""
IMAGE_FILES = "image_files"
"""Tells callers which image files a model takes in place of pixels; the server writes it."""
PARAMETERS = CUDA_OPTIONS | SESSION_PARAMETERS | {"share_session_between_instances", IMAGE_FILES}
"""Keys of `parameters` that are acted on; instances share one session always."""
MOST_THREADS = 1024
"""Of ONNX Runtime; other numbers of `parameters` are smaller still."""
LONGEST_NUMBER = 20
"""Digits."""
_DIGITS = tuple("0123456789")
_SWITCHED = {"true": "1", "on": "1", "false": "0", "off": "0"}
_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
}
_NUMBERED = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
"""Options that Triton's `parameters` give as a number."""


def tuning_of(config: pb.ModelConfig, device: int | None = None) -> Tuning:
    """Return what a configuration asks of ONNX Runtime.

    Args:
        config: as it was read.
        device: the GPU that its instances are to run on; None: nothing is said.

    Raises:
        ModelLoadError: an accelerator or one of its options is unknown, or a value is of the wrong kind.
    """
    optimization = config.optimization
    cuda, session = _parameters(config)
    accelerators = optimization.execution_accelerators.gpu_execution_accelerator
    placed = {} if device is None else {"device_id": str(device)}
    trt: dict[str, str] = {}
    for each in accelerators:
        if each.name == "tensorrt":
            trt |= placed | _tensorrt(dict(each.parameters))
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
        cuda=placed | cuda,
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
            if key in SESSION_SWITCHES:
                value = _SWITCHED.get(value.lower(), value)
            if not value.isascii() or not value.isdecimal() or len(value) > LONGEST_NUMBER or int(value) > MOST_THREADS:
                raise ModelLoadError(f"{FILE}: parameter {key} is {shown(value)}; expected a number to {MOST_THREADS}")
            session[key] = value
    return cuda, session


def _tensorrt(given: dict[str, str]) -> dict[str, str]:
    precision = given.pop("precision_mode", "FP32")
    if precision not in _PRECISIONS:
        raise ModelLoadError(f"{FILE}: tensorrt's precision_mode is {precision!r}; expected {', '.join(_PRECISIONS)}")
    options = {_TENSORRT_NAMES.get(key, key): value for key, value in given.items()}
    if named := sorted(options.keys() & TENSORRT_PATHS):
        raise ModelLoadError(
            f"{FILE}: accelerator tensorrt has {named[0]}, which concerns this machine's files; give it to the server: "
            f"--provider-option {named[0]}=..."
        )
    if (table := options.get(CALIBRATION_TABLE)) is not None:
        check_file_name(table, f"{FILE}: {CALIBRATION_TABLE}")
    return _PRECISIONS[precision] | _known("tensorrt", options, TENSORRT_OPTIONS)


def _known(accelerator: str, options: dict[str, str], known: frozenset[str]) -> dict[str, str]:
    if unknown := sorted(options.keys() - known):
        raise ModelLoadError(
            f"{FILE}: accelerator {accelerator} has the option {unknown[0]!r}; expected one of {', '.join(sorted(known))}"
        )
    return options


def _named(key: str, value: str) -> str:
    names = _NUMBERED.get(key, ())
    return names[int(value)] if value in _DIGITS and int(value) < len(names) else value

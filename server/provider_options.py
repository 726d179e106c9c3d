"""The options of the execution providers: their names, and what a model's configuration asks for.

Settings and configurations are checked against these without ONNX Runtime, which takes long to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from server.errors import StartError

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

CUDA_OPTIONS = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "do_copy_in_default_stream",
        "enable_cudnn",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
"""What onnxruntime-gpu 1.31 reads, but for addresses in memory, and enable_cuda_graph, which is a setting of ours."""

TENSORRT_OPTIONS = frozenset(
    {
        "device_id",
        "trt_auxiliary_streams",
        "trt_bf16_enable",
        "trt_build_heuristics_enable",
        "trt_builder_optimization_level",
        "trt_context_memory_sharing_enable",
        "trt_detailed_build_log",
        "trt_dla_core",
        "trt_dla_enable",
        "trt_dump_ep_context_model",
        "trt_dump_subgraphs",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_engine_hw_compatible",
        "trt_ep_context_embed_mode",
        "trt_ep_context_file_path",
        "trt_extra_plugin_lib_paths",
        "trt_force_sequential_engine_build",
        "trt_force_timing_cache",
        "trt_fp16_enable",
        "trt_int8_calibration_table_name",
        "trt_int8_enable",
        "trt_int8_use_native_calibration_table",
        "trt_layer_norm_fp32_fallback",
        "trt_max_partition_iterations",
        "trt_max_workspace_size",
        "trt_min_subgraph_size",
        "trt_op_types_to_exclude",
        "trt_preview_features",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_sparsity_enable",
        "trt_tactic_sources",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "trt_weight_stripped_engine_enable",
    }
)
"""What onnxruntime-gpu 1.31 reads, but for addresses, and trt_cuda_graph_enable, whose runs are bound to one thread."""

TENSORRT_PATHS = frozenset(
    {
        "trt_dump_ep_context_model",
        "trt_dump_subgraphs",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_ep_context_file_path",
        "trt_extra_plugin_lib_paths",
        "trt_timing_cache_path",
    }
)
"""Those that write or name files, or libraries to run: the operator's to give, not a model's."""


@dataclass(frozen=True)
class Tuning:
    """What a model's configuration asks of ONNX Runtime, beside the batch."""

    graph_level: int = 0
    """Triton's: 0 all optimizations of the graph, 1 basic and extended, -1 basic, 2 none."""
    cuda_graphs: bool | None = None
    """None: the server's setting holds."""
    input_pinned: bool = True
    output_pinned: bool = True
    tensorrt: bool = False
    """Nodes go to TensorRT first, then to CUDA."""
    cuda: Mapping[str, str] = field(default_factory=dict)
    """Options of the CUDA provider, by ONNX Runtime's names."""
    trt: Mapping[str, str] = field(default_factory=dict)
    """Options of the TensorRT provider, by ONNX Runtime's names."""
    session: Mapping[str, str] = field(default_factory=dict)
    """Options of the session, by Triton's names: intra_op_thread_count, execution_mode, ..."""


def split(pairs: Iterable[str]) -> dict[str, str]:
    """Return ``KEY=VALUE`` words as a dictionary.

    Raises:
        StartError: a word is no pair, or names an option that neither provider has.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not value:
            raise StartError(f"provider option {pair!r}: expected KEY=VALUE, such as cudnn_conv_algo_search=EXHAUSTIVE")
        if name not in CUDA_OPTIONS | TENSORRT_OPTIONS:
            known = ", ".join(sorted(CUDA_OPTIONS))
            raise StartError(f"provider option {name!r} is unknown; expected trt_... or one of {known}")
        options[name] = value
    return options

"""Every field of a model's configuration, and whether this server acts on it, names it in a warning, or refuses it.

A path stands for all that lies below it. docs/triton.md says the same in words; a test holds both against the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from server.tuning import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.pb import model_config_pb2 as pb

Decision = Literal["acted on", "warned", "refused"]

ACTED_ON = frozenset(
    {
        "name",
        "platform",
        "backend",
        "version_policy",
        "max_batch_size",
        "input.name",
        "input.data_type",
        "input.format",
        "input.dims",
        "input.reshape",
        "input.optional",
        "output.name",
        "output.data_type",
        "output.dims",
        "output.reshape",
        "output.label_filename",
        "optimization.graph",
        "optimization.cuda.graphs",
        "optimization.execution_accelerators.gpu_execution_accelerator",
        "optimization.input_pinned_memory",
        "optimization.output_pinned_memory",
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.max_queue_delay_microseconds",
        "dynamic_batching.priority_levels",
        "dynamic_batching.default_priority_level",
        "dynamic_batching.default_queue_policy",
        "dynamic_batching.priority_queue_policy",
        "instance_group.name",
        "instance_group.kind",
        "instance_group.count",
        "instance_group.gpus",
        "default_model_filename",
        "parameters",
        "model_warmup",
    }
)
WARNED = frozenset(
    {
        "optimization.priority",
        "optimization.cuda.busy_wait_events",
        "optimization.cuda.graph_spec",
        "optimization.cuda.output_copy_stream",
        "optimization.execution_accelerators.cpu_execution_accelerator",
        "optimization.gather_kernel_buffer_threshold",
        "optimization.eager_batching",
        "dynamic_batching.preserve_ordering",
        "instance_group.rate_limiter",
        "instance_group.secondary_devices",
        "instance_group.profile",
        "instance_group.passive",
        "instance_group.host_policy",
        "cc_model_filenames",
        "metric_tags",
        "response_cache",
        "runtime",
        "model_metrics",
    }
)
"""Without them a model answers the same."""
REFUSED = frozenset(
    {
        "input.is_shape_tensor",
        "input.allow_ragged_batch",
        "input.is_non_linear_format_io",
        "output.is_shape_tensor",
        "output.is_non_linear_format_io",
        "batch_input",
        "batch_output",
        "sequence_batching",
        "ensemble_scheduling",
        "model_operations",
        "model_transaction_policy.decoupled",
        "model_repository_agents",
    }
)
"""They change what an answer means, or what is loaded: a model that needs them is not served without them."""
FIELDS: dict[str, Decision] = {
    **dict.fromkeys(ACTED_ON, "acted on"),
    **dict.fromkeys(WARNED, "warned"),
    **dict.fromkeys(REFUSED, "refused"),
}


def ignored(config: pb.ModelConfig) -> list[str]:
    """Return the fields that are set and that this server does not act on, each once."""
    names = [path for path, decision in _given(config, "") if decision == "warned"]
    names += [f"parameters.{key}" for key in sorted(config.parameters) if key not in PARAMETERS]
    return list(dict.fromkeys(names))


def refused(config: pb.ModelConfig) -> list[str]:
    """Return the fields that are set and that no model may have here."""
    return list(dict.fromkeys(path for path, decision in _given(config, "") if decision == "refused"))


def _given(message: Any, above: str) -> Iterator[tuple[str, Decision]]:
    """Find the fields that are set, down to the paths of `FIELDS`."""
    for field, value in message.ListFields():
        path = above + field.name
        if decision := FIELDS.get(path):
            yield path, decision
            continue
        for each in value if field.is_repeated else [value]:
            yield from _given(each, f"{path}.")

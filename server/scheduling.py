"""How a model's configuration wants its batches made: `dynamic_batching`, with the server's bounds beside it."""

from __future__ import annotations

from server.batcher import QueuePolicy, Scheduling
from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.tuning import FILE

MOST_LEVELS = 1000


def scheduling_of(
    config: pb.ModelConfig, instances: int, max_queue_size: int, queue_timeout_seconds: float
) -> Scheduling:
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

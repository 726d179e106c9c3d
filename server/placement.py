"""Where and how often a model runs side by side: what `instance_group` asks for."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.tuning import FILE

Group = pb.ModelInstanceGroup
MOST_INSTANCES = 1024
"""Of a model; each is a thread."""


@dataclass(frozen=True)
class Placement:
    """All groups together: a model has one session here, and its instances share it."""

    count: int = 0
    """Instances that are asked for; 0: nothing is said."""
    cpu_only: bool = False
    """Every group is for the CPU."""
    gpu: bool = False
    """Some group is for a GPU."""
    device: int | None = None
    """The first GPU that is named."""
    ignored: tuple[str, ...] = ()
    """What of it cannot be done with one session."""


def placement_of(config: pb.ModelConfig) -> Placement:
    """Return what a configuration's groups come to.

    Raises:
        ModelLoadError: a group contradicts itself.
    """
    groups = config.instance_group
    for group in groups:
        _check(group)
    count = sum(group.count or 1 for group in groups)
    if count > MOST_INSTANCES:
        raise ModelLoadError(f"{FILE}: instance_group asks for {count} instances; expected at most {MOST_INSTANCES}")
    kinds = {group.kind for group in groups}
    gpus = list(dict.fromkeys(gpu for group in groups for gpu in group.gpus))
    ignored = []
    if Group.KIND_MODEL in kinds:
        ignored.append("instance_group.kind KIND_MODEL")
    if Group.KIND_CPU in kinds and len(kinds) > 1:
        ignored.append("instance_group.kind KIND_CPU beside other kinds")
    if len(gpus) > 1:
        ignored.append(f"instance_group.gpus beyond the first, {gpus[0]}")
    return Placement(
        count=count,
        cpu_only=kinds == {Group.KIND_CPU},
        gpu=Group.KIND_GPU in kinds,
        device=gpus[0] if gpus else None,
        ignored=tuple(ignored),
    )


def _check(group: Group) -> None:
    kinds = Group.Kind.DESCRIPTOR.values_by_number
    if group.kind not in kinds:
        raise ModelLoadError(f"{FILE}: instance_group has kind {group.kind}; expected KIND_AUTO, KIND_CPU or KIND_GPU")
    if group.count < 0:
        raise ModelLoadError(f"{FILE}: instance_group has count {group.count}; expected 1 or more, or none")
    if group.kind == Group.KIND_CPU and group.gpus:
        raise ModelLoadError(f"{FILE}: instance_group has kind KIND_CPU and gpus {list(group.gpus)}; remove either")
    if any(gpu < 0 for gpu in group.gpus):
        raise ModelLoadError(f"{FILE}: instance_group has gpus {list(group.gpus)}; expected numbers from 0 on")

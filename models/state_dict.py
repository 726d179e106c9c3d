"""State dicts in files: loaded without running code, unwrapped, and their names fitted to a network's."""

from __future__ import annotations

import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from models.build import build
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from models.spec import Architecture

Tensors = dict[str, torch.Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
"""Under which keys programs keep the state dict beside their optimizer's; Lightning's is the first."""

COUNTER = "num_batches_tracked"
"""Of batch norm: older files lack it, and inference does not read it."""

_FORMER_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
"""Names of torchvision's published DenseNets: ``norm.1.weight`` is ``norm1.weight`` since dots went out of use."""


def load(path: Path) -> dict[str, Any]:
    """Unpickle tensors and plain values only; map the tensors' bytes rather than read them, where the format allows.

    Raises:
        NetweightError: no such file, or not a dictionary that `torch.save` wrote; a TorchScript archive is told apart.
    """
    if not path.is_file():
        raise NetweightError(
            f"no checkpoint at {path}: give --weights a file that exists, `random`, or published weights"
        )
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_programs(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise NetweightError(
            f"{path} is not a checkpoint: expected a file that torch.save wrote with tensors and plain values only, but "
            f"reading it failed with: {reason}; save its state dict alone: torch.save(module.state_dict(), path)"
        ) from error
    if not isinstance(content, dict):
        raise NetweightError(f"{path} is not a checkpoint: expected a state dict, got a {type(content).__name__}")
    return content


def _refuse_programs(path: Path) -> None:
    """Refuse archives that hold code beside the weights.

    Raises:
        NetweightError: TorchScript or torch.export wrote it.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or "archive_format" in inside:
        kind = "TorchScript" if "constants.pkl" in inside else "torch.export"
        raise NetweightError(
            f"{path} is a {kind} archive, a program rather than a checkpoint: save the weights of the module that it "
            "was made from, torch.save(module.state_dict(), path), or adopt an ONNX file made of it (netweight adopt)"
        )


def unwrap(content: Mapping[str, Any]) -> Tensors | None:
    """Return the state dict of a file's content: the content itself, or what lies under one of `WRAPPERS`; else None."""
    for found in (content, *(content.get(key) for key in WRAPPERS)):
        if isinstance(found, dict) and found and all(isinstance(each, torch.Tensor) for each in found.values()):
            return found
    return None


def fit(tensors: Tensors, architecture: Architecture) -> tuple[Tensors, tuple[str, ...]]:
    """Give tensors the names that the architecture's network has for them, where a prefix is all that differs.

    Lightning, DataParallel and torch.compile put one in front: ``network.``, ``module.``, ``_orig_mod.``.

    Returns:
        The tensors, with other names or as they were (the build then says what does not fit), and what was changed.

    Raises:
        NetweightError: more than one prefix fits, such as of a network and of its moving average.
    """
    wanted = _deployed_names(architecture)
    renamed = {_FORMER_DENSENET.sub(r"\1", name): tensor for name, tensor in tensors.items()}
    fitting = [prefix for prefix in _prefixes(renamed, wanted[0]) if all(prefix + name in renamed for name in wanted)]
    if not fitting:
        return tensors, ()
    if "" not in fitting and len(fitting) > 1:
        raise NetweightError(
            f"the checkpoint holds {architecture.name} {len(fitting)} times, under {' and '.join(sorted(fitting))}: save "
            "the one that you mean, torch.save(module.state_dict(), path)"
        )
    prefix = "" if "" in fitting else fitting[0]
    kept = {name.removeprefix(prefix): tensor for name, tensor in renamed.items() if name.startswith(prefix)}
    return kept, _told(prefix, [name for name in tensors if not name.startswith(prefix)])


def classes(tensors: Tensors, architecture: Architecture) -> int | None:
    """Return how many outputs the last linear layer or convolution has, of those in the deployed network if they fit."""
    names: Iterable[str] = _deployed_names(architecture)
    if not all(name in tensors for name in names):
        names = tensors
    matrices = [tensors[name] for name in names if tensors[name].dim() in {2, 4}]
    return matrices[-1].shape[0] if matrices else None


def shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Return shapes by name, but for batch norm's counters."""
    return {name: list(each.shape) for name, each in tensors.items() if not name.endswith(COUNTER)}


def _deployed_names(architecture: Architecture) -> list[str]:
    """Return the names in the state dict of the network without auxiliary heads."""
    with torch.device("meta"):
        return list(shapes(build(architecture, architecture.classes, deployed=True).state_dict()))


def _prefixes(names: Iterable[str], first: str) -> list[str]:
    """Return what stands before a network's first name, wherever it occurs."""
    return [name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")]


def _told(prefix: str, outside: Sequence[str]) -> tuple[str, ...]:
    """Say what was changed, in words."""
    if not prefix:
        return ()
    left = f"; {len(outside)} tensors outside it were left out (the first: {outside[0]})" if outside else ""
    return (f"the prefix {prefix} was taken off the weights' names{left}",)

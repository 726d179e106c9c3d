"""Where a network's weights come from: parsed from the command line's words, read from disk or fetched by torchvision."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import models.torchvision_on_cpu  # noqa: F401 - before torchvision, which is imported below when it is needed
from models.spec import Architecture, NetweightError, Preprocessing, Published, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKPOINT_FORMAT = "netweight-checkpoint/1"
"""What `models.train` writes into the checkpoints that it makes."""

_FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class State:
    """What weights bring along; None where they say nothing about it and the architecture's own holds."""

    weights: Weights
    """As given, with the file's SHA-256 and bytes."""
    tensors: Mapping[str, torch.Tensor] | None = None
    """The state dict, mapped from the file where its format allows; None: the network draws its own."""
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    small_images: bool = False
    """Whether the network was trained with `models.build`'s adaptation to small images."""
    accuracy: dict[str, Any] | None = None
    """As the training run measured it in torch."""
    published: tuple[Published, ...] | None = None
    """Figures that belong to these very weights; None: those of the architecture."""


def parse(text: str) -> Weights:
    """Read the words of the command line.

    Args:
        text: ``random`` or ``random:SEED``; a checkpoint file; or the name of torchvision's published weights
            (``IMAGENET1K_V1``, ``DEFAULT``). What has a directory or a checkpoint's suffix, or exists, is a file.

    Raises:
        NetweightError: the seed is not a number.
    """
    kind, _, seed = text.partition(":")
    if kind == "random":
        if seed and not seed.isdecimal():
            raise NetweightError(f"weights {text!r}: expected random or random:SEED with a number, got seed {seed!r}")
        return Weights("random", f"seed {seed or 0}")
    if os.sep in text or text.endswith(_FILE_SUFFIXES) or Path(text).is_file():
        return Weights("checkpoint", text)
    return Weights("published", text)


def read(weights: Weights, architecture: Architecture) -> State:
    """Read what `weights` names for a network of this architecture.

    Raises:
        NetweightError: no such file, not a checkpoint, a checkpoint of another network, unknown published weights, or
            they could not be downloaded.
    """
    if weights.kind == "random":
        return State(weights)
    if weights.kind == "checkpoint":
        return _read_checkpoint(weights, architecture)
    return _read_published(weights, architecture)


def seed(weights: Weights) -> int:
    """Return the seed of random weights, from their source ``seed N``."""
    return int(weights.source.removeprefix("seed "))


def _read_checkpoint(weights: Weights, architecture: Architecture) -> State:
    """Read a checkpoint of `models.train`, or a plain state dict such as torchvision's .pth files."""
    path = Path(weights.source)
    content = _load(path)
    described = replace(weights, source="/".join(path.parts[-2:]), sha256=_sha256(path), bytes=path.stat().st_size)
    if content.get("format") == CHECKPOINT_FORMAT:
        return _netweight_state(described, content, architecture)
    if content and all(isinstance(each, torch.Tensor) for each in content.values()):
        return State(described, content, classes=_last_layer_classes(content))
    raise NetweightError(
        f"{path} is not a checkpoint that netweight reads: expected {CHECKPOINT_FORMAT} (a training run's best.pt) or a "
        f"plain state dict of tensors, got a file with the keys {_few(map(str, content))}"
    )


def _load(path: Path) -> dict[str, Any]:
    """Unpickle tensors and plain values only; map the tensors' bytes rather than read them, where the format allows."""
    if not path.is_file():
        raise NetweightError(
            f"no checkpoint at {path}: give --weights a file that exists, `random`, or published weights"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise NetweightError(
            f"{path} is not a checkpoint: expected a file that torch.save wrote with tensors and plain values only, but "
            f"reading it failed with: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise NetweightError(f"{path} is not a checkpoint: expected a state dict, got a {type(content).__name__}")
    return content


def _netweight_state(weights: Weights, content: dict[str, Any], architecture: Architecture) -> State:
    """Take apart what `models.train` wrote."""
    if content["architecture"] != architecture.name:
        raise NetweightError(
            f"{weights.source} is a checkpoint of {content['architecture']}, not of {architecture.name}: export it as "
            f"{content['architecture']}, or give a checkpoint of {architecture.name}"
        )
    return State(
        weights,
        content["state_dict"],
        classes=content["classes"],
        class_names=tuple(content["class_names"]),
        preprocessing=Preprocessing.from_dict(content["preprocessing"]),
        small_images=content["adaptation"] is not None,
        accuracy=content["accuracy"],
    )


def _last_layer_classes(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Return how many outputs the last linear layer or convolution of a state dict has."""
    matrices = [tensor for tensor in tensors.values() if tensor.dim() in {2, 4}]
    return matrices[-1].shape[0] if matrices else None


def _read_published(weights: Weights, architecture: Architecture) -> State:
    """Let torchvision download its own weights into torch's cache, or find them there."""
    record = _published_record(weights.source, architecture)
    address = str(record.url)
    file = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    try:
        tensors = record.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise NetweightError(
            f"cannot get {architecture.name}'s published weights {record.name} from {address}: {reason}; mend the network, "
            f"or fetch the file elsewhere and put it at {file}, or give its path to --weights"
        ) from error
    crop = record.transforms()
    (size,) = crop.crop_size
    return State(
        Weights("published", f"torchvision {record.name}", _sha256(file), file.stat().st_size),
        tensors,
        classes=len(record.meta["categories"]),
        class_names=tuple(record.meta["categories"]),
        preprocessing=Preprocessing(
            height=size,
            width=size,
            channels=len(crop.mean),
            mean=tuple(crop.mean),
            std=tuple(crop.std),
            resize=crop.resize_size[0],
            interpolation=crop.interpolation.value,
        ),
        published=tuple(
            Published(figures["acc@1"], figures["acc@5"], data, f"torchvision {record.name}")
            for data, figures in record.meta["_metrics"].items()
        ),
    )


def _published_record(name: str, architecture: Architecture) -> Any:
    """Find torchvision's record of published weights by its name; ``DEFAULT`` is the best that there is."""
    from torchvision.models import get_model_weights

    try:
        records = get_model_weights(architecture.name)
    except ValueError as error:
        raise NetweightError(
            f"no weights {name!r} for {architecture.name}: torchvision publishes none for it and no such file exists; give "
            "--weights a checkpoint or `random`"
        ) from error
    if name not in records.__members__:
        there = ", ".join(sorted({*records.__members__, "DEFAULT"}))
        raise NetweightError(
            f"no weights {name!r} for {architecture.name}: no such file exists, and torchvision publishes {there}"
        )
    return records[name]


def _sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _few(names: Any, limit: int = 3) -> str:
    """Name the first few, and say that there are more."""
    every = list(names)
    return ", ".join(every[:limit]) + (", ..." if len(every) > limit else "")

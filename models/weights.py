"""Where a network's weights come from: parsed from the command line's words, read from disk or fetched by torchvision."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import published_weights, state_dict
from models.spec import Architecture, NetweightError, Preprocessing, Published, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

CHECKPOINT_FORMAT = "netweight-checkpoint/1"
"""What `models.train` writes into the checkpoints that it makes."""

_FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


class OtherNetworkError(NetweightError):
    """A checkpoint is of another network than the one that was asked for."""


@dataclass(frozen=True)
class State:
    """What weights bring along; None where they say nothing about it and the architecture's own holds."""

    weights: Weights
    """As given, with the file's SHA-256 and bytes."""
    tensors: Mapping[str, torch.Tensor] | None = None
    """The state dict, mapped from the file where its format allows; None: the network draws its own.

    Of a network with auxiliary heads it may hold these too.
    """
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    small_images: bool = False
    """Whether the network was trained with `models.build`'s adaptation to small images."""
    accuracy: dict[str, Any] | None = None
    """As the training run measured it in torch."""
    published: tuple[Published, ...] | None = None
    """Figures that belong to these very weights; None: those of the architecture."""
    data: str | None = None
    """The data set that the network was trained on, as `models.data.load` names it."""
    head: Mapping[str, Any] | None = None
    """What took the classifier's place (`models.heads`), and all that is known of it; None: nothing did."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the builder that the network was trained with; those that are missing are the record's."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the weights were read."""


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


def rebuilt(architecture: Architecture, state: State) -> Architecture:
    """Return the record of the very network that the weights are of: with the options that it was trained with.

    Nothing was published of a network with other options than the record's.
    """
    options = {**dict(architecture.options), **state.options}
    published = architecture.published if options == dict(architecture.options) else ()
    return replace(architecture, options=tuple(options.items()), published=published)


def _read_checkpoint(weights: Weights, architecture: Architecture) -> State:
    """Read a checkpoint of `models.train`, of Lightning or another program, or a state dict such as torchvision's files."""
    path = Path(weights.source)
    content = state_dict.load(path)
    described = replace(weights, source="/".join(path.parts[-2:]), sha256=_sha256(path), bytes=path.stat().st_size)
    if content.get("format") == CHECKPOINT_FORMAT:
        return _netweight_state(described, content, architecture)
    tensors = state_dict.unwrap(content)
    if tensors is None:
        raise NetweightError(
            f"{path} is not a checkpoint that netweight reads: expected {CHECKPOINT_FORMAT} (a training run's best.pt), a "
            f"state dict of tensors, or one under {' or '.join(state_dict.WRAPPERS)}; got a file with the keys "
            f"{_few(map(str, content))}"
        )
    if record := published_weights.of_file(path, described.sha256 or "", architecture):
        return _published_state(record, path, architecture)
    fitted, notes = state_dict.fit(tensors, architecture)
    return State(described, fitted, classes=state_dict.classes(fitted, architecture), notes=notes)


def _netweight_state(weights: Weights, content: dict[str, Any], architecture: Architecture) -> State:
    """Take apart what `models.train` wrote."""
    if content["architecture"] != architecture.name:
        raise OtherNetworkError(
            f"{weights.source} is a checkpoint of {content['architecture']}, not of {architecture.name}: ask for "
            f"{content['architecture']}, or give a checkpoint of {architecture.name}"
        )
    head = content.get("head")
    if head and head["origin"]["kind"] == "random":
        weights = replace(weights, kind="random")  # a lighter head does not make a trained network of it
    return State(
        weights,
        content["state_dict"],
        classes=content["classes"],
        class_names=tuple(content["class_names"]),
        preprocessing=Preprocessing.from_dict(content["preprocessing"]),
        small_images=content["adaptation"] is not None,
        accuracy=content["accuracy"],
        data=content.get("data"),
        head=head,
        options=_options(weights, content, architecture),
    )


def _options(weights: Weights, content: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """Return the builder's options in a checkpoint.

    Its builder must be the one that the catalogue or the command line names: a checkpoint does not choose what is run.

    Raises:
        NetweightError: it was trained by another builder, or with another value of an option.
    """
    builder = content.get("builder", architecture.builder)
    if builder != architecture.builder:
        raise NetweightError(
            f"{weights.source} was trained with the builder {builder}, not with {architecture.builder}: give --builder "
            f"{builder}, if you trust it"
        )
    options: dict[str, Any] = content.get("options") or {}
    for name, value in architecture.options:
        if name in options and options[name] != value:
            raise NetweightError(
                f"{weights.source} was trained with the builder's option {name}={options[name]!r}, asked for was "
                f"{value!r}: leave out --builder-option {name}"
            )
    return options


def _read_published(weights: Weights, architecture: Architecture) -> State:
    """Let torch fetch torchvision's own weights into its cache, or find them there."""
    record = published_weights.record(weights.source, architecture)
    return _published_state(record, published_weights.fetch(record, architecture), architecture)


def _published_state(record: Any, file: Path, architecture: Architecture) -> State:
    """Read a file of published weights."""
    described = Weights("published", f"torchvision {record.name}", _sha256(file), file.stat().st_size)
    tensors, notes = state_dict.fit(state_dict.load(file), architecture)
    facts = published_weights.facts(record, architecture)
    return State(
        described,
        tensors,
        classes=len(facts.class_names),
        class_names=facts.class_names,
        preprocessing=facts.preprocessing,
        published=facts.published,
        notes=(*published_weights.doubts(record, described.sha256 or ""), *notes),
    )


def _sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _few(names: Any, limit: int = 3) -> str:
    """Name the first few, and say that there are more."""
    every = list(names)
    return ", ".join(every[:limit]) + (", ..." if len(every) > limit else "")

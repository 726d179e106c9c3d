"""What a run starts from: its network with the weights that the request asks for, and the words to say so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models import build, catalog, initialize, lookup, state_dict, weights
from models.run import Origin
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    from typing import Any

    from torch import nn

    from models.run import Request
    from models.spec import Architecture


@dataclass(frozen=True)
class Start:
    """A network before its first step."""

    network: nn.Module
    head: nn.Module | None = None
    """What alone is trained at first; None: nothing is frozen."""
    normalisation: Preprocessing | None = None
    """Of the images that transferred weights were trained on; None: as the images at hand are."""
    said: str | None = None
    """Where its weights are from, in a line; None: they were drawn."""


def begin(
    architecture: Architecture, request: Request, classes: int, preprocessing: Preprocessing, *, small_images: bool
) -> Start:
    """Build the network, draw its weights by the seed, and take those that it starts from.

    Raises:
        NetweightError: weights that cannot be read, or that do not fit; images of a size that the network cannot take.
    """
    torch.manual_seed(request.seed)
    network = build.build(architecture, classes, small_images)
    _check_size(network, architecture, preprocessing)
    initialize.draw(network, request.recipe)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    if request.init_from:
        return Start(network, said=_init_from(network, preprocessing, architecture, request.init_from))
    if request.transfer:
        return _transfer(network, preprocessing, architecture, request)
    return Start(network)


def _check_size(network: nn.Module, architecture: Architecture, preprocessing: Preprocessing) -> None:
    """Make sure that the network takes images of this size: one of them goes through it."""
    height, width = preprocessing.height, preprocessing.width
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, preprocessing.channels, height, width))
    except RuntimeError as failure:
        reason = str(failure).strip().splitlines()[0]
        raise NetweightError(
            f"{architecture.name} cannot take images of {height}x{width} pixels ({reason}): give another --size, such as its "
            f"own, {architecture.preprocessing.height}"
        ) from failure
    network.train()


def origin(text: str) -> Origin:
    """Say which weights a word of the command line means.

    Raises:
        NetweightError: no such file, or random weights.
    """
    parsed = weights.parse(text)
    if parsed.kind == "random":
        raise NetweightError(f"weights {text!r} were never trained: leave them out, or give a checkpoint")
    if parsed.kind == "published":
        return Origin(text, None)
    try:
        with Path(text).open("rb") as file:
            return Origin(text, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as failure:
        raise NetweightError(
            f"cannot read {text} ({failure.strerror}): give a checkpoint, a run's best.pt"
        ) from failure


def _init_from(network: nn.Module, preprocessing: Preprocessing, architecture: Architecture, given: Origin) -> str:
    """Take the layers of another network where they match."""
    content = _checkpoint(Path(given.source))
    with torch.random.fork_rng(devices=[]):
        source = _rebuild(content, given.source, architecture)
    theirs = initialize.layers(source, Preprocessing.from_dict(content["preprocessing"]))
    taken = initialize.take_matching(initialize.layers(network, preprocessing), theirs)
    if not taken.pairs:
        raise NetweightError(
            f"no layer of {given.source} ({content['architecture']}) fits {architecture.name}, by place and shape: "
            "give a checkpoint of its family"
        )
    return f"initialised from {content['architecture']} ({given.source}): {taken}"


def _checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's best.pt, which says what network it is of."""
    content = state_dict.load(path)
    if content.get("format") != weights.CHECKPOINT_FORMAT:
        raise NetweightError(f"{path} does not say what network it is of: --init-from takes a training run's best.pt")
    return content


def _rebuild(content: dict[str, Any], path: str, beside: Architecture) -> nn.Module:
    """Build the network of a checkpoint, and load it."""
    name, builder, options = content["architecture"], content.get("builder"), content.get("options") or {}
    trusted = {"models", "torchvision", beside.builder.partition(".")[0].partition(":")[0]}
    if builder and builder.partition(":")[0].partition(".")[0] not in trusted:
        raise NetweightError(f"{path} is of the builder {builder}: a checkpoint does not choose what code is run")
    known = [each for each in (beside, *catalog.architectures()) if builder in {each.builder, None}]
    architecture = next((each for each in known if each.name == name), None) or lookup.find(name, builder, options)
    architecture = replace(architecture, options=tuple(options.items()))
    network = build.build(architecture, content["classes"], content["adaptation"] is not None)
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as failure:
        reason = str(failure).strip().splitlines()[-1].strip()
        raise NetweightError(f"{path} is not of the network {name} as it is built here: {reason}") from failure
    return network


def _transfer(network: nn.Module, preprocessing: Preprocessing, architecture: Architecture, request: Request) -> Start:
    """Take all but the head."""
    assert request.transfer
    source = request.transfer.source
    try:
        state = weights.read(weights.parse(source), architecture)
    except weights.OtherNetworkError as error:
        raise NetweightError(f"{error}, or say --init-from, which takes the layers that match") from None
    assert state.tensors is not None
    found = initialize.layers(network, preprocessing)
    taken = initialize.take_all_but_head(network, found, state.tensors, source)
    head = initialize.head(found)
    frozen = request.recipe.freeze_epochs
    then = f"; for {frozen} epochs only {head.name} is trained, then all" if frozen else ""
    said = f"transferred from {source}: {len(taken.pairs)} layers taken, fresh: {', '.join(taken.fresh)}{then}"
    return Start(network, head.module if frozen else None, state.preprocessing or architecture.preprocessing, said)

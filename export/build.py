"""An architecture and its weights become one module in eval mode, from the image's pixels to probabilities."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.build import adaptation, drop_auxiliary_heads, on_meta
from models.build import build as build_network
from models.heads import Head, restructure
from models.spec import Architecture, NetweightError, Preprocessing, Published, Weights
from models.state_dict import COUNTER, shapes
from models.weights import State, read, rebuilt, seed

Input = Literal["uint8", "float32"]
"""``uint8``: the image's pixels, UINT8 [batch, height, width, channels]; ``float32``: FP32 [batch, channels, height,
width], scaled and normalised by the client."""

NETWORK = "network"
"""The attribute of `Deployed` that holds the network: the prefix of its weights' names."""

PREPROCESSING = "preprocessing"
"""The attribute of `Deployed` that turns pixels into the network's input: the prefix of its constants' names."""


@dataclass(frozen=True)
class Auxiliary:
    """Auxiliary heads that a checkpoint carries and the deployed graph has not."""

    parameters: int
    bytes: int
    """Of their tensors in the checkpoint, batch norm's statistics among them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of them, in words."""
        if not self.bytes:
            return ()
        megabytes = f"{self.bytes / 1e6:.1f} MB"
        return (f"auxiliary heads only help to train and are left out: {self.parameters:,} parameters, {megabytes}",)


@dataclass(frozen=True)
class Built:
    """A network with its weights, and all that its card says of it."""

    architecture: Architecture
    weights: Weights
    module: Deployed
    preprocessing: Preprocessing
    input: Input
    class_names: tuple[str, ...]
    adaptation: str | None
    accuracy: dict[str, Any] | None
    published: tuple[Published, ...]
    """Figures printed elsewhere."""
    parameters: int
    """As torch counts them, before batch norm is folded into the convolutions."""
    data: str | None = None
    """The data set that the network was trained on, where its weights say so."""
    head: Mapping[str, Any] | None = None
    """What took the classifier's place, where something did: see `export.heads`."""
    auxiliary: Auxiliary = Auxiliary(0, 0)
    """What the weights have of heads that only help to train."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the weights were read."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The input's shape without the batch."""
        height, width, channels = self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels
        return (height, width, channels) if self.input == "uint8" else (channels, height, width)

    def images(self, batch: int, seed: int) -> Tensor:
        """Draw random images: evenly spread pixels, or normally spread values where the input is normalised."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *self.image_shape)
        if self.input == "uint8":
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)


class Pixels(nn.Module):
    """UINT8 [batch, height, width, channels] to normalised FP32 [batch, channels, height, width].

    ``(pixel / 255 - mean) / std`` is written as a batch norm with fixed statistics, since ONNX Runtime does that in one
    pass. The order matters: normalising before the transpose broadcasts along the last, three elements long axis.
    Milliseconds for one 224x224 image on one thread (ONNX Runtime 1.32, AVX2): normalise then transpose 1.25, transpose
    then subtract and multiply 0.14, transpose then batch norm 0.11, of which the cast alone takes 0.04.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean))
        self.register_buffer("variance", (255 * torch.tensor(preprocessing.std)) ** 2)

    def forward(self, image: Tensor) -> Tensor:
        """Return what the network's first layer takes."""
        # Contiguous, or torch hands the channels-last order on, and pooling is then exported as a gather by strides.
        planes = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return functional.batch_norm(planes, self.mean, self.variance, training=False, eps=0.0)  # type: ignore[arg-type]


class Deployed(nn.Module):
    """A network as it is served: preprocessing in front, softmax behind."""

    def __init__(self, preprocessing: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, both FP32 [batch, classes]."""
        logits = self.network(self.preprocessing(image))
        return logits, torch.softmax(logits, dim=-1)


def build(architecture: Architecture, weights: Weights, *, classes: int | None = None, input: Input = "uint8") -> Built:  # noqa: A002 - the protocol's word
    """Build a network with its weights.

    Args:
        architecture: The network's record.
        weights: Where its weights come from; see `models.weights.parse`.
        classes: How many classes; None: as many as the weights know, or the architecture's own.
        input: What the module takes.

    Raises:
        NetweightError: the weights cannot be had, or are those of another network or class count.
    """
    state = read(weights, architecture)
    if classes is not None and state.classes is not None and classes != state.classes:
        raise NetweightError(
            f"{state.weights.source} has {state.classes} classes, asked for were {classes}: leave out --classes, or give "
            "weights that were trained on as many"
        )
    architecture = rebuilt(architecture, state)
    count = classes or state.classes or architecture.classes
    network, auxiliary = _network(architecture, state, count)
    preprocessing = state.preprocessing or architecture.preprocessing
    if state.weights.bytes is None:
        state = replace(state, weights=replace(state.weights, bytes=_saved_bytes(network)))
    drop_auxiliary_heads(network, architecture)
    network.eval().requires_grad_(requires_grad=False)
    return Built(
        architecture=architecture,
        weights=state.weights,
        module=Deployed(Pixels(preprocessing) if input == "uint8" else nn.Identity(), network).eval(),
        preprocessing=preprocessing,
        input=input,
        class_names=state.class_names or tuple(str(each) for each in range(count)),
        adaptation=adaptation(architecture, state.small_images),
        accuracy=state.accuracy,
        published=architecture.published if state.published is None else state.published,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        data=state.data,
        head=state.head,
        auxiliary=auxiliary,
        notes=(*state.notes, *auxiliary.notes),
    )


def _network(architecture: Architecture, state: State, classes: int) -> tuple[nn.Module, Auxiliary]:
    """Return the network with its weights in it, and what they have of auxiliary heads.

    Tensors of a file are taken as they are, without a copy; those of auxiliary heads are left in it. A network that draws
    its own weights still has the heads: a checkpoint of it would.
    """
    if state.tensors is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed(state.weights))
            network = build_network(architecture, classes)
        return network, _auxiliary(network.state_dict(), network, architecture)
    # Shapes only: what the builder would draw is replaced at once.
    network = on_meta(architecture, classes, small_images=state.small_images)
    auxiliary = _auxiliary(state.tensors, network, architecture)
    heads = _prefixes(architecture)
    drop_auxiliary_heads(network, architecture)
    if state.head:
        restructure(network, Head.from_dict(state.head), architecture.name)
    tensors = {key: each for key, each in state.tensors.items() if not key.startswith(heads)}
    _check_fit(network, tensors, state.weights.source, architecture)
    _load(network, {key: each.float() if each.is_floating_point() else each for key, each in tensors.items()})
    return network, auxiliary


def _prefixes(architecture: Architecture) -> tuple[str, ...]:
    """Return how the names of weights of auxiliary heads begin."""
    return tuple(f"{head}." for head in architecture.auxiliary_heads)


def _auxiliary(tensors: Mapping[str, Tensor], network: nn.Module, architecture: Architecture) -> Auxiliary:
    """Count what a state dict has of a network's auxiliary heads; buffers are bytes, not parameters."""
    heads = _prefixes(architecture)
    held = {key: each for key, each in tensors.items() if key.startswith(heads)}
    parameters = {key for key, _ in network.named_parameters()}
    return Auxiliary(
        sum(each.numel() for key, each in held.items() if key in parameters), sum(each.nbytes for each in held.values())
    )


def _load(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors into a network, in the place of its own; batch norm's counters, which older files lack, begin at 0.

    Modules whose state dict has changed over time look up its version; that of one from elsewhere is taken as today's.
    """
    own = network.state_dict()
    counters = {key: torch.zeros((), dtype=torch.int64) for key in own if key.endswith(COUNTER)}
    state = OrderedDict({**counters, **tensors})
    state._metadata = own._metadata  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own name for the versions
    network.load_state_dict(state, assign=True)


def _check_fit(network: nn.Module, tensors: Mapping[str, Tensor], source: str, architecture: Architecture) -> None:
    """Compare names and shapes of a state dict with the network's.

    Raises:
        NetweightError: with one line that counts what is missing, unexpected or of another shape, and names the first.
    """
    expected, got = shapes(network.state_dict()), shapes(tensors)
    missing = [key for key in expected if key not in got]
    unknown = [key for key in got if key not in expected]
    reshaped = [key for key in expected if key in got and expected[key] != got[key]]
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} tensors are missing (the first: {missing[0]})")
    if unknown:
        complaints.append(f"{len(unknown)} are unknown (the first: {unknown[0]})")
    if reshaped:
        first = f"{reshaped[0]}, expected {expected[reshaped[0]]}, got {got[reshaped[0]]}"
        complaints.append(f"{len(reshaped)} have another shape (the first: {first})")
    if complaints:
        raise NetweightError(
            f"{source} does not fit {architecture.name}: {'; '.join(complaints)}: export it as the network that it was "
            "trained as"
        )


class _ByteCount(io.BytesIO):
    """A file that only counts what is written to it."""

    bytes = 0

    def write(self, data: Any, /) -> int:
        self.bytes += len(data)
        return len(data)


def _saved_bytes(network: nn.Module) -> int:
    """Return how large the file is that torch.save makes of the network's state dict, without writing it."""
    count = _ByteCount()
    torch.save(network.state_dict(), count)
    return count.bytes

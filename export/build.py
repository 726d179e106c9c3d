"""An architecture and its weights become one module in eval mode, from the image's pixels to probabilities."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.build import adaptation
from models.build import build as build_network
from models.spec import Architecture, NetweightError, Preprocessing, Published, Weights
from models.weights import State, read, seed

if TYPE_CHECKING:
    from collections.abc import Mapping

Input = Literal["uint8", "float32"]
"""``uint8``: the image's pixels, UINT8 [batch, height, width, channels]; ``float32``: FP32 [batch, channels, height,
width], scaled and normalised by the client."""

NETWORK = "network"
"""The attribute of `Deployed` that holds the network: the prefix of its weights' names."""

PREPROCESSING = "preprocessing"
"""The attribute of `Deployed` that turns pixels into the network's input: the prefix of its constants' names."""


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
    count = classes or state.classes or architecture.classes
    network = _network(architecture, state, count).eval().requires_grad_(requires_grad=False)
    preprocessing = state.preprocessing or architecture.preprocessing
    if state.weights.bytes is None:
        state = replace(state, weights=replace(state.weights, bytes=_saved_bytes(network)))
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
    )


def _network(architecture: Architecture, state: State, classes: int) -> nn.Module:
    """Return the network with its weights in it; tensors of a file are taken as they are, without a copy."""
    if state.tensors is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed(state.weights))
            return build_network(architecture, classes)
    with torch.device("meta"):  # shapes only: what the builder would draw is replaced at once
        network = build_network(architecture, classes, small_images=state.small_images)
    _check_fit(network, state, architecture)
    tensors = {key: each.float() if each.is_floating_point() else each for key, each in state.tensors.items()}
    network.load_state_dict(tensors, assign=True)
    return network


def _check_fit(network: nn.Module, state: State, architecture: Architecture) -> None:
    """Compare names and shapes of a state dict with the network's.

    Raises:
        NetweightError: with one line that counts what is missing, unexpected or of another shape, and names the first.
    """
    expected, got = _shapes(network.state_dict()), _shapes(state.tensors or {})
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
            f"{state.weights.source} does not fit {architecture.name}: {'; '.join(complaints)}: export it as "
            "the network that it was trained as"
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return shapes by name, but for batch norm's counters, which older files lack and inference does not read."""
    return {key: list(each.shape) for key, each in tensors.items() if not key.endswith("num_batches_tracked")}


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

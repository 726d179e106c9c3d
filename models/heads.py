"""Lighter heads: the fully connected layers of VGG and AlexNet become a single one, or each of them two thin ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["pool", "svd"]

CLASSIFIER = "classifier"
"""The attribute in which VGG, AlexNet and their kin keep their fully connected layers."""

_COLUMNS = 4096
"""Of a matrix that are widened to double precision at once: VGG's first one is 822 MB when it is so widened whole."""


@dataclass(frozen=True)
class Layer:
    """One fully connected layer of the classifier that was."""

    name: str
    inputs: int
    outputs: int
    rank: int | None = None
    """Of the two layers that it became: inputs -> rank -> outputs. None: it was kept, or pooling took its place."""
    energy: float | None = None
    """The share of its squared singular values that is kept, 0..1; None where pooling took its place."""


@dataclass(frozen=True)
class Head:
    """What took a classifier's place: enough to give a fresh network the same shape."""

    kind: Kind
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint and for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Head:
        """Read what `to_dict` wrote; what else stands beside it is let be."""
        return cls(values["kind"], tuple(Layer(**each) for each in values["layers"]))


class Pooled(nn.Module):
    """The mean of each map: FP32 [batch, channels * positions], flattened maps, to FP32 [batch, channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor) -> Tensor:
        """Average over the positions."""
        return maps.reshape(maps.shape[0], self.channels, -1).mean(2)


def check(kind: str, *, energy: float | None, rank: int | None) -> None:
    """Make sure that the options of a head go together.

    Raises:
        NetweightError: an option of another head, both or none of svd's two, or one that is out of its range.
    """
    if kind == "pool":
        if energy is not None or rank is not None:
            raise NetweightError(
                f"--head pool takes no {'--rank' if energy is None else '--energy'}: leave it out, or say --head svd"
            )
        return
    if (energy is None) == (rank is None):
        got = "neither" if rank is None else "both"
        raise NetweightError(f"--head svd takes either --energy or --rank, got {got}: give --energy 0.95, for example")
    if energy is not None and not 0 < energy <= 1:
        raise NetweightError(f"--energy is the share of squared singular values kept, above 0 up to 1, got {energy:g}")
    if rank is not None and rank < 1:
        raise NetweightError(f"--rank is the width between the two layers, at least 1, got {rank}")


def pool(network: nn.Module, name: str) -> Head:
    """Replace the classifier by global average pooling (Lin et al. 2013, section 3.2) and one untrained linear layer.

    Args:
        network: Is changed; its new layer has fresh weights, drawn from the random state that torch has at the time.
        name: The network's, for messages.

    Raises:
        NetweightError: the network has no classifier of several layers, or takes no flattened maps.
    """
    layers = _linear_layers(network, name)
    head = Head(
        "pool", tuple(Layer(f"{CLASSIFIER}.{key}", each.in_features, each.out_features) for key, each in layers)
    )
    restructure(network, head, name)
    return head


def svd(network: nn.Module, name: str, *, energy: float | None = None, rank: int | None = None) -> Head:
    """Replace each fully connected layer by the two whose product is nearest to it (Eckart and Young 1936).

    A matrix W of [outputs, inputs] becomes U_r S_r V_r, its r largest singular values (Xue et al. 2013, section 3): a
    layer without bias to r values, and one from them with the old bias. A layer stays as it is where the two would not
    be smaller than it: r * (inputs + outputs) >= inputs * outputs.

    Args:
        network: Is changed.
        name: Its, for messages.
        energy: The share of the squared singular values to keep in each layer, above 0 up to 1; None: `rank` counts.
        rank: r of every layer.

    Raises:
        NetweightError: the network has no classifier of several layers, or the rank is larger than each of them.
    """
    layers = _linear_layers(network, name)
    most = max(min(each.weight.shape) for _, each in layers)
    if rank is not None and rank > most:
        raise NetweightError(
            f"--rank {rank} is larger than any layer of {name}'s {CLASSIFIER} has, at most {most}: lower it"
        )
    classifier = _classifier(network, name)
    head = Head("svd", tuple(_split(classifier, key, layer, energy, rank) for key, layer in layers))
    if all(each.rank is None for each in head.layers):
        asked = f"--energy {energy:g}" if rank is None else f"--rank {rank}"
        raise NetweightError(f"{asked} makes no layer of {name}'s {CLASSIFIER} smaller: lower it")
    return head


def restructure(network: nn.Module, head: Head, name: str) -> None:
    """Give a network the shape of one with this head, with fresh weights on the device that they were on.

    Raises:
        NetweightError: the network has no such classifier.
    """
    layers = dict(_linear_layers(network, name))
    if head.kind == "pool":
        _replace_by_pooling(network, list(layers.values()), name)
        return
    for each in head.layers:
        if each.rank is not None:
            key = each.name.removeprefix(f"{CLASSIFIER}.")
            setattr(_classifier(network, name), key, _thin(layers[key], each.rank))


def parameters(network: nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _classifier(network: nn.Module, name: str) -> nn.Sequential:
    """Return the module that holds the fully connected layers."""
    found = getattr(network, CLASSIFIER, None)
    if not isinstance(found, nn.Sequential):
        raise NetweightError(
            f"{name} has one linear layer already, or none: --head is for networks like VGG and AlexNet"
        )
    return found


def _linear_layers(network: nn.Module, name: str) -> list[tuple[str, nn.Linear]]:
    """Return the classifier's fully connected layers with their keys in it."""
    found = [(key, each) for key, each in _classifier(network, name).named_children() if isinstance(each, nn.Linear)]
    if len(found) < 2:
        raise NetweightError(
            f"{name} has {'one linear layer' if found else 'no linear layer of its own'} in its {CLASSIFIER} already: "
            "--head is for networks with several, like VGG and AlexNet"
        )
    return found


def _replace_by_pooling(network: nn.Module, layers: list[nn.Linear], name: str) -> None:
    """Put the pooled classifier in; where the network pools to a fixed size itself, let it pool to one pixel."""
    first, last = layers[0], layers[-1]
    maps = [
        each for key, each in network.named_modules() if isinstance(each, nn.Conv2d) and not key.startswith(CLASSIFIER)
    ]
    channels = maps[-1].out_channels if maps else 0
    if not channels or first.in_features % channels:
        raise NetweightError(
            f"{name}'s {CLASSIFIER} takes {first.in_features} values, which are no maps of its last convolution's "
            f"{channels} channels: --head pool cannot average them; take --head svd"
        )
    linear = nn.Linear(channels, last.out_features, device=last.weight.device)
    averaging = getattr(network, "avgpool", None)
    if isinstance(averaging, nn.AdaptiveAvgPool2d) and channels * _positions(averaging) == first.in_features:
        averaging.output_size = (1, 1)
        network.classifier = nn.Sequential(linear)
    else:
        network.classifier = nn.Sequential(Pooled(channels), linear)


def _positions(averaging: nn.AdaptiveAvgPool2d) -> int:
    """Return how many pixels it pools to, 0 where that is as many as come."""
    size = averaging.output_size
    sides = size if isinstance(size, tuple) else (size, size)
    return prod(side or 0 for side in sides)


def _split(classifier: nn.Sequential, key: str, layer: nn.Linear, energy: float | None, rank: int | None) -> Layer:
    """Replace one layer by two, where that makes it smaller."""
    inputs, outputs = layer.in_features, layer.out_features
    name = f"{CLASSIFIER}.{key}"
    if rank is not None and not _smaller(rank, inputs, outputs):
        return Layer(name, inputs, outputs, energy=1.0)
    squares, vectors = _spectrum(layer.weight.detach())
    shares = squares.cumsum(0) / squares.sum()
    kept = rank if rank is not None else int((shares < energy - 1e-12).sum()) + 1  # type: ignore[operator]
    if not _smaller(kept, inputs, outputs):
        return Layer(name, inputs, outputs, energy=1.0)
    thin = _thin(layer, kept)
    _fill(thin, layer, squares[:kept], vectors[:, :kept])
    setattr(classifier, key, thin)
    return Layer(name, inputs, outputs, kept, round(float(shares[kept - 1]), 6))


def _smaller(rank: int, inputs: int, outputs: int) -> bool:
    """Whether two layers of this rank have fewer weights than one."""
    return rank * (inputs + outputs) < inputs * outputs


def _thin(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Return inputs -> rank -> outputs, with fresh weights."""
    device = layer.weight.device
    return nn.Sequential(
        nn.Linear(layer.in_features, rank, bias=False, device=device),
        nn.Linear(rank, layer.out_features, bias=layer.bias is not None, device=device),
    )


def _spectrum(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix' squared singular values, largest first, and the singular vectors of its shorter side, in FP64.

    They are the eigenvalues and eigenvectors of W W^T, in double precision since squaring halves the digits. VGG's
    25088 x 4096 takes 19 s and 1.2 GB so (2 cores, torch 2.13), 103 million values that a full SVD would hold thrice.
    """
    short = weight if weight.shape[0] <= weight.shape[1] else weight.T
    gram = torch.zeros(len(short), len(short), dtype=torch.float64)
    for columns in torch.split(short, _COLUMNS, dim=1):
        wide = columns.double()
        gram.addmm_(wide, wide.T)
    squares, vectors = torch.linalg.eigh(gram)
    return squares.flip(0).clamp_min(0), vectors.flip(1)


def _fill(thin: nn.Sequential, layer: nn.Linear, squares: Tensor, vectors: Tensor) -> None:
    """Give two layers the weights whose product is the matrix cut to its largest singular values.

    With the vectors Q of the shorter side, W is nearest to Q Q^T W (or to W Q Q^T). The singular values are shared
    evenly: both layers then learn, and are quantised, at one scale.
    """
    weight, inward, outward = layer.weight.detach(), thin[0], thin[1]
    assert isinstance(inward, nn.Linear)
    assert isinstance(outward, nn.Linear)
    scale = squares.sqrt().sqrt()
    scale = scale.clamp_min(float(scale[0]) * 1e-4)  # it cancels out: vanishing ones only must not divide
    near, far = (vectors * scale).float(), (vectors / scale).float()
    with torch.no_grad():
        if weight.shape[0] <= weight.shape[1]:
            inward.weight.copy_(far.T @ weight)
            outward.weight.copy_(near)
        else:
            inward.weight.copy_(near.T)
            outward.weight.copy_(weight @ far)
        if layer.bias is not None:
            outward.bias.copy_(layer.bias)

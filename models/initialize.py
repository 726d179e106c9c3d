"""A network's first weights: drawn anew, taken from a shallower network, or taken but for the head's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from models.spec import Preprocessing, Recipe

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_COUNTER = "num_batches_tracked"
"""Of batch norm: older files lack it, and nothing here depends on it."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights, at its place in a network."""

    name: str
    """Its dotted name, such as ``features.0``."""
    module: nn.Module
    place: int
    """How often the maps have become smaller before; `VECTOR` where there are none, `ASIDE` where no image comes."""
    norms: tuple[nn.Module, ...] = ()
    """The normalisations that follow it, which go where it goes."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The layer and its normalisations."""
        return (self.module, *self.norms)

    @property
    def shape(self) -> list[Any]:
        """What must be equal so that one layer's weights fit another."""
        return [[type(each), *((key, own.shape) for key, own in _own(each).items())] for each in self.modules]


VECTOR, ASIDE = -1, -2


@dataclass(frozen=True)
class Taken:
    """What a start from other weights came to."""

    pairs: tuple[tuple[str, str], ...]
    """The layers that were taken: their name there, and here."""
    fresh: tuple[str, ...]
    """The layers that keep the weights that were drawn."""

    def __str__(self) -> str:
        """Say it in a line."""
        taken = ", ".join(here if there == here else f"{there} as {here}" for there, here in self.pairs)
        fresh = ", ".join(self.fresh) or "none"
        return f"{len(self.pairs)} of {len(self.pairs) + len(self.fresh)} layers taken ({taken}); fresh: {fresh}"


def draw(network: nn.Module, recipe: Recipe) -> None:
    """Draw the weights of convolutions and full layers anew, biases 0, unless the recipe leaves them as built.

    ``kaiming`` as He et al. 2015 (arXiv:1502.01852) do for ReLU: normal, of variance 2 / inputs. ``xavier`` as Glorot
    and Bengio 2010: uniform, of variance 2 / (inputs + outputs).
    """
    if recipe.initialization == "default":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if recipe.initialization == "kaiming":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def layers(network: nn.Module, preprocessing: Preprocessing) -> list[Layer]:
    """Return a network's layers with weights in the order in which an image meets them, then those that it does not.

    An image of zeros goes through the network in evaluation mode, which leaves auxiliary heads out.
    """
    names = {module: name for name, module in network.named_modules() if _own(module)}
    met = _walk(network, names, preprocessing)
    sizes = sorted({pixels for pixels in met.values() if pixels}, reverse=True)
    found: list[Layer] = []
    for module, pixels in met.items():
        if isinstance(module, _NORMS) and found:
            found[-1] = replace(found[-1], norms=(*found[-1].norms, module))
        else:
            found.append(Layer(names[module], module, sizes.index(pixels) if pixels else VECTOR))
    return found + [Layer(name, module, ASIDE) for module, name in names.items() if module not in met]


def take_matching(target: list[Layer], source: list[Layer]) -> Taken:
    """Start a network from another, usually shallower one: layers of one place and shape are copied, in their order.

    So VGG-11 starts VGG-16 as Simonyan and Zisserman 2014 (section 3.1) did: the first convolutions between two
    poolings and the fully connected layers are taken, those that only the deeper network has stay as drawn.

    Args:
        target: The layers of the network that is changed.
        source: Those of the network that gives its weights.
    """
    pairs: list[tuple[Layer, Layer]] = []
    for place in dict.fromkeys(layer.place for layer in target):
        rest = [layer for layer in target if layer.place == place]
        for theirs in (layer for layer in source if layer.place == place):
            position = next((index for index, ours in enumerate(rest) if ours.shape == theirs.shape), None)
            if position is not None:
                pairs.append((theirs, rest[position]))
                rest = rest[position + 1 :]
    for theirs, ours in pairs:
        for giver, taker in zip(theirs.modules, ours.modules, strict=True):
            _copy(_own(giver), _own(taker))
    taken = {ours.name for _, ours in pairs}
    return Taken(
        tuple((theirs.name, ours.name) for theirs, ours in pairs),
        tuple(layer.name for layer in target if layer.name not in taken),
    )


def take_all_but_head(network: nn.Module, target: list[Layer], tensors: Mapping[str, Tensor], source: str) -> Taken:
    """Start a network from weights of the same architecture: all is taken but the head, the last layer that counts.

    Args:
        network: Is changed.
        target: Its layers.
        tensors: A state dict, perhaps of another number of classes.
        source: Where it is from, for messages.

    Raises:
        NetweightError: a layer is not there, or has another shape, though it is neither the head nor left out of
            evaluation as the auxiliary heads are.
    """
    prefixes = {module: f"{name}." if name else "" for name, module in network.named_modules()}
    skipped = head(target)
    pairs, fresh = [], []
    for layer in target:
        wanted = {prefixes[module] + key: own for module in layer.modules for key, own in _own(module).items()}
        wanted = {key: own for key, own in wanted.items() if key in tensors or not key.endswith(_COUNTER)}
        wrong = [key for key, own in wanted.items() if key not in tensors or tensors[key].shape != own.shape]
        if layer is skipped or (wrong and layer.place == ASIDE):
            fresh.append(layer.name)
        elif wrong:
            got = f"has the shape {tuple(tensors[wrong[0]].shape)} there" if wrong[0] in tensors else "is not there"
            raise NetweightError(
                f"{source} is of another architecture: {wrong[0]}, here {tuple(wanted[wrong[0]].shape)}, {got}"
            )
        else:
            _copy(tensors, wanted)
            pairs.append((layer.name, layer.name))
    return Taken(tuple(pairs), tuple(fresh))


def head(found: list[Layer]) -> Layer:
    """Return the layer that gives the logits: the last that an image meets."""
    return [layer for layer in found if layer.place != ASIDE][-1]


def freeze(network: nn.Module, kept: nn.Module, *, frozen: bool) -> None:
    """Train `kept` alone, or everything; frozen normalisations use and keep the statistics that they have."""
    trained = set(kept.parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(not frozen or parameter in trained)
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, _NORMS):
                module.eval()


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module itself that a state dict holds."""
    passing = module._non_persistent_buffers_set  # noqa: SLF001  torch tells it no other way
    buffers = ((key, own) for key, own in module.named_buffers(recurse=False) if key not in passing)
    return {**dict(module.named_parameters(recurse=False)), **dict(buffers)}


def _copy(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Copy those that are wanted."""
    with torch.no_grad():
        for key, own in wanted.items():
            own.copy_(tensors[key])


def _walk(
    network: nn.Module, modules: Iterable[nn.Module], preprocessing: Preprocessing
) -> dict[nn.Module, int | None]:
    """Send an image of zeros through; return the modules that it met with the pixels of their maps, None: no maps."""
    met: dict[nn.Module, int | None] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        rows = slice(1, 3) if isinstance(module, nn.Linear) else slice(2, 4)
        maps = isinstance(output, Tensor) and output.dim() == 4
        met.setdefault(module, output.shape[rows].numel() if maps else None)

    hooks = [module.register_forward_hook(note) for module in modules]
    training = network.training
    image = torch.zeros(1, preprocessing.channels, preprocessing.height, preprocessing.width)
    with torch.no_grad():
        network.eval()(image)
    network.train(training)
    for hook in hooks:
        hook.remove()
    return met

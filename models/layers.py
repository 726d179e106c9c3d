"""A network's layers as torch runs them: shapes, parameters, multiply-accumulates. On the meta device, so it costs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.arithmetic import BYTES_PER_PARAMETER
from models.build import on_meta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.spec import Architecture


@dataclass(frozen=True)
class Layer:
    """One call of a module that holds no other, or that computes or holds parameters by itself."""

    name: str
    """Dotted, as in the state dict; empty: the network itself."""
    kind: str
    """The module's class."""
    input_shape: tuple[int, ...]
    """Without the batch: channels, height, width; or features."""
    output_shape: tuple[int, ...]
    parameters: int
    """0 where an earlier call had them already."""
    multiply_accumulates: int
    """Of convolutions and matrix products for one image; other operations count as none, as in published figures."""

    @property
    def bytes(self) -> int:
        """In fp32."""
        return self.parameters * BYTES_PER_PARAMETER

    @property
    def passes(self) -> bool:
        """Whether it only passes values on: nothing held, nothing multiplied, no other shape (ReLU, dropout)."""
        return not self.parameters and not self.multiply_accumulates and self.input_shape == self.output_shape

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "bytes": self.bytes}


@dataclass
class _Call:
    """A module that is running."""

    start: int
    """The counter when it began."""
    inside: int = 0
    """What the modules that it called have counted."""


@dataclass
class _Recorder:
    """Hooks of one run: they read the counter before and after each module."""

    network: nn.Module
    counter: FlopCounterMode
    running: list[_Call] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    """Parameters by identity: shared ones count once."""

    def watch(self) -> None:
        """Put the hooks in."""
        for name, module in self.network.named_modules():
            module.register_forward_pre_hook(self._before)
            module.register_forward_hook(
                lambda module, given, output, name=name: self._after(name, module, given, output)
            )

    def _before(self, _module: nn.Module, _given: tuple[Any, ...]) -> None:
        self.running.append(_Call(self.counter.get_total_flops()))

    def _after(self, name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        call = self.running.pop()
        total = self.counter.get_total_flops() - call.start
        if self.running:
            self.running[-1].inside += total
        self.called.add(name)
        own = (total - call.inside) // 2  # a product and a sum are one multiply-accumulate
        parameters = self.parameters(module)
        if own or parameters or not any(module.children()):
            shapes = _shape(given), _shape(output)
            self.layers.append(Layer(name, type(module).__name__, *shapes, parameters, own))

    def parameters(self, module: nn.Module) -> int:
        """Count the parameters that a module holds itself, but for those that another has already."""
        fresh = [each for each in module.parameters(recurse=False) if id(each) not in self.counted]
        self.counted.update(map(id, fresh))
        return sum(each.numel() for each in fresh)

    def adopt(self) -> None:
        """Give parameters of modules that were never called to the layer around them that computed with them.

        Attention multiplies by its linear layers' matrices without calling these. What nothing computed with, such as
        an auxiliary head, is not counted.
        """
        rows = {layer.name: index for index, layer in enumerate(self.layers) if layer.multiply_accumulates}
        for name, module in self.network.named_modules():
            if name in self.called:
                continue
            around = next((each for each in _around(name) if each in self.called), "")
            if around in rows:
                layer = self.layers[rows[around]]
                self.layers[rows[around]] = replace(layer, parameters=layer.parameters + self.parameters(module))


def layers(architecture: Architecture) -> tuple[Layer, ...]:
    """List the layers of a deployed network, for one image of its own size and with its own classes."""
    pixels = architecture.preprocessing
    network = on_meta(architecture, architecture.classes, deployed=True)
    return measure(network, (pixels.channels, pixels.height, pixels.width))


def measure(network: nn.Module, image_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """List a network's layers in the order in which they run.

    Args:
        network: On the meta device; it is put into eval mode, and its hooks stay: throw it away.
        image_shape: Channels, height, width.
    """
    # With gradients on, attention takes the path whose operations the counter knows.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        recorder = _Recorder(network.eval(), counter)
        recorder.watch()
        network(torch.empty(1, *image_shape, device="meta"))
    recorder.adopt()
    return tuple(recorder.layers)


def _around(name: str) -> Iterator[str]:
    """Name the modules around a module, nearest first."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _shape(values: Any) -> tuple[int, ...]:
    """Return the shape of a tensor, or of the first in a tuple, without the batch."""
    while isinstance(values, tuple | list):
        values = values[0] if values else None
    return tuple(values.shape[1:]) if isinstance(values, Tensor) else ()

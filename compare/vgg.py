"""What it would take for VGG to keep the bounds: how far it is, what was made from it, how many parameters there is room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compare.bounds import Bounds, misses
from compare.columns import in_words, show_number
from compare.cost import MB, CostCard
from compare.headline import is_vgg, spoken_of

WIDTHS = ((4.0, "fp32"), (2.0, "fp16"), (1.0, "int8"))
"""Bytes for each parameter, and the variants that take them."""


@dataclass(frozen=True)
class Room:
    """What a bound on bytes leaves for parameters of one width.

    Attributes:
        variant: such as ``int8``.
        bytes_per_parameter: of its weights; scales, graph and names aside.
        parameters: that the bound has room for.
        convolutions: parameters that the network's convolutions hold; None: the card has no layers.
        others: parameters of its other layers, the fully connected ones above all.
    """

    variant: str
    bytes_per_parameter: float
    parameters: int
    convolutions: int | None
    others: int | None

    @property
    def told(self) -> str:
        """The sentence."""
        begins = f"{self.variant} ({self.bytes_per_parameter:g} byte{'s' * (self.bytes_per_parameter != 1)} a parameter): room for {_millions(self.parameters)}"
        if self.convolutions is None or self.others is None:
            return f"{begins}."
        megabytes = self.convolutions * self.bytes_per_parameter / MB
        hold = f"its convolutions hold {_millions(self.convolutions)} ({show_number(megabytes)} MB)"
        left = self.parameters - self.convolutions
        if left < 0:
            return f"{begins}; {hold}: too many whatever the head; only fewer channels, or fewer bytes each, would do."
        if left < self.others:
            return (
                f"{begins}; {hold}, which leaves {_millions(left)} for a head that now holds {_millions(self.others)}."
            )
        return f"{begins}; {hold}, the rest {_millions(self.others)}: all of it fits."


@dataclass(frozen=True)
class Wanted:
    """What VGG would need.

    Attributes:
        model: the VGG that is spoken of.
        misses: a sentence for each bound that it does not keep; none: it keeps all.
        within: what was made from it, was measured, and keeps every bound, lightest first.
        short: the others made from it, each with what it misses.
        room: for parameters, by width; empty where it keeps the bound on bytes.
    """

    model: str
    misses: tuple[str, ...]
    within: tuple[str, ...]
    short: tuple[str, ...]
    room: tuple[Room, ...]

    def lines(self) -> Iterator[str]:
        """Say it."""
        if not self.misses:
            yield f"{self.model} keeps every bound."
            return
        yield f"What {self.model} would need: {'; '.join(self.misses)}."
        for sentence in self.within:
            yield f"  {sentence}"
        for sentence in self.short:
            yield f"  {sentence}"
        if not self.within and not self.short:
            yield f"  nothing made from {self.model} was measured: netweight export --variant int8 and --head pool make some."
        for room in self.room:
            yield f"  {room.told}"


def wanted(cards: Sequence[CostCard], bounds: Bounds) -> Wanted | None:
    """Return what VGG would need to keep the bounds; None where no VGG was measured, but what was made from one."""
    originals = [card for card in cards if is_vgg(card) and card.reference is None]
    if not originals:
        return None
    heavy = spoken_of(originals)
    made = sorted((card for card in cards if card.reference == heavy.model), key=lambda card: card.disk.onnx_bytes)
    own = misses(heavy, bounds)
    allowed = next((miss.limit * MB for miss in own if miss.bound == "max_mb"), None)
    missed = {card.model: [miss.told for miss in misses(card, bounds)] for card in made}
    return Wanted(
        model=heavy.model,
        misses=tuple(miss.told for miss in own),
        within=tuple(_figures(card) for card in made if not missed[card.model]),
        short=tuple(f"{card.model} does not: {'; '.join(missed[card.model])}." for card in made if missed[card.model]),
        room=() if allowed is None else tuple(_room(heavy, allowed, *width) for width in WIDTHS),
    )


def _room(heavy: CostCard, allowed_bytes: float, width: float, variant: str) -> Room:
    layers = heavy.disk.layers
    convolutions = sum(layer.parameters for layer in layers if "Conv" in layer.op)
    others = sum(layer.parameters for layer in layers) - convolutions
    known = (convolutions, others) if layers else (None, None)
    return Room(variant, width, int(allowed_bytes / width), *known)


def _figures(card: CostCard) -> str:
    told = [in_words("onnx_bytes", card.disk.onnx_bytes)]
    if card.single_stream and card.single_stream.latency.count:
        told.append(f"p99 {in_words('p99_seconds', card.single_stream.latency.percentile(99))}")
    if card.accuracy:
        told.append(f"{in_words('top1', card.accuracy.top1)} right")
    return f"{card.model} does: {', '.join(told)}."


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M"

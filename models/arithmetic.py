"""What one layer costs, worked out as in a text book: output shape, weights, multiply-accumulates. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod

from models.spec import NetweightError

BYTES_PER_PARAMETER = 4
"""fp32."""

_SHAPE = re.compile(r"\d+(x\d+){0,2}")


@dataclass(frozen=True)
class Sum:
    """One line of a calculation: what is worked out, by which formula, with which numbers, and what comes out."""

    what: str
    formula: str
    numbers: str
    result: int

    def __str__(self) -> str:
        """Return the whole line but for its title."""
        result = f"{self.result:,}"
        return " = ".join((self.formula, *(each for each in (self.numbers, result) if each != result), result))


@dataclass(frozen=True)
class Cost:
    """What one layer takes and gives for one image."""

    kind: str
    input_shape: tuple[int, ...]
    """Height, width, channels; of a linear layer the features."""
    output_shape: tuple[int, ...]
    weights: int
    biases: int
    multiply_accumulates: int
    """Biases are not counted, as in published figures."""
    sums: tuple[Sum, ...]
    """How the figures came about."""

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def bytes(self) -> int:
        """In fp32."""
        return self.parameters * BYTES_PER_PARAMETER


@dataclass(frozen=True)
class Window:
    """How a kernel or a pooling window moves over an image."""

    stride: int = 1
    padding: int = 0
    """Pixels that are added on each side."""
    dilation: int = 1
    """Distance between the kernel's values; 1: they lie side by side."""

    def side(self, name: str, n: int, k: int) -> Sum:
        """Work out one side of the output: (n - k + 2p) / s + 1, rounded down.

        Args:
            name: Height or width.
            n: Pixels of the input's side.
            k: Pixels of the kernel's side.

        Raises:
            NetweightError: the kernel is larger than the padded image.
        """
        reach = self.dilation * (k - 1) + 1
        whole, rest = divmod(n - reach + 2 * self.padding, self.stride)
        if whole < 0:
            spread = f" (dilated: {reach})" if self.dilation > 1 else ""
            padded = f" ({n + 2 * self.padding} with its padding)" if self.padding else ""
            raise NetweightError(
                f"a kernel of {name} {k}{spread} does not fit into an image of {name} {n}{padded}: expected at most that "
                f"{name}; give a smaller kernel or more --padding"
            )
        kernel = str(k) if self.dilation == 1 else f"({self.dilation} x ({k} - 1) + 1)"
        down = ", rounded down," if rest else ""
        formula = "(n - k + 2p) / s + 1" if self.dilation == 1 else "(n - (d(k - 1) + 1) + 2p) / s + 1"
        numbers = f"({n} - {kernel} + 2 x {self.padding}) / {self.stride} + 1{down}"
        return Sum(name, formula, numbers, whole + 1)

    def check(self) -> None:
        """Refuse what no window can be.

        Raises:
            NetweightError: with the option's name.
        """
        for option, value, least in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
        ):
            if value < least:
                raise NetweightError(f"--{option} {value}: expected {least} or more; give another --{option}")


def shape(text: str, what: str, example: str) -> tuple[int, ...]:
    """Read a shape such as ``64x64x3``.

    Args:
        text: As a user typed it.
        what: What it is, for the message.
        example: One of the length that is expected, for the message.

    Raises:
        NetweightError: it is no shape, has another length, or a side of 0.
    """
    sides = tuple(int(each) for each in text.split("x")) if _SHAPE.fullmatch(text) else ()
    if len(sides) != example.count("x") + 1 or 0 in sides:
        raise NetweightError(f"{text!r} is no {what}: expected whole numbers above 0 such as {example}")
    return sides


def convolution(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    window: Window | None = None,
    groups: int = 1,
    *,
    bias: bool = True,
) -> Cost:
    """Work out a convolution.

    Args:
        image: Height, width, channels.
        kernel: Height, width, and how many there are: the channels of the output.
        window: How it moves; None: pixel by pixel, without padding.
        groups: Each output channel sees the image's channels divided by this; as many as channels: depthwise.
        bias: Whether each output channel has one.

    Raises:
        NetweightError: the kernel does not fit into the image, or channels cannot be divided into the groups.
    """
    window = window or Window()
    window.check()
    (n_high, n_wide, inputs), (k_high, k_wide, outputs) = image, kernel
    if groups < 1 or inputs % groups or outputs % groups:
        raise NetweightError(
            f"--groups {groups}: expected a number that divides the {inputs} channels of the image and the {outputs} "
            "kernels; give another --groups"
        )
    high, wide = window.side("height", n_high, k_high), window.side("width", n_wide, k_wide)
    depth = "in" if groups == 1 else "in / groups"
    per_group = f"{inputs}" if groups == 1 else f"{inputs} / {groups}"
    weights = Sum(
        "weights",
        f"k x k x {depth} x out",
        f"{k_high} x {k_wide} x {per_group} x {outputs}",
        k_high * k_wide * (inputs // groups) * outputs,
    )
    output = (high.result, wide.result, outputs)
    return _weighted("convolution", image, output, (high, wide), weights, bias=bias)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> Cost:
    """Work out a fully connected layer: each output is joined to each input."""
    weights = Sum("weights", "in x out", f"{inputs} x {outputs}", inputs * outputs)
    return _weighted("linear", (inputs,), (outputs,), (), weights, bias=bias)


def pooling(image: tuple[int, ...], sides: tuple[int, ...], window: Window | None = None) -> Cost:
    """Work out a pooling layer, which has no weights.

    Args:
        image: Height, width, channels.
        sides: Height and width of the window.
        window: How it moves; None: by its own height, so that windows do not overlap.

    Raises:
        NetweightError: the window does not fit into the image.
    """
    window = window or Window(stride=sides[0])
    window.check()
    high, wide = window.side("height", image[0], sides[0]), window.side("width", image[1], sides[1])
    return Cost("pooling", image, (high.result, wide.result, image[2]), 0, 0, 0, (high, wide))


def _weighted(
    kind: str,
    image: tuple[int, ...],
    output: tuple[int, ...],
    sides: tuple[Sum, ...],
    weights: Sum,
    *,
    bias: bool,
) -> Cost:
    """Add biases, multiply-accumulates and bytes to what a layer with weights costs."""
    biases = output[-1] if bias else 0
    places = prod(output[:-1])
    products = Sum("multiply-accumulates", "weights", f"{weights.result:,}", weights.result)
    if sides:
        numbers = f"{' x '.join(map(str, output[:-1]))} x {weights.result:,}"
        products = Sum("multiply-accumulates", "out height x out width x weights", numbers, places * weights.result)
    cost = Cost(kind, image, output, weights.result, biases, products.result, ())
    size = Sum("bytes in fp32", "(weights + biases) x 4", f"({cost.weights:,} + {biases:,}) x 4", cost.bytes)
    return replace(cost, sums=(*sides, weights, Sum("biases", "out", f"{biases:,}", biases), products, size))

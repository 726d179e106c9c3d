"""A network of any weight for tests: one wide hidden layer between a small image and its classes."""

from __future__ import annotations

from torch import nn

PIXELS = 32 * 32


def giant(num_classes: int = 10, hidden: int = 1000) -> nn.Module:
    """Build it: GREY [batch, 1, 32, 32] to logits; `hidden` times 1,034 weights and biases for 10 classes, and a few."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )

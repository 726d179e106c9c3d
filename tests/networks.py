"""Networks of a few hundred weights for grey 32x32 images, each with a peculiarity of a large one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from models import catalog
from models.spec import Architecture


class Outputs(NamedTuple):
    """What a network with an auxiliary head gives in training."""

    logits: Tensor
    auxiliary: Tensor


class TwoHeaded(nn.Module):
    """Batch norm, dropout and, as GoogLeNet has, an auxiliary head that evaluation leaves out."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1))
        self.auxiliary = nn.Linear(4 * 7 * 7, num_classes)
        self.head = nn.Linear(8 * 5 * 5, num_classes)

    def forward(self, images: Tensor) -> Outputs | Tensor:
        """Return logits, FP32 [batch, classes], in training with those of the auxiliary head."""
        stem = self.stem(images)
        logits: Tensor = self.head(self.body(stem))
        return Outputs(logits, self.auxiliary(stem.flatten(1))) if self.training else logits


class Poisoned(nn.Module):
    """Gives numbers for as many training batches as an epoch has, and none after that."""

    def __init__(self, num_classes: int, batches: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(32 * 32, num_classes)
        self.left = batches

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(images.flatten(1))
        if self.training:
            self.left -= 1
        return logits if self.left >= 0 else logits * float("nan")


def _record(name: str) -> Architecture:
    return replace(catalog.get("lenet5"), name=name, title=name, builder=f"tests.networks:{name}")


TWO_HEADED, POISONED = _record("TwoHeaded"), _record("Poisoned")

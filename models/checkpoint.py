"""best.pt: trained weights with all that must be known to use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from models import fit
from models.atomic import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from models.data import DataSet
    from models.spec import Architecture

FORMAT = "netweight-checkpoint/1"


def compose(architecture: Architecture, network: nn.Module, images: DataSet, adaptation: str | None) -> dict[str, Any]:
    """Return what best.pt holds: plain values and tensors, so that it loads with ``weights_only=True``.

    The accuracy is measured here, on the held-out images; `adaptation` says what small images changed in the network.
    """
    return {
        "format": FORMAT,
        "architecture": architecture.name,
        "builder": architecture.builder,
        "options": dict(architecture.options),
        "classes": len(images.class_names),
        "class_names": list(images.class_names),
        "preprocessing": images.preprocessing.to_dict(),
        "adaptation": adaptation,
        "data": images.name,
        "accuracy": {
            "data": images.name,
            "split": "validation, which also chose the epoch" if images.heldout_is_validation else "held-out",
            "images": len(images.heldout),
            "top1": fit.accuracy(network, images.preprocessing, images.heldout),
        },
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()},
    }


def save(content: dict[str, Any], path: Path) -> None:
    """Write what `torch.load` reads, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # given a name, torch hides why a write failed
        torch.save(content, file)

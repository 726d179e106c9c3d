"""Fine-tuning: a network with a new head learns on its own data, first the head alone, then all of it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from models import checkpoint, epochs, fit, progress, run, trainer
from models.heads import CLASSIFIER
from models.spec import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from models.data import DataSet
    from models.spec import Architecture

HEAD_LEARNING_RATE = 0.003
"""Of the epochs in which a new head alone is trained, by Adam with one-cycle."""

LEARNING_RATE = 0.0002
"""Of what was trained before, features or a head that was only cut: it is moved a little."""


@dataclass(frozen=True)
class Plan:
    """How long a network is fine-tuned."""

    alone: int
    """Epochs in which only the head is trained; the features, and batch norm's statistics in them, stay."""
    together: int
    """Epochs after them in which everything is."""
    head_rate: float
    """The learning rate of the first."""

    @classmethod
    def of(cls, epochs: int, *, new_head: bool) -> Plan:
        """Share epochs out: the first quarter, at least one, belongs to the head."""
        alone = -(-epochs // 4)
        return cls(alone, epochs - alone, HEAD_LEARNING_RATE if new_head else LEARNING_RATE)


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to."""

    content: dict[str, Any]
    """What best.pt holds, of the epoch with the lowest validation loss."""
    facts: dict[str, Any]
    """Plain values for the card."""


def finetune(
    architecture: Architecture,
    network: nn.Module,
    images: DataSet,
    plan: Plan,
    *,
    adaptation: str | None,
    seed: int,
    directory: Path,
    report: Callable[[str], None],
) -> Tuned:
    """Train a network's classifier, then all of it, and return the best epoch's weights.

    Args:
        architecture: The record of the network; its recipe says how images are varied and how many are in a batch.
        network: With a classifier of its own; is changed, and is left as the last epoch had it.
        images: What it was trained on before.
        plan: How long.
        adaptation: What small images changed in the network, for the checkpoint.
        seed: Of the order of the images and their variations.
        directory: To work in; it is emptied before and removed after, whatever happens.
        report: Takes a line of text for every epoch.

    Raises:
        NetweightError: the loss became no number.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    before = fit.accuracy(network, images.preprocessing, images.heldout)
    phases = _phases(architecture, plan)
    rows: list[dict[str, Any]] = []
    with _emptied(directory):
        best = epochs.Best(directory, lambda: checkpoint.compose(architecture, network, images, adaptation))
        for name, recipe in phases.items():
            history = epochs.History(directory, architecture.name, images.name)
            module = fit.Fit(network, images, recipe, seed, network.get_submodule(CLASSIFIER))
            shown = progress.progress(history, f"{architecture.title}, {name}", report)
            trainer.fit(module, directory, [history, best, shown])
            rows += [{"trained": name, **row} for row in history.rows]
        content = torch.load(run.best(directory), weights_only=True)
    facts = {
        "data": images.name,
        "images": len(images.training),
        "epochs": {name: recipe.epochs for name, recipe in phases.items()},
        "learning_rate": {name: recipe.learning_rate for name, recipe in phases.items()},
        "seed": seed,
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "history": rows,
        "accuracy": {"before": before, "after": content["accuracy"]["top1"], "split": content["accuracy"]["split"]},
    }
    return Tuned(content, facts)


@contextmanager
def _emptied(directory: Path) -> Iterator[None]:
    """Make a directory to work in, and remove it afterwards, whatever happens."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _phases(architecture: Architecture, plan: Plan) -> dict[str, Recipe]:
    """Return the recipe of each phase that there is."""
    known = architecture.recipe or Recipe(epochs=1, learning_rate=LEARNING_RATE)
    usual = replace(known, optimizer="adam", schedule="onecycle", milestones=(), early_stop=0, weight_decay=0.0)
    phases = {}
    if plan.alone:
        phases["head"] = replace(usual, epochs=plan.alone, freeze_epochs=plan.alone, learning_rate=plan.head_rate)
    if plan.together:
        phases["all"] = replace(usual, epochs=plan.together, freeze_epochs=0, learning_rate=LEARNING_RATE)
    return phases

"""What takes the steps, and how long they are: the recipe's optimizer and its schedule of the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim import lr_scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from models.spec import Recipe


def optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimizer."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    fused = not recipe.freeze_epochs  # torch's fused SGD fails where some layers have moved and others not yet
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay, fused=fused)


def schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """Return the recipe's schedule.

    Args:
        recipe: Says which.
        optimizer: Whose rate it sets.
        steps: In an epoch.

    Returns:
        ``onecycle`` (Smith and Topin 2017), ``cosine`` (Loshchilov and Hutter 2016, without restarts) and ``steps``
        are to be told of every step, `torch.optim.lr_scheduler.ReduceLROnPlateau` of every epoch's validation loss.
    """
    total = recipe.epochs * steps
    if recipe.schedule == "onecycle":
        return lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=total)
    if recipe.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    if recipe.schedule == "steps":
        return lr_scheduler.MultiStepLR(optimizer, [epoch * steps for epoch in recipe.milestones], gamma=recipe.decay)
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=recipe.decay, patience=recipe.patience)

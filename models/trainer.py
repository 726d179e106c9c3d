"""Lightning's trainer, set up for a run: what it writes, on which device and how precisely, how it is interrupted."""

from __future__ import annotations

import logging
import signal
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

import models.torchvision_on_cpu  # noqa: F401  (Lightning imports torchvision)

# isort: split
from lightning.pytorch import Trainer

from models import epochs, memory, run
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lightning.pytorch import Callback

    from models.fit import Fit
    from models.spec import Recipe

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
"""Lightning's words."""

_PRECISIONS: dict[str, Precision] = {"fp32": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"}


def fit(module: Fit, directory: Path, callbacks: Sequence[Callback]) -> None:
    """Run all epochs, or those that last.ckpt leaves."""
    recipe, last = module.recipe, run.last(directory)
    stop = [epochs.Stop(recipe.early_stop)] if recipe.early_stop else []
    with _quiet():
        trainer = Trainer(
            max_epochs=recipe.epochs,
            accelerator="auto",
            devices=1,
            precision=precision(recipe),
            callbacks=[*stop, *callbacks],
            plugins=[epochs.Files()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        with _interruptible(), memory.kept():
            trainer.fit(module, ckpt_path=last if last.exists() else None)


def precision(recipe: Recipe) -> Precision:
    """Return Lightning's word for the recipe's precision on this machine.

    Raises:
        NetweightError: 16-bit floats that this machine does not train with.
    """
    wanted, gpu = recipe.precision, torch.cuda.is_available()
    if wanted == "fp16" and not gpu:
        raise NetweightError("precision fp16 trains on a GPU only, and there is none here: give fp32, bf16 or auto")
    if wanted == "auto":
        wanted = "fp32" if not gpu else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return _PRECISIONS[wanted]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is elsewhere: Lightning exits the process instead, and ignores the next ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice to developers from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

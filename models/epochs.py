"""What happens after each epoch: its figures, the best weights and the state to resume from are written."""

from __future__ import annotations

import csv
import math
import pickle
import time
from typing import TYPE_CHECKING, Any

import torch

import models.torchvision_on_cpu  # noqa: F401  (Lightning imports torchvision)
from models import plot, run
from models.atomic import replacing
from models.checkpoint import save
from models.spec import NetweightError

# isort: split
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.plugins.io import CheckpointIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
"""Of history.csv."""
_PLOT_SECONDS = 30
"""A picture takes about half a second, longer than an epoch of a small network."""


class History(Callback):
    """Keeps each epoch's figures in history.csv and in the checkpoint: after a cut, both go on from the same row.

    history.png shows them; while the run is on it is drawn anew every `_PLOT_SECONDS`.
    """

    def __init__(self, directory: Path, name: str, data: str) -> None:
        self.rows: list[dict[str, float]] = []
        self._name = name
        self._title = f"{name} on {data}"
        self._path = run.history(directory)
        self._plot = run.plot(directory)
        self._mark = self._drawn = time.perf_counter()
        self._rate = 0.0

    @property
    def seconds(self) -> float:
        """Return how long the epochs took together, over all sessions."""
        return sum(row["seconds"] for row in self.rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Note the rate: the row tells that of the epoch's last step."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row.

        Raises:
            NetweightError: the network's outputs are no numbers any more.
        """
        del pl_module
        now = time.perf_counter()
        figures = {name: round(float(trainer.callback_metrics[name]), 6) for name in COLUMNS[1:4]}
        if not math.isfinite(figures["validation_loss"]):
            raise NetweightError(
                f"{self._name} did not learn, its loss was not a number after epoch {trainer.current_epoch + 1}: "
                f"train with a learning rate below {trainer.optimizers[0].defaults['lr']:g}"
            )
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                **figures,
                "learning_rate": float(f"{self._rate:.4g}"),
                "seconds": round(now - self._mark, 3),
            }
        )
        self._mark = now
        with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(self.rows)
        if now - self._drawn > _PLOT_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Write history.png."""
        plot.draw(self.rows, self._title, self._plot)
        self._drawn = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows from the checkpoint."""
        self.rows = state_dict["rows"]


class Best(Callback):
    """Writes best.pt whenever the validation loss is the lowest yet.

    The loss rather than the accuracy, because a few hundred images give few different accuracies. With `all_kept`
    every epoch's weights are written, to a file of their own.
    """

    def __init__(self, directory: Path, compose: Callable[[], dict[str, Any]], *, all_kept: bool = False) -> None:
        self.epoch = 0
        self.accuracy: dict[str, Any] = {}
        self._loss = math.inf
        self._directory = directory
        self._compose = compose
        self._all_kept = all_kept

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and write."""
        del pl_module
        loss, epoch = float(trainer.callback_metrics["validation_loss"]), trainer.current_epoch + 1
        better = loss < self._loss
        if not better and not self._all_kept:
            return
        checkpoint = self._compose()
        if self._all_kept:
            save(checkpoint, run.epoch(self._directory, epoch))
        if better:
            save(checkpoint, run.best(self._directory))
            self._loss, self.epoch, self.accuracy = loss, epoch, checkpoint["accuracy"]

    def state_dict(self) -> dict[str, Any]:
        """Return what the next epochs are compared with, and what this one reached."""
        return {"loss": self._loss, "epoch": self.epoch, "accuracy": self.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from the checkpoint."""
        self._loss = state_dict["loss"]
        self.epoch = state_dict["epoch"]
        self.accuracy = state_dict["accuracy"]


class Stop(EarlyStopping):
    """Ends training early. Judges before `Last` writes, so that a run that is resumed ends where it would have."""

    def __init__(self, patience: int) -> None:
        """Store how many epochs the validation loss may go without falling."""
        super().__init__("validation_loss", min_delta=0, patience=patience, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if the state is that of an end."""
        del pl_module
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Last(Callback):
    """Writes last.ckpt after every epoch; after the final one only if it is to be kept.

    Stands after `History` and `Best`, whose state it holds.
    """

    def __init__(self, directory: Path, *, kept: bool = False) -> None:
        self._path = run.last(directory)
        self._kept = kept

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write network, optimizer, schedule and callbacks."""
        del pl_module
        final = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if self._kept or not final:
            trainer.save_checkpoint(self._path)


class Files(CheckpointIO):
    """Lightning's way to checkpoint files: whole or not at all, and without a copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint."""
        del storage_options
        save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint, its tensors mapped from the file."""
        del weights_only
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as failure:
            reason = str(failure).splitlines()[0]
            raise NetweightError(
                f"{path} cannot be read ({reason}): remove it to train from the beginning"
            ) from failure

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        path.unlink(missing_ok=True)

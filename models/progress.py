"""How far a training run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import models.torchvision_on_cpu  # noqa: F401  (Lightning imports torchvision)

# isort: split
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer
    from rich.progress import Progress

    from models.epochs import History


class Lines(Callback):
    """Reports one plain line for each epoch: for logs, pipes and other programs."""

    def __init__(self, history: History, report: Callable[[str], None]) -> None:
        self._history = history
        self._report = report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch that has ended."""
        del pl_module
        row = self._history.rows[-1]
        left = 0 if trainer.should_stop else (trainer.max_epochs or 0) - len(self._history.rows)
        each = self._history.seconds / len(self._history.rows)
        remaining = f", about {each * left:.0f} s left" if left else ""
        self._report(
            f"  epoch {row['epoch']}/{trainer.max_epochs}: rate {row['learning_rate']:.2g}, loss {row['train_loss']:.3f}, "
            f"validation loss {row['validation_loss']:.3f}, accuracy {100 * row['validation_accuracy']:.1f} %, "
            f"{row['seconds']:.1f} s{remaining}"
        )


class Bar(Callback):
    """Shows a progress bar on a terminal."""

    def __init__(self, history: History, title: str) -> None:
        self._history = history
        self._title = title
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, filled as far as the run had come."""
        del pl_module
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        texts = TextColumn("{task.description}"), TextColumn("{task.fields[figures]}")
        times = TimeElapsedColumn(), TimeRemainingColumn()
        self._progress = Progress(texts[0], BarColumn(bar_width=None), texts[1], *times, expand=True)
        batches = int(trainer.num_training_batches)
        self._progress.add_task(
            self._title,
            total=batches * (trainer.max_epochs or 0),
            completed=batches * trainer.current_epoch,
            figures=self._figures(trainer),
        )
        self._progress.start()

    def on_train_batch_end(self, *_: Any) -> None:
        """Move on by one batch."""
        if self._progress:
            self._progress.advance(self._progress.task_ids[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of the epoch that has ended."""
        del pl_module
        if self._progress:
            self._progress.update(self._progress.task_ids[0], figures=self._figures(trainer))

    def on_train_end(self, *_: Any) -> None:
        """Leave the bar as it stands."""
        if self._progress:
            self._progress.stop()

    def on_exception(self, *_: Any) -> None:
        """Leave the bar as it stands."""
        self.on_train_end()

    def _figures(self, trainer: Trainer) -> str:
        """Return how far it is and what the last epoch reached: its rate, training and validation loss, accuracy."""
        rows = self._history.rows
        if not rows:
            return f"epoch 0/{trainer.max_epochs}"
        row = rows[-1]
        return (
            f"epoch {len(rows)}/{trainer.max_epochs}, rate {row['learning_rate']:.2g}, loss {row['train_loss']:.3f}/"
            f"{row['validation_loss']:.3f}, accuracy {100 * row['validation_accuracy']:.1f} %"
        )


def progress(history: History, title: str, report: Callable[[str], None]) -> Callback:
    """Return a bar when `report` is print and that is a terminal, else plain lines."""
    if report is print and sys.stdout.isatty():
        return Bar(history, title)
    return Lines(history, report)

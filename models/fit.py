"""The fit itself: what Lightning is given to turn a network and images into trained weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

import models.torchvision_on_cpu  # noqa: F401  (Lightning imports torchvision)

# isort: split
from lightning.pytorch import LightningModule

from models import augment, initialize, schedules
from models.spec import NetweightError

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

    from models.batches import Batches, Part
    from models.data import DataSet
    from models.spec import Preprocessing, Recipe

_MEASURED_TOGETHER = 128
"""Images in a batch of those that nothing is learned from."""


class Pixels(nn.Module):
    """UINT8 [batch, height, width, channels] to normalised FP32 [batch, channels, height, width]."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale to 0..1, subtract the mean, divide by the standard deviation; memory stays channels last."""
        normalised: Tensor = (pixels.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        return normalised


class Fit(LightningModule):
    """A network, its data and its recipe.

    Trained on cross-entropy with the recipe's label smoothing, auxiliary heads included by their weight; validated on
    plain cross-entropy, which other recipes can be compared by. Every epoch's order and dropout depend on the seed and
    the epoch alone, so that an epoch that begins from a checkpoint is the epoch that would have followed.
    """

    def __init__(
        self, network: nn.Module, data: DataSet, recipe: Recipe, seed: int, head: nn.Module | None = None
    ) -> None:
        """Store.

        Args:
            network: Takes FP32 [batch, channels, height, width]; returns logits, FP32 [batch, classes], in training
                perhaps a tuple of them and those of the auxiliary heads, which are left out (None) in some networks.
            data: Images.
            recipe: How to train.
            seed: Of order and dropout.
            head: The part of the network that alone is trained in the recipe's first `freeze_epochs`.
        """
        super().__init__()
        self.network = network
        self.pixels = Pixels(data.preprocessing)
        self._data = data
        self.recipe = recipe
        self._seed = seed
        self._head = [head] if head is not None else []  # in a list, so that its weights are not held twice

    def epoch_seed(self) -> int:
        """Return the seed of the present epoch."""
        return self._seed * 100_003 + self.current_epoch

    def train_dataloader(self) -> Batches:
        """Return the training images in the present epoch's order; Lightning asks again for every epoch."""
        return self._data.training.batches(
            self.recipe.batch_size, order_seed=self.epoch_seed(), augmentation=augment.of(self.recipe)
        )

    def val_dataloader(self) -> Batches:
        """Return the validation images."""
        return self._data.validation.batches(_MEASURED_TOGETHER)

    def on_train_epoch_start(self) -> None:
        """Seed what dropout draws from; freeze or thaw."""
        torch.manual_seed(self.epoch_seed())
        for head in self._head:
            initialize.freeze(self.network, head, frozen=self.current_epoch < self.recipe.freeze_epochs)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return what the network does, of UINT8 [batch, height, width, channels]."""
        logits: Tensor = self.network(self.pixels(pixels))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of one batch."""
        pixels, labels = batch
        loss = self._loss(self(pixels), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def _loss(self, outputs: Tensor | tuple[Tensor | None, ...], labels: Tensor) -> Tensor:
        """Return the loss of the logits, and of each auxiliary head's by the recipe's weight."""
        logits, *auxiliary = (outputs,) if isinstance(outputs, Tensor) else outputs
        smoothing, weight = self.recipe.label_smoothing, self.recipe.auxiliary_weight
        loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)  # type: ignore[arg-type]
        for each in auxiliary:
            if each is not None:
                loss = loss + weight * functional.cross_entropy(each, labels, label_smoothing=smoothing)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        """Measure one batch of the validation images."""
        pixels, labels = batch
        logits = self(pixels)
        right = (logits.argmax(1) == labels).float().mean()
        self.log("validation_loss", functional.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("validation_accuracy", right, batch_size=len(labels))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that a state to resume from is this network's."""
        there, here = (
            {name: own.shape for name, own in each.items()} for each in (checkpoint["state_dict"], self.state_dict())
        )
        if there != here:
            raise NetweightError("last.ckpt is of another network: remove it to train from the beginning")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the recipe's optimizer and schedule."""
        optimizer = schedules.optimizer(self.recipe, self.network.parameters())
        schedule = schedules.schedule(self.recipe, optimizer, len(self.train_dataloader()))
        config: Any = {"scheduler": schedule, "interval": "step"}
        if self.recipe.schedule == "plateau":
            config |= {"interval": "epoch", "monitor": "validation_loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Tell a schedule of a step; not plateau, which Lightning would tell only after last.ckpt is written."""
        if metric is None:
            scheduler.step()

    def on_validation_epoch_end(self) -> None:
        """Tell plateau of the epoch's validation loss."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(float(self.trainer.callback_metrics["validation_loss"]))


def accuracy(network: nn.Module, preprocessing: Preprocessing, images: Part) -> float:
    """Return the top-1 accuracy in evaluation mode, 0..1; the network is left in the mode that it was in."""
    device = next(network.parameters()).device
    pixels = Pixels(preprocessing).to(device)
    training = network.training
    network.eval()
    with torch.inference_mode():
        right = sum(
            int((network(pixels(batch.to(device))).argmax(1).cpu() == labels).sum())
            for batch, labels in images.batches(_MEASURED_TOGETHER)
        )
    network.train(training)
    return right / len(images)

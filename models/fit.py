"""The fit itself: what Lightning is given to turn a network and images into trained weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

import models.torchvision_on_cpu  # noqa: F401  (Lightning imports torchvision)

# isort: split
from lightning.pytorch import LightningModule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

    from models.data import DataSet, Images
    from models.spec import Preprocessing, Recipe


class Batches:
    """Images in batches, whole batches only when they are shuffled.

    Yields UINT8 [batch, height, width, channels] and INT64 [batch].
    """

    def __init__(self, images: Images, batch_size: int, order_seed: int | None = None) -> None:
        self._pixels = torch.from_numpy(images.pixels)
        self._labels = torch.from_numpy(images.labels)
        self._batch_size = min(batch_size, len(images))
        self._order_seed = order_seed

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, rest = divmod(len(self._labels), self._batch_size)
        return whole + int(rest > 0 and self._order_seed is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images, in an order that depends on nothing but the seed."""
        order = self._order()
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            chosen = order[start : start + self._batch_size]
            yield self._pixels[chosen], self._labels[chosen]

    def _order(self) -> Tensor:
        """Return the indices of the images in the order of this pass."""
        if self._order_seed is None:
            return torch.arange(len(self._labels))
        return torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(self._order_seed))


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


def shift(pixels: Tensor, most: int) -> Tensor:
    """Move each image by up to `most` pixels in each direction; zeros come in at the edges.

    Args:
        pixels: UINT8 [batch, height, width, channels].
        most: Pixels.

    Returns:
        UINT8 of the same shape.
    """
    batch, height, width, _ = pixels.shape
    padded = functional.pad(pixels, (0, 0, most, most, most, most))
    down, right = torch.randint(0, 2 * most + 1, (2, batch, 1))  # drawn on the CPU: the same numbers on any device
    rows = (down + torch.arange(height))[:, :, None].to(pixels.device)
    columns = (right + torch.arange(width))[:, None, :].to(pixels.device)
    return padded[torch.arange(batch, device=pixels.device)[:, None, None], rows, columns]


class Fit(LightningModule):
    """A network, its data and its recipe, with cross-entropy for a loss.

    Every epoch's order and dropout depend on the seed and the epoch alone, so that an epoch that begins from a
    checkpoint is the epoch that would have followed.
    """

    def __init__(self, network: nn.Module, data: DataSet, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.network = network
        self.pixels = Pixels(data.preprocessing)
        self._data = data
        self.recipe = recipe
        self._seed = seed

    def epoch_seed(self) -> int:
        """Return the seed of the present epoch."""
        return self._seed * 100_003 + self.current_epoch

    def train_dataloader(self) -> Batches:
        """Return the training images in the present epoch's order; Lightning asks again for every epoch."""
        return Batches(self._data.training, self.recipe.batch_size, self.epoch_seed())

    def val_dataloader(self) -> Batches:
        """Return the validation images."""
        return Batches(self._data.validation, len(self._data.validation))

    def on_train_epoch_start(self) -> None:
        """Seed what dropout draws from."""
        torch.manual_seed(self.epoch_seed())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits, FP32 [batch, classes], of UINT8 [batch, height, width, channels]."""
        logits: Tensor = self.network(self.pixels(pixels))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of one batch."""
        pixels, labels = batch
        if self.recipe.shift_pixels:
            pixels = shift(pixels, self.recipe.shift_pixels)
        loss = functional.cross_entropy(self(pixels), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        """Measure one batch of the validation images."""
        pixels, labels = batch
        logits = self(pixels)
        right = (logits.argmax(1) == labels).float().mean()
        self.log("validation_loss", functional.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("validation_accuracy", right, batch_size=len(labels))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the recipe's optimizer with its one-cycle schedule over all steps (Smith and Topin 2017)."""
        rate = self.recipe.learning_rate
        parameters = self.network.parameters()
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "adam":
            optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
        else:
            optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True)
        steps = self.recipe.epochs * len(self.train_dataloader())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def initialize(network: nn.Module) -> None:
    """Draw the weights of convolutions and full layers as He et al. 2015 do for ReLU (Kaiming), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def accuracy(network: nn.Module, preprocessing: Preprocessing, images: Images) -> float:
    """Return the top-1 accuracy in evaluation mode, 0..1; the network is left in the mode that it was in."""
    device = next(network.parameters()).device
    pixels = Pixels(preprocessing).to(device)
    training = network.training
    network.eval()
    with torch.inference_mode():
        right = sum(
            int((network(pixels(batch.to(device))).argmax(1).cpu() == labels).sum())
            for batch, labels in Batches(images, 128)
        )
    network.train(training)
    return right / len(images)

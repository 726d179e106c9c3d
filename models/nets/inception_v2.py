"""BN-Inception: Ioffe and Szegedy, Batch normalization (arXiv:1502.03167), figure 5; often called Inception v2."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Row(NamedTuple):
    """One row of figure 5: how many channels each convolution of an Inception module gives; 0: there is none."""

    name: str
    inputs: int
    one: int
    """1x1."""
    reduce: int
    """1x1 before the 3x3."""
    three: int
    """3x3."""
    double_reduce: int
    """1x1 before the two 3x3."""
    double: int
    """Each of the two 3x3."""
    pool: Literal["mean", "maximum", "halve"]
    """3x3. ``halve``: a maximum of stride 2 that passes through, and both paths of 3x3 have stride 2 at their end."""
    projection: int
    """1x1 after the pool."""


TABLE = (
    Row("3a", 192, 64, 64, 64, 64, 96, "mean", 32),
    Row("3b", 256, 64, 64, 96, 64, 96, "mean", 64),
    Row("3c", 320, 0, 128, 160, 64, 96, "halve", 0),
    Row("4a", 576, 224, 64, 96, 96, 128, "mean", 128),
    Row("4b", 576, 192, 96, 128, 96, 128, "mean", 128),
    Row("4c", 576, 160, 128, 160, 128, 160, "mean", 96),
    Row("4d", 576, 96, 128, 192, 160, 192, "mean", 96),
    Row("4e", 576, 0, 128, 192, 192, 256, "halve", 0),
    Row("5a", 1024, 352, 192, 320, 160, 224, "mean", 128),
    Row("5b", 1024, 352, 192, 320, 192, 224, "maximum", 128),
)
"""In 4c and 4d a projection of 96 gives the depth of 576 that the figure states, as in TensorFlow's slim; ports that
project to 128 there come out at 608."""


class Logits(NamedTuple):
    """What the network gives while it trains, each FP32 [batch, num_classes]."""

    logits: Tensor
    aux2: Tensor
    aux1: Tensor


class Convolution(nn.Sequential):
    """A convolution without bias, batch norm, ReLU; it keeps the map's side but for its stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Inception(nn.Module):
    """One row of the table: several paths over the same maps, their outputs side by side."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        stride = 2 if row.pool == "halve" else 1
        paths: list[nn.Module] = [
            nn.Sequential(
                Convolution(row.inputs, row.reduce, 1),
                Convolution(row.reduce, row.three, 3, stride),
            ),
            nn.Sequential(
                Convolution(row.inputs, row.double_reduce, 1),
                Convolution(row.double_reduce, row.double, 3),
                Convolution(row.double, row.double, 3, stride),
            ),
            _pool(row.pool, stride),
        ]
        if row.one:
            paths.insert(0, Convolution(row.inputs, row.one, 1))
        if row.projection:
            paths[-1] = nn.Sequential(paths[-1], Convolution(row.inputs, row.projection, 1))
        self.paths = nn.ModuleList(paths)

    def forward(self, maps: Tensor) -> Tensor:
        """Return FP32 [batch, sum of the paths' channels, side / stride, side / stride]."""
        return torch.cat([path(maps) for path in self.paths], dim=1)


class InceptionV2(nn.Module):
    """Input FP32 [batch, 3, 224, 224]; in eval mode logits FP32 [batch, num_classes], in training mode `Logits`.

    ================ ===================================== ===============
    layer            what it does                          output
    ================ ===================================== ===============
    stem             7x7 on each colour alone, stride 2,   64 x 112 x 112
                     8 maps of each, then 1x1 over all
    pool1            3x3 maximum, stride 2                 64 x 56 x 56
    reduce, conv     1x1 to 64, 3x3                        192 x 56 x 56
    pool2            3x3 maximum, stride 2                 192 x 28 x 28
    3a, 3b, 3c       Inception                             256, 320 x 28 x 28, 576 x 14 x 14
    4a - 4e          Inception                             576 x 14 x 14, 1024 x 7 x 7
    5a, 5b           Inception                             1024 x 7 x 7
    mean, full       over the map                          1000
    ================ ===================================== ===============

    Against GoogLeNet a 5x5 convolution has become two of 3x3, and stride 2 stands inside 3c and 4e. Figure 5 draws no
    side heads: `aux1` and `aux2` are those of GoogLeNet (arXiv:1409.4842, section 5), on 4a and 4d, without dropout,
    which section 4.2.1 takes out. They help to train, and the deployed network has none.
    """

    def __init__(self, num_classes: int = 1000, aux_logits: bool = True) -> None:
        super().__init__()
        self.aux_logits = aux_logits
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 7, stride=2, padding=3, groups=3, bias=False), Convolution(24, 64, 1)
        )
        self.pool1 = _pool("halve", 2)
        self.reduce = Convolution(64, 64, 1)
        self.conv = Convolution(64, 192, 3)
        self.pool2 = _pool("halve", 2)
        self.inception = nn.ModuleDict({row.name: Inception(row) for row in TABLE})
        self.aux1 = _side_head(576, num_classes) if aux_logits else None
        self.aux2 = _side_head(576, num_classes) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, images: Tensor) -> Tensor | Logits:
        """Return the logits of images, while training those of the side heads too."""
        maps = self.pool2(self.conv(self.reduce(self.pool1(self.stem(images)))))
        side = {}
        for name, module in self.inception.items():
            maps = module(maps)
            if name in {"4a", "4d"}:
                side[name] = maps
        logits: Tensor = self.classifier(self.avgpool(maps).flatten(1))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return Logits(logits, self.aux2(side["4d"]), self.aux1(side["4a"]))
        return logits


def _pool(kind: str, stride: int) -> nn.Module:
    """Return a 3x3 mean or maximum that keeps the map's side but for its stride."""
    if kind == "mean":
        return nn.AvgPool2d(3, stride=1, padding=1)
    return nn.MaxPool2d(3, stride=stride, padding=1)


def _side_head(inputs: int, num_classes: int) -> nn.Sequential:
    """Return GoogLeNet's side head: a mean down to 4x4, a 1x1 convolution, two full layers."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        Convolution(inputs, 128, 1),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 1024),
        nn.ReLU(inplace=True),
        nn.Linear(1024, num_classes),
    )


def inception_v2(num_classes: int = 1000, aux_logits: bool = True) -> InceptionV2:
    """Build BN-Inception with `num_classes` outputs and PyTorch's default initialisation."""
    return InceptionV2(num_classes, aux_logits)

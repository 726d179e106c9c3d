"""ResNets for small images: He, Zhang, Ren and Sun, Deep residual learning (arXiv:1512.03385), section 4.2."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from models.spec import NetweightError


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm: relu(F(x) + x), or relu(F(x)) alone in the plain network.

    Where the map is halved and the channels doubled, x is taken at every other pixel, and zeros fill the new channels:
    the paper's option A, which adds no parameter, so that both networks have equally many.
    """

    def __init__(self, inputs: int, outputs: int, *, residual: bool) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.new_channels = outputs - inputs
        self.residual = residual
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """Return FP32 [batch, outputs, side / stride, side / stride] of FP32 [batch, inputs, side, side]."""
        changed: Tensor = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        if self.residual:
            shortcut = maps[:, :, :: self.stride, :: self.stride]
            changed = changed + functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return functional.relu(changed)


class SmallResNet(nn.Module):
    """6n + 2 layers: input FP32 [batch, 3, 32, 32], output FP32 [batch, num_classes]: logits.

    ============== ======== ========= =======
    output         32 x 32  16 x 16   8 x 8
    ============== ======== ========= =======
    layers         1 + 2n   2n        2n
    channels       16       32        64
    ============== ======== ========= =======

    A mean over the map and a full layer follow. With 10 classes the paper's table 6 gives 0.27 million parameters for
    20 layers, 0.46 for 32, 0.66 for 44, 0.85 for 56 and 1.7 for 110.
    """

    def __init__(self, num_classes: int, blocks: int, *, residual: bool) -> None:
        super().__init__()
        channels = (16,) + (16,) * blocks + (32,) * blocks + (64,) * blocks
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(Block(*pair, residual=residual) for pair in pairwise(channels)))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, FP32 [batch, num_classes], of images FP32 [batch, 3, height, width]."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


def cifar_resnet(num_classes: int = 10, depth: int = 56, residual: bool = True) -> SmallResNet:
    """Build a network of `depth` layers; without `residual` the plain one that the paper sets beside it.

    Raises:
        NetweightError: `depth` is not 6n + 2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise NetweightError(
            f"a ResNet for small images has 6n + 2 layers, got {depth}: give a depth of 8, 14, 20, ..."
        )
    return SmallResNet(num_classes, blocks, residual=residual)

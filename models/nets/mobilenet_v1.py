"""MobileNet: Howard et al., Efficient convolutional neural networks for mobile vision applications (arXiv:1704.04861)."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each depthwise-separable block: the paper's table 1."""


class MobileNetV1(nn.Module):
    """A 3x3 convolution, thirteen depthwise-separable ones, a mean, a full layer; batch norm and ReLU after each.

    Input FP32 [batch, 3, 224, 224], output FP32 [batch, num_classes]: logits.

    ================ ================================================= ===============
    layer            what it does                                      output
    ================ ================================================= ===============
    stem             3x3, stride 2                                     32 x 112 x 112
    blocks 0         3x3 on each channel alone, then 1x1 over all      64 x 112 x 112
    blocks 1-2       the same twice, the first with stride 2           128 x 56 x 56
    blocks 3-4       the same twice, the first with stride 2           256 x 28 x 28
    blocks 5-10      the same six times, the first with stride 2       512 x 14 x 14
    blocks 11-12     the same twice, the first with stride 2           1024 x 7 x 7
    mean, full       over the map                                      1000
    ================ ================================================= ===============

    A k x k convolution from M to N channels takes k^2 M N multiply-accumulates for each pixel, the separable one
    k^2 M + M N: here about an eighth. In all 4.2 million parameters and 569 million multiply-accumulates, as in the
    paper's table 4. The paper's table 1 gives block 12 a stride of 2, which its own output of 7x7 shows to be 1.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        inputs = (32, *(channels for channels, _ in BLOCKS))
        self.stem = _convolution(3, 32, 3, stride=2)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    _convolution(before, before, 3, stride=stride, groups=before), _convolution(before, after, 1)
                )
                for before, (after, stride) in zip(inputs[:-1], BLOCKS, strict=True)
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, FP32 [batch, num_classes], of images FP32 [batch, 3, height, width]."""
        logits: Tensor = self.classifier(self.avgpool(self.blocks(self.stem(images))).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the map's side but for its stride, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def mobilenet_v1(num_classes: int = 1000) -> MobileNetV1:
    """Build MobileNet (width 1, resolution 224) with `num_classes` outputs and PyTorch's default initialisation."""
    return MobileNetV1(num_classes)

"""VGG: Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition (arXiv:1409.1556).

The paper's table 1, the columns that netweight knows. A number is a 3x3 convolution with that many channels, ``1x1``
one of that kernel with as many channels as the one before it, each followed by ReLU; ``/2`` is a 2x2 maximum.

======== ========= ========= ========= ========= ========= =========
output   A         A-LRN     B         C         D         E
======== ========= ========= ========= ========= ========= =========
224x224  64        64, LRN   64 64     64 64     64 64     64 64
/2, 112  128       128       128 128   128 128   128 128   128 128
/2, 56   256 256   256 256   256 256   256 256   256 256   256 256
                                       1x1       256       256 256
/2, 28   512 512   512 512   512 512   512 512   512 512   512 512
                                       1x1       512       512 512
/2, 14   512 512   512 512   512 512   512 512   512 512   512 512
                                       1x1       512       512 512
/2, 7    full 4096, full 4096 (each with ReLU, and dropout of one half while training), full 1000
-------- -----------------------------------------------------------
weights  11        11        13        16        16        19
million  133       133       133       134       138       144
======== ========= ========= ========= ========= ========= =========

The layers have torchvision's names, ``features.N`` and ``classifier.N``. As there, a mean over 7x7 cells stands before
the first full layer, which changes nothing at 224x224 and lets other sizes in. Weights are drawn as torch draws them;
how a training draws them is its own option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

Item = int | Literal["1x1", "lrn", "/2"]

A: tuple[Item, ...] = (64, "/2", 128, "/2", 256, 256, "/2", 512, 512, "/2", 512, 512, "/2")
A_LRN: tuple[Item, ...] = (64, "lrn", *A[1:])
B: tuple[Item, ...] = (64, 64, "/2", 128, 128, "/2", 256, 256, "/2", 512, 512, "/2", 512, 512, "/2")
C: tuple[Item, ...] = (*B[:8], "1x1", "/2", 512, 512, "1x1", "/2", 512, 512, "1x1", "/2")
D: tuple[Item, ...] = (*B[:8], 256, "/2", 512, 512, 512, "/2", 512, 512, 512, "/2")
E: tuple[Item, ...] = (*B[:8], 256, 256, "/2", 512, 512, 512, 512, "/2", 512, 512, 512, 512, "/2")


class VGG(nn.Module):
    """One column of the table: FP32 [batch, 3, height, width] to logits FP32 [batch, num_classes]."""

    def __init__(self, column: tuple[Item, ...], num_classes: int, *, width: float, batch_norm: bool) -> None:
        super().__init__()
        full = round(4096 * width)
        self.features = nn.Sequential(*_features(column, width, batch_norm=batch_norm))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(round(512 * width) * 7 * 7, full),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(full, full),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(full, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _features(column: tuple[Item, ...], width: float, *, batch_norm: bool) -> Iterator[nn.Module]:
    """Return the layers below the full ones."""
    channels = 3
    for item in column:
        if item == "/2":
            yield nn.MaxPool2d(2)
        elif item == "lrn":  # AlexNet's constants, as the paper says; torch divides alpha by the number of neighbours
            yield nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2)
        else:
            kernel, outputs = (1, channels) if item == "1x1" else (3, round(int(item) * width))
            yield nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
            if batch_norm:
                yield nn.BatchNorm2d(outputs)
            yield nn.ReLU(inplace=True)
            channels = outputs


def vgg11(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column A, all widths multiplied by `width` (the full layers' too), batch norm after each convolution."""
    return VGG(A, num_classes, width=width, batch_norm=batch_norm)


def vgg11_lrn(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column A-LRN; the options are those of `vgg11`."""
    return VGG(A_LRN, num_classes, width=width, batch_norm=batch_norm)


def vgg13(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column B; the options are those of `vgg11`."""
    return VGG(B, num_classes, width=width, batch_norm=batch_norm)


def vgg16_c(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column C, whose third convolutions see one pixel; the options are those of `vgg11`."""
    return VGG(C, num_classes, width=width, batch_norm=batch_norm)


def vgg16(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column D; the options are those of `vgg11`."""
    return VGG(D, num_classes, width=width, batch_norm=batch_norm)


def vgg19(num_classes: int = 1000, width: float = 1.0, batch_norm: bool = False) -> VGG:
    """Build column E; the options are those of `vgg11`."""
    return VGG(E, num_classes, width=width, batch_norm=batch_norm)


def vgg16_as_torchvision(num_classes: int = 1000, width: float = 1.0) -> VGG:
    """Build column D with its weights drawn as torchvision's VGG draws them, which `width` then leaves too small.

    Convolutions by Kaiming's rule over the outputs, full layers with a deviation of 0.01 whatever their width, biases 0:
    torchvision.models.vgg.VGG, `init_weights`.
    """
    network = vgg16(num_classes, width)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network

"""AlexNet: Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

GROUPS = 2
"""The paper's two GPUs: conv2, conv4 and conv5 see the maps of their own GPU only."""


class AlexNet2012(nn.Module):
    """Five convolutions and three full layers, as the paper's section 3.5 and figure 2 have them.

    Input FP32 [batch, 3, 227, 227], output FP32 [batch, num_classes]: logits. A map's side follows (n - k + 2p) / s + 1:

    ===== ============================== =========================== ============= ===========
    layer what it does                   side                        output        parameters
    ===== ============================== =========================== ============= ===========
    conv1 11x11, stride 4, ReLU, LRN     (227 - 11) / 4 + 1          96 x 55 x 55       34,944
    pool1 3x3 maximum, stride 2          (55 - 3) / 2 + 1            96 x 27 x 27
    conv2 5x5, 2 groups, ReLU, LRN       (27 - 5 + 4) / 1 + 1        256 x 27 x 27     307,456
    pool2 3x3 maximum, stride 2          (27 - 3) / 2 + 1            256 x 13 x 13
    conv3 3x3, ReLU                      (13 - 3 + 2) / 1 + 1        384 x 13 x 13     885,120
    conv4 3x3, 2 groups, ReLU            (13 - 3 + 2) / 1 + 1        384 x 13 x 13     663,936
    conv5 3x3, 2 groups, ReLU            (13 - 3 + 2) / 1 + 1        256 x 13 x 13     442,624
    pool5 3x3 maximum, stride 2          (13 - 3) / 2 + 1            256 x 6 x 6
    fc6   dropout, full, ReLU                                        4,096          37,752,832
    fc7   dropout, full, ReLU                                        4,096          16,781,312
    fc8   full                                                       1,000           4,097,000
    ===== ============================== =========================== ============= ===========

    That is 60,965,224 in all; the paper says 60 million. It says 224x224 too, but only 227 gives the 55 that it draws.
    The pools overlap: 3 wide, 2 apart. LRN, local response normalisation, divides each map's pixel by
    (k + alpha * sum of the squares over n neighbouring maps) ^ beta, with the paper's k = 2, n = 5, alpha = 1e-4,
    beta = 0.75. The mean over 6x6 cells before fc6 changes nothing at 227x227 and lets other sizes in.

    Where torch's default draws the weights, the paper drew them from a normal distribution of deviation 0.01, with
    biases of 1 in conv2, conv4, conv5, fc6 and fc7.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 96, 11, stride=4),
                relu1=nn.ReLU(inplace=True),
                lrn1=_lrn(),
                pool1=nn.MaxPool2d(3, stride=2),
                conv2=nn.Conv2d(96, 256, 5, padding=2, groups=GROUPS),
                relu2=nn.ReLU(inplace=True),
                lrn2=_lrn(),
                pool2=nn.MaxPool2d(3, stride=2),
                conv3=nn.Conv2d(256, 384, 3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(384, 384, 3, padding=1, groups=GROUPS),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(384, 256, 3, padding=1, groups=GROUPS),
                relu5=nn.ReLU(inplace=True),
                pool5=nn.MaxPool2d(3, stride=2),
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            OrderedDict(
                drop6=nn.Dropout(),
                fc6=nn.Linear(256 * 6 * 6, 4096),
                relu6=nn.ReLU(inplace=True),
                drop7=nn.Dropout(),
                fc7=nn.Linear(4096, 4096),
                relu7=nn.ReLU(inplace=True),
                fc8=nn.Linear(4096, num_classes),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, FP32 [batch, num_classes], of images FP32 [batch, 3, height, width]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _lrn() -> nn.LocalResponseNorm:
    """Return the paper's normalisation across neighbouring maps; torch divides its alpha by their number."""
    return nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2)


def alexnet_2012(num_classes: int = 1000) -> AlexNet2012:
    """Build AlexNet as of 2012 with `num_classes` outputs and PyTorch's default initialisation."""
    return AlexNet2012(num_classes)

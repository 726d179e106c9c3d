"""LeNet-5: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class LeNet5(nn.Module):
    """The network that read cheques: two convolutions, each followed by subsampling, then three full layers.

    Input FP32 [batch, 1, 32, 32], output FP32 [batch, num_classes]: logits.

    ===== ============================ ============== ================ ==========
    layer what it does                 output         paper's trained  trained here
    ===== ============================ ============== ================ ==========
    C1    5x5 convolution, tanh        6 x 28 x 28               156        156
    S2    2x2 mean, tanh               6 x 14 x 14                12          0
    C3    5x5 convolution, tanh        16 x 10 x 10            1,516      2,416
    S4    2x2 mean, tanh               16 x 5 x 5                 32          0
    C5    5x5 convolution, tanh        120 x 1 x 1            48,120     48,120
    F6    full, tanh                   84                     10,164     10,164
    out   full (paper: distance to     10                          0        850
          fixed 7x12 bitmaps)
    ===== ============================ ============== ================ ==========

    That is 61,706 in all, with 10 classes. It differs from the paper where today's practice does:

    * S2 and S4 are plain means; the paper's multiply by a trained coefficient, add a trained bias, and squash again.
    * Each map of C3 sees all six maps of S2; in the paper's table I it sees three to six of them, chosen to save
      connections and to break symmetry.
    * The squashing is tanh; the paper's is 1.7159 tanh(2/3 a).
    * The output is a full layer for a softmax; the paper measures the distance to fixed bitmaps of the digits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(1, 6, 5),
                c1_tanh=nn.Tanh(),
                s2=nn.AvgPool2d(2),
                c3=nn.Conv2d(6, 16, 5),
                c3_tanh=nn.Tanh(),
                s4=nn.AvgPool2d(2),
                c5=nn.Conv2d(16, 120, 5),
                c5_tanh=nn.Tanh(),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(f6=nn.Linear(120, 84), f6_tanh=nn.Tanh(), output=nn.Linear(84, num_classes))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, FP32 [batch, num_classes], of images FP32 [batch, 1, 32, 32]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def lenet5(num_classes: int = 10) -> LeNet5:
    """Build LeNet-5 with `num_classes` outputs and PyTorch's default initialisation."""
    return LeNet5(num_classes)

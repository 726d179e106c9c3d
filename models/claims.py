"""What everybody says about training, as arms that differ in one thing: what `models.folklore` tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from models.spec import Recipe

QUARTER = {"width": 0.25}
"""Of the channels: the whole width takes sixteen times as long, and the digits need none of it."""


@dataclass(frozen=True)
class Arm:
    """One way to train, to be set beside another."""

    name: str
    network: str
    recipe: Recipe
    builder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: str = "digits"
    train_images: int | None = None
    init_from: str | None = None
    """The arm, of the same claim and seed, whose best weights start this one where layers match."""
    transfer: str | None = None
    """The arm, of the same claim and seed, whose best weights but for the head start this one."""


@dataclass(frozen=True)
class Claim:
    """Something that is said, and the arms that try it."""

    name: str
    said: str
    source: str
    arms: tuple[Arm, ...]
    better: str
    """The arm that should do better than `worse`, if what is said holds here."""
    worse: str
    measure: str = "top1"
    """`top1` of the held-out images, or `train_loss` of the last epoch: what the claim is about."""
    margin: float = 0.0
    """How far `better` may stay behind and still count: for what is said to do as well as something else."""
    preparation: tuple[Arm, ...] = ()
    """Arms that only give others their first weights."""


def _vgg(name: str, network: str, recipe: Recipe, **more: Any) -> Arm:
    """Return an arm of a plain VGG at a quarter of its width."""
    return Arm(name, network, recipe, builder=f"models.nets.vgg:{network}", options=QUARTER, **more)


_DEEP = Recipe(epochs=12, learning_rate=0.001, initialization="kaiming")
_SGD = Recipe(epochs=13, learning_rate=0.01, optimizer="sgd", initialization="kaiming")
_RESNET = Recipe(epochs=8, learning_rate=0.1, batch_size=64, optimizer="sgd", weight_decay=1e-4)
_SMALL = Recipe(epochs=20, learning_rate=0.002)
_FEW = Recipe(epochs=30, learning_rate=0.001, batch_size=10, initialization="kaiming")


def _resnet(name: str, recipe: Recipe, **options: Any) -> Arm:
    """Return an arm of He et al.'s networks for small images."""
    return Arm(name, "cifar_resnet", recipe, builder="models.nets.resnet_small:cifar_resnet", options=options)


CLAIMS = (
    Claim(
        "initialisation",
        "A deep plain network learns or not by how its weights are drawn; a trained shallower one is a good start.",
        "Glorot and Bengio 2010; Simonyan and Zisserman 2014, section 3.1; He et al. 2015 (arXiv:1502.01852)",
        (
            replace(
                _vgg("torchvision's default", "vgg16", replace(_DEEP, initialization="default")),
                builder="models.nets.vgg:vgg16_as_torchvision",
            ),
            _vgg("torch's default", "vgg16", replace(_DEEP, initialization="default")),
            _vgg("Kaiming", "vgg16", _DEEP),
            _vgg("Xavier", "vgg16", replace(_DEEP, initialization="xavier")),
            _vgg("from a trained VGG-11", "vgg16", _DEEP, init_from="VGG-11"),
        ),
        better="from a trained VGG-11",
        worse="torch's default",
        preparation=(_vgg("VGG-11", "vgg11", _DEEP),),
    ),
    Claim(
        "schedule",
        "A rate that falls when the validation loss stands still does as well as one that falls at chosen epochs.",
        "common practice; steps as in He et al. 2015 (arXiv:1512.03385), section 3.4",
        (
            _vgg("plateau", "vgg11", replace(_SGD, schedule="plateau", patience=1)),
            _vgg("steps", "vgg11", replace(_SGD, schedule="steps", milestones=(8, 11))),
            _vgg("one cycle", "vgg11", _SGD),
        ),
        better="plateau",
        worse="steps",
        margin=0.01,
    ),
    Claim(
        "residuals",
        "At equal depth the network with shortcuts reaches a lower training loss than the one without.",
        "He et al. 2015 (arXiv:1512.03385), section 4.2",
        (
            _resnet("56 layers, residual", _RESNET, depth=56, residual=True),
            _resnet("56 layers, plain", _RESNET, depth=56, residual=False),
        ),
        better="56 layers, residual",
        worse="56 layers, plain",
        measure="train_loss",
    ),
    Claim(
        "label smoothing",
        "Targets that are not quite one generalise better (200 training images, so that there is something to gain).",
        "Szegedy et al. 2015 (arXiv:1512.00567), section 7",
        (
            replace(_resnet("smoothing 0.1", replace(_SMALL, label_smoothing=0.1), depth=20), train_images=200),
            replace(_resnet("none", _SMALL, depth=20), train_images=200),
        ),
        better="smoothing 0.1",
        worse="none",
    ),
    Claim(
        "transfer",
        "With 50 images of digits 5 to 9, a network that knows 0 to 4 learns them better than a fresh one.",
        "Yosinski et al. 2014 (arXiv:1411.1792)",
        (
            _vgg("scratch", "vgg11", _FEW, data="digits:5-9", train_images=50),
            _vgg("transfer", "vgg11", _FEW, data="digits:5-9", train_images=50, transfer="digits 0 to 4"),
            _vgg(
                "transfer, head first",
                "vgg11",
                replace(_FEW, freeze_epochs=10),
                data="digits:5-9",
                train_images=50,
                transfer="digits 0 to 4",
            ),
        ),
        better="transfer, head first",
        worse="scratch",
        preparation=(_vgg("digits 0 to 4", "vgg11", _DEEP, data="digits:0-4"),),
    ),
)

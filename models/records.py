"""The table of the networks: one record each, oldest family first. `models.catalog` looks them up. Stdlib only.

A figure of a record is either counted again by a test (parameters, multiply-accumulates), read from torchvision's own
records (`models.published` generates the file), or typed from a paper that `source` names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from models.spec import Architecture, Edit, Preprocessing, Published, Recipe

_DIGITS = Preprocessing(height=32, width=32, channels=1, mean=(0.0,), std=(1.0,))
"""LeNet-5 without training data of its own: grey, scaled to 0..1. A checkpoint brings its data's mean and deviation."""

_IMAGENET = Preprocessing(
    height=224, width=224, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256
)
"""As torchvision's IMAGENET1K_V1 weights were trained: mean and deviation of ImageNet's colours."""

_BY_TORCHVISION = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def torchvision_names() -> tuple[str, ...]:
    """Return all classification networks of torchvision, those that are in the table here too."""
    return tuple(_BY_TORCHVISION)


def torchvision_figures(name: str) -> tuple[Published, ...]:
    """Return the accuracy of each of a network's weights, as torchvision's weight records say; () where it has none."""
    return tuple(
        Published(figures["top1_percent"], figures["top5_percent"], data, f"torchvision {record['weights']}")
        for record in _BY_TORCHVISION.get(name, ())
        for data, figures in record["accuracy"].items()
    )


def _paper(top1_error_percent: float, top5_error_percent: float | None, source: str) -> Published:
    """Return a paper's error rates on ImageNet's validation images as accuracy."""
    top5 = None if top5_error_percent is None else round(100 - top5_error_percent, 2)
    told = f"top-1 error {top1_error_percent} %"
    told += "" if top5_error_percent is None else f", top-5 error {top5_error_percent} %"
    return Published(round(100 - top1_error_percent, 2), top5, "ImageNet-1K", f"{source}: {told}")


_vgg_paper = partial(_paper, source="Simonyan and Zisserman 2014 (arXiv:1409.1556), table 3, one scale of 256 pixels")

_STRIDE = "the stride of the first convolution is 1 instead of"
_ONE = (1, 1)

_vgg = partial(Architecture, family="VGG", year=2014, preprocessing=_IMAGENET)
_resnet = partial(Architecture, family="ResNet", year=2015, preprocessing=_IMAGENET)
_squeezenet = partial(
    Architecture,
    family="SqueezeNet",
    year=2016,
    preprocessing=_IMAGENET,
    small_image_adaptation=f"{_STRIDE} 2",
    small_image_edits=(Edit("features.0", "stride", _ONE),),
)
_densenet = partial(
    Architecture,
    family="DenseNet",
    year=2016,
    preprocessing=_IMAGENET,
    small_image_adaptation="the first pool is left out",
    small_image_edits=(Edit("features.pool0"),),
)
_mobilenet = partial(
    Architecture,
    family="MobileNet",
    preprocessing=_IMAGENET,
    small_image_adaptation=f"{_STRIDE} 2",
    small_image_edits=(Edit("features.0.0", "stride", _ONE),),
)

RECORDS = (
    Architecture(
        name="lenet5",
        title="LeNet-5",
        family="LeNet",
        year=1998,
        builder="models.nets.lenet5:lenet5",
        parameters=61_706,
        multiply_accumulates=416_520,
        preprocessing=_DIGITS,
        classes=10,
        recipe=Recipe(epochs=15, learning_rate=0.005, augmentation="shift", shift_pixels=2),
        published=(Published(99.05, None, "MNIST", "LeCun et al. 1998, section III-B: test error 0.95 %"),),
    ),
    Architecture(
        name="alexnet_2012",
        title="AlexNet (2012)",
        family="AlexNet",
        year=2012,
        builder="models.nets.alexnet_2012:alexnet_2012",
        parameters=60_965_224,
        multiply_accumulates=724_406_816,
        preprocessing=replace(_IMAGENET, height=227, width=227),
        small_image_adaptation=f"{_STRIDE} 4, its padding 2 instead of 0",
        small_image_edits=(Edit("features.conv1", "stride", _ONE), Edit("features.conv1", "padding", (2, 2))),
        recipe=Recipe(epochs=6, learning_rate=0.0003, initialization="kaiming", augmentation="shift", shift_pixels=1),
        published=(_paper(40.7, 18.2, "Krizhevsky et al. 2012, table 2, one network, ten crops"),),
    ),
    Architecture(
        name="alexnet",
        title="AlexNet (one GPU)",
        family="AlexNet",
        year=2014,
        builder="torchvision.models:alexnet",
        parameters=61_100_840,
        multiply_accumulates=714_188_480,
        preprocessing=_IMAGENET,
        small_image_adaptation=f"{_STRIDE} 4",
        small_image_edits=(Edit("features.0", "stride", _ONE),),
        recipe=Recipe(epochs=6, learning_rate=0.0003, initialization="kaiming", augmentation="shift", shift_pixels=1),
        published=torchvision_figures("alexnet"),
    ),
    _vgg(
        name="vgg11",
        title="VGG-11",
        builder="torchvision.models:vgg11",
        parameters=132_863_336,
        multiply_accumulates=7_609_090_048,
        published=(*torchvision_figures("vgg11"), _vgg_paper(29.6, 10.4)),
    ),
    _vgg(
        name="vgg11_bn",
        title="VGG-11 with batch norm",
        builder="torchvision.models:vgg11_bn",
        parameters=132_868_840,
        multiply_accumulates=7_609_090_048,
        published=torchvision_figures("vgg11_bn"),
    ),
    _vgg(
        name="vgg11_lrn",
        title="VGG-11 (LRN)",
        builder="models.nets.vgg:vgg11_lrn",
        parameters=132_863_336,
        multiply_accumulates=7_609_090_048,
        published=(_vgg_paper(29.7, 10.5),),
    ),
    _vgg(
        name="vgg13",
        title="VGG-13",
        builder="torchvision.models:vgg13",
        parameters=133_047_848,
        multiply_accumulates=11_308_466_176,
        published=(*torchvision_figures("vgg13"), _vgg_paper(28.7, 9.9)),
    ),
    _vgg(
        name="vgg13_bn",
        title="VGG-13 with batch norm",
        builder="torchvision.models:vgg13_bn",
        parameters=133_053_736,
        multiply_accumulates=11_308_466_176,
        published=torchvision_figures("vgg13_bn"),
    ),
    _vgg(
        name="vgg16_c",
        title="VGG-16 (Conv1)",
        builder="models.nets.vgg:vgg16_c",
        parameters=133_638_952,
        multiply_accumulates=11_770_888_192,
        published=(_vgg_paper(28.1, 9.4),),
    ),
    _vgg(
        name="vgg16",
        title="VGG-16",
        builder="torchvision.models:vgg16",
        parameters=138_357_544,
        multiply_accumulates=15_470_264_320,
        published=(*torchvision_figures("vgg16"), _vgg_paper(27.0, 8.8)),
    ),
    _vgg(
        name="vgg16_bn",
        title="VGG-16 with batch norm",
        builder="torchvision.models:vgg16_bn",
        parameters=138_365_992,
        multiply_accumulates=15_470_264_320,
        recipe=Recipe(epochs=3, learning_rate=0.0002, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("vgg16_bn"),
    ),
    _vgg(
        name="vgg19",
        title="VGG-19",
        builder="torchvision.models:vgg19",
        parameters=143_667_240,
        multiply_accumulates=19_632_062_464,
        published=(*torchvision_figures("vgg19"), _vgg_paper(27.3, 9.0)),
    ),
    _vgg(
        name="vgg19_bn",
        title="VGG-19 with batch norm",
        builder="torchvision.models:vgg19_bn",
        parameters=143_678_248,
        multiply_accumulates=19_632_062_464,
        published=torchvision_figures("vgg19_bn"),
    ),
    Architecture(
        name="googlenet",
        title="GoogLeNet",
        family="Inception",
        year=2014,
        builder="torchvision.models:googlenet",
        parameters=6_624_904,
        multiply_accumulates=1_498_376_192,
        preprocessing=_IMAGENET,
        options=(("aux_logits", True), ("init_weights", True)),
        auxiliary_heads=("aux1", "aux2"),
        small_image_adaptation=f"{_STRIDE} 2",
        small_image_edits=(Edit("conv1.conv", "stride", _ONE),),
        recipe=Recipe(epochs=4, learning_rate=0.001, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("googlenet"),
    ),
    Architecture(
        name="inception_v2",
        title="Inception v2 (BN-Inception)",
        family="Inception",
        year=2015,
        builder="models.nets.inception_v2:inception_v2",
        parameters=11_188_288,
        multiply_accumulates=1_934_857_216,
        preprocessing=_IMAGENET,
        auxiliary_heads=("aux1", "aux2"),
        small_image_adaptation=f"{_STRIDE} 2",
        small_image_edits=(Edit("stem.0", "stride", _ONE),),
        recipe=Recipe(epochs=5, learning_rate=0.001, augmentation="shift", shift_pixels=1),
        published=(_paper(25.2, 7.82, "Ioffe and Szegedy 2015 (arXiv:1502.03167), figure 4, one crop"),),
    ),
    Architecture(
        name="inception_v3",
        title="Inception v3",
        family="Inception",
        year=2015,
        builder="torchvision.models:inception_v3",
        parameters=23_834_568,
        multiply_accumulates=5_713_216_096,
        preprocessing=replace(_IMAGENET, height=299, width=299, resize=342),
        options=(("aux_logits", True), ("init_weights", True)),
        auxiliary_heads=("AuxLogits",),
        small_image_adaptation=f"{_STRIDE} 2, the second pool is left out, the auxiliary head pads its maps",
        small_image_edits=(
            Edit("Conv2d_1a_3x3.conv", "stride", _ONE),
            Edit("maxpool2"),
            Edit("AuxLogits.conv1.conv", "padding", (2, 2)),
        ),
        published=torchvision_figures("inception_v3"),
    ),
    _resnet(
        name="resnet18",
        title="ResNet-18",
        builder="torchvision.models:resnet18",
        parameters=11_689_512,
        multiply_accumulates=1_814_073_344,
        recipe=Recipe(epochs=5, learning_rate=0.001),
        published=torchvision_figures("resnet18"),
    ),
    _resnet(
        name="resnet34",
        title="ResNet-34",
        builder="torchvision.models:resnet34",
        parameters=21_797_672,
        multiply_accumulates=3_663_761_408,
        published=torchvision_figures("resnet34"),
    ),
    _resnet(
        name="resnet50",
        title="ResNet-50",
        builder="torchvision.models:resnet50",
        parameters=25_557_032,
        multiply_accumulates=4_089_184_256,
        recipe=Recipe(epochs=10, learning_rate=0.0007, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("resnet50"),
    ),
    _resnet(
        name="resnet101",
        title="ResNet-101",
        builder="torchvision.models:resnet101",
        parameters=44_549_160,
        multiply_accumulates=7_801_405_440,
        published=torchvision_figures("resnet101"),
    ),
    _resnet(
        name="resnet152",
        title="ResNet-152",
        builder="torchvision.models:resnet152",
        parameters=60_192_808,
        multiply_accumulates=11_513_626_624,
        published=torchvision_figures("resnet152"),
    ),
    _squeezenet(
        name="squeezenet1_0",
        title="SqueezeNet 1.0",
        builder="torchvision.models:squeezenet1_0",
        parameters=1_248_424,
        multiply_accumulates=818_924_576,
        published=torchvision_figures("squeezenet1_0"),
    ),
    _squeezenet(
        name="squeezenet1_1",
        title="SqueezeNet 1.1",
        builder="torchvision.models:squeezenet1_1",
        parameters=1_235_496,
        multiply_accumulates=349_151_936,
        recipe=Recipe(epochs=15, learning_rate=0.0007, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("squeezenet1_1"),
    ),
    _densenet(
        name="densenet121",
        title="DenseNet-121",
        builder="torchvision.models:densenet121",
        parameters=7_978_856,
        multiply_accumulates=2_834_161_664,
        recipe=Recipe(epochs=3, learning_rate=0.002, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("densenet121"),
    ),
    _densenet(
        name="densenet169",
        title="DenseNet-169",
        builder="torchvision.models:densenet169",
        parameters=14_149_480,
        multiply_accumulates=3_359_843_328,
        published=torchvision_figures("densenet169"),
    ),
    _densenet(
        name="densenet201",
        title="DenseNet-201",
        builder="torchvision.models:densenet201",
        parameters=20_013_928,
        multiply_accumulates=4_291_365_888,
        published=torchvision_figures("densenet201"),
    ),
    _mobilenet(
        name="mobilenet_v1",
        title="MobileNet",
        year=2017,
        builder="models.nets.mobilenet_v1:mobilenet_v1",
        parameters=4_231_976,
        multiply_accumulates=568_740_352,
        small_image_edits=(Edit("stem.0", "stride", _ONE),),
        recipe=Recipe(epochs=7, learning_rate=0.005, augmentation="shift", shift_pixels=1),
        published=(_paper(29.4, None, "Howard et al. 2017 (arXiv:1704.04861), table 4"),),
    ),
    _mobilenet(
        name="mobilenet_v2",
        title="MobileNetV2",
        year=2018,
        builder="torchvision.models:mobilenet_v2",
        parameters=3_504_872,
        multiply_accumulates=300_774_272,
        recipe=Recipe(epochs=6, learning_rate=0.008, batch_size=64, augmentation="shift", shift_pixels=2),
        published=torchvision_figures("mobilenet_v2"),
    ),
    _mobilenet(
        name="mobilenet_v3_small",
        title="MobileNetV3-Small",
        year=2019,
        builder="torchvision.models:mobilenet_v3_small",
        parameters=2_542_856,
        multiply_accumulates=56_510_400,
        recipe=Recipe(epochs=14, learning_rate=0.003, batch_size=16, augmentation="shift", shift_pixels=1),
        published=torchvision_figures("mobilenet_v3_small"),
    ),
    _mobilenet(
        name="mobilenet_v3_large",
        title="MobileNetV3-Large",
        year=2019,
        builder="torchvision.models:mobilenet_v3_large",
        parameters=5_483_032,
        multiply_accumulates=216_589_760,
        published=torchvision_figures("mobilenet_v3_large"),
    ),
)

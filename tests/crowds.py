"""A comparison of thirty models, made up by a formula, for tests of what must not become a muddle."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from compare.comparison import Comparison
from compare.cost import Accuracy, CostCard, Disk, Latencies, Layer, Published
from tests.costs import comparison, cost_card

# Title, family, megabytes, milliseconds, published top-1 in percent, share of the fully connected layers, layers.
NETWORKS = (
    ("VGG-11", "VGG", 531.5, 62.0, 69.0, 0.93, 11),
    ("VGG-13", "VGG", 532.2, 96.0, 69.9, 0.93, 13),
    ("VGG-16", "VGG", 553.4, 128.0, 71.6, 0.89, 16),
    ("VGG-16-BN", "VGG", 553.5, 130.0, 73.4, 0.89, 16),
    ("VGG-19", "VGG", 574.7, 160.0, 72.4, 0.86, 19),
    ("VGG-19-BN", "VGG", 574.8, 163.0, 74.2, 0.86, 19),
    ("AlexNet", "AlexNet", 244.4, 8.5, 56.5, 0.96, 8),
    ("LeNet-5", "LeNet", 0.25, 0.4, 40.0, 0.95, 5),
    ("GoogLeNet", "Inception", 26.5, 19.0, 69.8, 0.15, 58),
    ("Inception-v3", "Inception", 95.3, 60.0, 77.3, 0.09, 95),
    ("ResNet-18", "ResNet", 46.8, 19.0, 69.8, 0.04, 21),
    ("ResNet-34", "ResNet", 87.2, 38.0, 73.3, 0.02, 37),
    ("ResNet-50", "ResNet", 102.2, 45.0, 76.1, 0.08, 54),
    ("ResNet-101", "ResNet", 178.2, 84.0, 77.4, 0.05, 105),
    ("ResNet-152", "ResNet", 240.8, 124.0, 78.3, 0.03, 156),
    ("ResNeXt-50", "ResNet", 100.1, 58.0, 77.6, 0.08, 54),
    ("Wide-ResNet-50", "ResNet", 275.8, 118.0, 78.5, 0.03, 54),
    ("MobileNetV1", "MobileNet", 16.9, 9.4, 70.6, 0.24, 28),
    ("MobileNetV2", "MobileNet", 14.0, 8.0, 71.9, 0.37, 53),
    ("MobileNetV3-S", "MobileNet", 10.2, 3.6, 67.7, 0.64, 54),
    ("MobileNetV3-L", "MobileNet", 21.9, 7.9, 74.0, 0.48, 64),
    ("DenseNet-121", "DenseNet", 32.0, 46.0, 74.4, 0.13, 121),
    ("DenseNet-169", "DenseNet", 56.9, 60.0, 75.6, 0.12, 169),
    ("SqueezeNet-1.1", "SqueezeNet", 4.95, 6.1, 58.2, 0.0, 26),
    ("ShuffleNetV2", "ShuffleNet", 9.2, 4.4, 69.4, 0.45, 57),
    ("MNASNet-1.0", "MNASNet", 17.5, 8.2, 73.5, 0.29, 53),
    ("EfficientNet-B0", "EfficientNet", 21.2, 14.0, 77.7, 0.24, 82),
    ("RegNetY-400MF", "RegNet", 17.4, 9.9, 74.0, 0.1, 97),
)


def crowd(*, trained: bool = False) -> Comparison:
    """Return a comparison of these networks and two variants; `trained`: with measured accuracy."""
    cards = [_card(*network, number=number, trained=trained) for number, network in enumerate(NETWORKS)]
    vgg = cards[2]
    variants = [
        replace(_scaled(vgg, share), model=f"{vgg.model}.{variant}", variant=variant, reference=vgg.model)
        for variant, share in (("int8", 0.25), ("fp16", 0.5))
    ]
    return comparison(*cards, *variants)


def _card(
    title: str, family: str, size: float, milliseconds: float, top1: float, dense: float, layers: int, *,
    number: int, trained: bool,
) -> CostCard:  # fmt: skip
    size_bytes = round(size * 1e6)
    facts: dict[str, Any] = {
        "family": family,
        "trained": trained,
        "disk": Disk(size_bytes, round(size_bytes * 0.93), None, _layers(size_bytes, dense, layers)),
        "accuracy": Accuracy(round(360 * (0.9 + top1 / 1000)), 360) if trained else None,
        "published": Published(top1, None, "ImageNet-1K", "torchvision"),
    }
    card = cost_card(
        title.lower().replace("-", "_"), title, onnx_bytes=size_bytes, seconds=milliseconds / 1e3, noise=0.03, **facts
    )
    assert card.single_stream is not None
    return replace(card, single_stream=replace(card.single_stream, latency=_latencies(milliseconds / 1e3, number)))


def _layers(size: int, dense: float, count: int) -> tuple[Layer, ...]:
    """Return convolutions that grow towards the end, and a fully connected one; almost all of the bytes."""
    weights = [1.09**n for n in range(count - 1)]
    convolutions = tuple(
        Layer(f"features.{n}", "Conv", 0, round(size * 0.995 * (1 - dense) * weight / sum(weights)), 0)
        for n, weight in enumerate(weights)
    )
    return (*convolutions, Layer("classifier.0", "Gemm", 0, round(size * 0.995 * dense), 0)) if dense else convolutions


def _latencies(seconds: float, number: int) -> Latencies:
    """Return skewed samples without a random number: quantiles of a log-normal, and a rare long one."""
    samples = [
        seconds * math.exp(0.06 * math.tan((n + 0.5) / 500 * 2.6 - 1.3)) * (4 + number % 7 if n % 211 == 7 else 1)
        for n in range(500)
    ]
    return Latencies((tuple(samples), tuple(sample * 1.02 for sample in samples)))


def _scaled(card: CostCard, share: float) -> CostCard:
    layers = tuple(replace(layer, bytes=round(layer.bytes * share)) for layer in card.disk.layers)
    size = round(card.disk.onnx_bytes * share)
    assert card.single_stream is not None
    stream = replace(card.single_stream, latency=_latencies(card.single_stream.latency.percentile(50) * 0.6, 3))
    return replace(card, disk=Disk(size, round(size * 0.95), None, layers), single_stream=stream)

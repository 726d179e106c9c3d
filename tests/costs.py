"""Cost cards with figures made up by a formula, for tests of what shows, compares and chooses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compare.comparison import Comparison
from compare.cost import (
    Accuracy,
    BatchPoint,
    Busy,
    Caller,
    ColdStart,
    CostCard,
    Disk,
    Latencies,
    Layer,
    Memory,
    Offline,
    Probe,
    Published,
    Repeated,
    Saturation,
    Server,
    Settings,
    SingleStream,
)

ROUNDS = 3


def repeated(value: float, noise: float = 0.02) -> Repeated:
    """Return `value` in the middle of three rounds, the others `noise` below and above."""
    return Repeated((value * (1 - noise), value, value * (1 + noise)))


def latencies(seconds: float, count: int = 200, noise: float = 0.02) -> Latencies:
    """Return three rounds of samples, from `seconds` to a tenth more, one in a hundred five times as long."""
    return Latencies(
        tuple(
            tuple(seconds * drift * (5 if n % 100 == 99 else 1 + n % 100 / 1000) for n in range(count))
            for drift in (1 - noise, 1, 1 + noise)
        )
    )


def cost_card(
    model: str = "vgg16",
    title: str = "VGG-16",
    *,
    onnx_bytes: int = 553_000_000,
    seconds: float = 0.18,
    correct: int | None = 356,
    noise: float = 0.02,
    **facts: Any,
) -> CostCard:
    """Return a card whose every part is there; a larger model takes more of everything."""
    rate = 1.1 / seconds
    parameters = onnx_bytes // 4
    layers = (
        Layer("features.0", "Conv", parameters // 10, onnx_bytes // 10, 90_000_000),
        Layer("classifier.0", "Gemm", parameters - parameters // 10, onnx_bytes - onnx_bytes // 10, 10_000_000),
    )
    parts = (0.05, 0.2, onnx_bytes / 4e9, seconds, 0.1, seconds * 1.5)
    process, imports, session, warm_up, other, first = (repeated(each, noise) for each in parts)
    highest = repeated(rate * 0.7, noise)
    probes = tuple(
        Probe(0, rate * share, 7, 3.0, 30, 30, seconds * 1.2 if met else seconds * 9, 0.0002, met)
        for share, met in ((0.5, True), (0.7, True), (0.72, False))
    )
    card = CostCard(
        model=model,
        version=1,
        title=title,
        family=title.partition("-")[0],
        variant="fp32",
        reference=None,
        trained=True,
        adaptation=None,
        provider="CPUExecutionProvider",
        input="UINT8 [224, 224, 3]",
        disk=Disk(onnx_bytes, onnx_bytes * 9 // 10, onnx_bytes + 1000, layers),
        parameters=parameters,
        multiply_accumulates=100_000_000,
        cold_start=ColdStart(process, imports, session, warm_up, other, first, repeated(sum(parts), noise)),
        memory=Memory(
            repeated(onnx_bytes * 1.1, noise),
            repeated(onnx_bytes * 1.1 + 9e7, noise),
            repeated(onnx_bytes * 1.5 + 9e7, noise),
            repeated(onnx_bytes * 1.0, noise),
        ),
        single_stream=SingleStream(latencies(seconds, noise=noise), repeated(seconds * 1.9, noise)),
        saturation=Saturation(
            32, repeated(rate, noise), repeated(32 / rate, noise), repeated(40 / rate, noise), repeated(1.8 / rate)
        ),
        offline=Offline(8, 2, repeated(rate * 1.1, noise)),
        server=Server(0.5, highest, probes),
        batches=tuple(
            BatchPoint(batch, repeated(seconds * batch * 0.9, noise), repeated(1 / seconds / 0.9, noise))
            for batch in (1, 2, 4, 8)
        ),
        accuracy=None if correct is None else Accuracy(correct, 360),
        published=Published(71.592, 90.382, "ImageNet-1K", "torchvision IMAGENET1K_V1"),
    )
    return replace(card, **facts)


VGG = cost_card()
RESNET = cost_card("resnet50", "ResNet-50", onnx_bytes=102_000_000, seconds=0.045, correct=354)
MOBILENET = cost_card("mobilenet_v2", "MobileNetV2", onnx_bytes=14_000_000, seconds=0.005, correct=355)
INT8 = cost_card(
    "vgg16.int8",
    "VGG-16",
    onnx_bytes=138_000_000,
    seconds=0.05,
    variant="int8",
    reference="vgg16",
    accuracy=Accuracy(353, 360, 357, "vgg16"),
)
UNTRAINED = cost_card(
    "alexnet", "AlexNet", onnx_bytes=244_000_000, seconds=0.012, correct=None, trained=False, adaptation=None
)
BARE = CostCard("elsewhere", 3, "elsewhere", None, "fp32", None, None, None, None, "FP32 [3, 8, 8]", Disk(1_000_000))
"""Of a running server without a metrics page: nothing but its file is known."""


def comparison(*cards: CostCard, **facts: Any) -> Comparison:
    """Return a comparison of these cards; by default of one of each kind."""
    values = Comparison(
        created="2026-11-23T21:00:00+00:00",
        environment={
            "date": "2026-11-23T21:00:00+00:00",
            "cpu": "A processor",
            "cores": 2,
            "usable_cores": 2,
            "cpu_quota_cores": None,
            "memory_bytes": 24 * 10**9,
            "memory_limit_bytes": None,
            "gpus": [],
            "load_average": [0.1, 0.2, 0.3],
            "system": "Linux 6.1",
            "python": "3.11.7",
            "packages": {"onnxruntime": "1.32.0"},
            "settings": {},
        },
        busy=Busy(0.05, 0.01, is_busy=False),
        settings=Settings("standard", ROUNDS, 3.0, 32, 0.5, None, 0, own_server=True),
        callers=(Caller(3072, 0.0006, 3000.0), Caller(150_528, 0.0009, 1500.0)),
        cards=cards or (VGG, RESNET, MOBILENET, INT8, UNTRAINED, BARE),
    )
    return replace(values, **facts)

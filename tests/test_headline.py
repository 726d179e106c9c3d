"""The sentence that says what VGG costs, computed from the cards."""

from __future__ import annotations

from dataclasses import replace

from compare import headline as sentences
from compare.columns import TIMES
from compare.comparison import Comparison
from compare.cost import Accuracy, CostCard, Published
from tests.costs import BARE, INT8, MOBILENET, RESNET, VGG, comparison, cost_card


def headline(shown: Comparison) -> str | None:
    """Return the sentence, with an x for the times sign."""
    sentence = sentences.headline(shown)
    return sentence and sentence.replace(TIMES, "x")


def untrained(card: CostCard, top1_percent: float) -> CostCard:
    published = Published(top1_percent, None, "ImageNet-1K", "somebody")
    return replace(card, accuracy=None, trained=False, published=published)


def test_beside_the_lightest_that_is_as_accurate() -> None:
    """VGG is set beside the lightest network that is no less accurate: ResNet-50 here, since MobileNetV2 falls below."""
    resnet = replace(RESNET, accuracy=Accuracy(357, 360))
    heavier = cost_card("resnet101", "ResNet-101", onnx_bytes=178_000_000, correct=360)
    assert headline(comparison(VGG, heavier, MOBILENET, resnet)) == (
        "What VGG-16 costs: 553.0 MB (527.4 MiB), 5.4x the bytes of ResNet-50, 5.4x the memory, 4.0x the time for an "
        "answer (p50) and 0.25x the rate at saturation; and it is no more accurate: 98.9 % of the held-out images "
        "against 99.2 % (356 and 357 of 360)."
    )


def test_when_vgg_is_the_most_accurate() -> None:
    """Where no other is as accurate, VGG is set beside the most accurate other, and the sentence says what was gained."""
    sentence = headline(comparison(VGG, replace(RESNET, accuracy=Accuracy(300, 360)), BARE))
    assert sentence
    assert "the bytes of ResNet-50" in sentence
    assert sentence.endswith(
        "for more accuracy than any network measured here that is no VGG: 98.9 % of the held-out images against 83.3 % "
        "(356 and 300 of 360)."
    )


def test_one_image_more_is_no_gain() -> None:
    """An accuracy that is higher by less than the noise of so many images is said to be no more than that."""
    sentence = headline(comparison(VGG, RESNET, MOBILENET))
    assert sentence
    assert "the bytes of MobileNetV2" in sentence
    assert sentence.endswith(
        "for more accuracy by no more than the noise of so few images: 98.9 % of the held-out images against 98.6 % "
        "(356 and 355 of 360)."
    )


def test_untrained_beside_resnet_and_mobilenet() -> None:
    """Without measured accuracy VGG is set beside ResNet-50 and MobileNetV2, and theirs is called published."""
    cards = untrained(VGG, 71.592), untrained(MOBILENET, 71.878), untrained(RESNET, 76.13)
    assert headline(comparison(*cards)) == (
        "What VGG-16 costs: 553.0 MB (527.4 MiB), 5.4x and 40x the bytes of ResNet-50 and MobileNetV2, 5.4x and 39x the "
        "memory, 4.0x and 36x the time for an answer (p50) and 0.25x and 0.028x the rate at saturation; published "
        "accuracy (ImageNet-1K, not measured here): 71.6 % against 76.1 % and 71.9 %."
    )


def test_untrained_beside_another() -> None:
    """Where neither is there, it is the lightest whose published accuracy is no less."""
    light = untrained(cost_card("alexnet", "AlexNet", onnx_bytes=244_000_000), 56.5)
    good = untrained(cost_card("inception_v3", "Inception v3", onnx_bytes=95_000_000), 77.3)
    sentence = headline(comparison(untrained(VGG, 71.592), light, good))
    assert sentence
    assert "the bytes of Inception v3" in sentence
    unknown = headline(comparison(replace(VGG, accuracy=None, published=None), BARE))
    assert unknown
    assert unknown.endswith("what accuracy that buys was not measured here.")
    assert "memory" not in unknown, "what was not measured of both is left out"


def test_variants_are_no_networks() -> None:
    """An int8 variant of VGG is neither the VGG that is spoken of nor the one beside it."""
    sentence = headline(comparison(VGG, INT8, replace(MOBILENET, accuracy=Accuracy(356, 360))))
    assert sentence
    assert "the bytes of MobileNetV2" in sentence
    assert headline(comparison(VGG, INT8)) is None


def test_which_vgg() -> None:
    """VGG-16 is spoken of where it is there, otherwise the heaviest VGG; without a VGG or another there is no sentence."""
    vgg19 = cost_card("vgg19", "VGG-19", onnx_bytes=574_000_000)
    vgg11 = cost_card("vgg11", "VGG-11", onnx_bytes=531_000_000)
    assert (headline(comparison(vgg19, VGG, MOBILENET)) or "").startswith("What VGG-16 costs: 553.0 MB")
    assert (headline(comparison(vgg11, vgg19, MOBILENET)) or "").startswith("What VGG-19 costs: 574.0 MB")
    assert headline(comparison(RESNET, MOBILENET)) is None
    assert headline(comparison(VGG)) is None

"""export.build: an architecture and its weights become a module from pixels to probabilities."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.build import Pixels, build
from models import catalog
from models.build import build as build_network
from models.spec import NetweightError, Preprocessing
from models.weights import parse
from tests.test_weights import cached, drawn, netweight_checkpoint, saved

LENET5, MOBILENET = catalog.get("lenet5"), catalog.get("mobilenet_v2")
RANDOM = parse("random")


def refusal(weights: str, *, classes: int | None = None) -> str:
    """Return the message that building LeNet-5 ends with: one line."""
    with pytest.raises(NetweightError) as caught:
        build(LENET5, parse(weights), classes=classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pixels_are_scaled_then_normalised() -> None:
    """The batch norm in front of the network is (pixel / 255 - mean) / std, channel by channel, as planes."""
    preprocessing = Preprocessing(5, 4, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    planes = Pixels(preprocessing)(torch.from_numpy(image))
    expected = (image / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    np.testing.assert_allclose(planes.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_random_weights_follow_their_seed() -> None:
    """The same seed draws the same weights, another seed others, and the caller's random state is left alone."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build(LENET5, parse(each)) for each in ("random", "random:0", "random:1"))
    assert torch.equal(state, torch.get_rng_state())
    images = first.images(2, seed=3)
    assert torch.equal(first.module(images)[0], again.module(images)[0])
    assert not torch.equal(first.module(images)[0], other.module(images)[0])


def test_random_weights_are_labelled_untrained() -> None:
    """Random weights have no file, no accuracy, and class names that are numbers."""
    built = build(LENET5, RANDOM, classes=4)
    assert not built.weights.trained
    assert (built.weights.sha256, built.accuracy) == (None, None)
    assert built.class_names == ("0", "1", "2", "3")


def test_checkpoint_bytes_of_random_weights_are_what_torch_would_write(tmp_path: Path) -> None:
    """The size is that of the file which torch.save makes of the state dict, but for the names inside the archive."""
    built = build(LENET5, RANDOM)
    torch.save(built.module.network.state_dict(), tmp_path / "archive.pt")
    assert built.weights.bytes == pytest.approx((tmp_path / "archive.pt").stat().st_size, rel=0.001)


def test_module_gives_probabilities_in_eval_mode() -> None:
    """Probabilities are the softmax of the logits, and dropout and batch norm are those of inference."""
    built = build(LENET5, RANDOM)
    logits, probabilities = built.module(built.images(3, seed=0))
    assert not any(each.training for each in built.module.modules())
    assert logits.shape == probabilities.shape == (3, 10)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))


def test_parameters_are_the_architectures() -> None:
    """They are counted as torch counts them, and are those that the catalogue states."""
    assert build(LENET5, RANDOM).parameters == LENET5.parameters


def test_float32_leaves_preprocessing_to_the_client() -> None:
    """The module then takes normalised planes and gives what it gives for the same image as pixels."""
    pixels, planes = build(LENET5, RANDOM), build(LENET5, RANDOM, input="float32")
    assert (pixels.image_shape, planes.image_shape) == ((32, 32, 1), (1, 32, 32))
    image = pixels.images(2, seed=0)
    torch.testing.assert_close(planes.module(pixels.module.preprocessing(image))[0], pixels.module(image)[0])


def test_checkpoint_becomes_the_network_it_was(tmp_path: Path) -> None:
    """Weights, class names, preprocessing and accuracy of the training run are those of the module."""
    content = netweight_checkpoint()
    built = build(LENET5, saved(content, tmp_path / "best.pt"))
    for name, tensor in built.module.network.state_dict().items():
        assert torch.equal(tensor, content["state_dict"][name])
    assert built.class_names == ("zero", "one", "two")
    assert built.preprocessing.mean == (0.3,)
    assert built.accuracy == content["accuracy"]


def test_half_precision_checkpoints_become_fp32(tmp_path: Path) -> None:
    """Weights stored as FP16 are exported as FP32, which is what the graph computes in."""
    half = {name: tensor.half() for name, tensor in build_network(LENET5, 10).state_dict().items()}
    built = build(LENET5, saved(half, tmp_path / "half.pth"))
    assert {each.dtype for each in built.module.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("small", "stride"), [(True, (1, 1)), (False, (2, 2))])
def test_adaptation_comes_with_the_checkpoint(tmp_path: Path, small: bool, stride: tuple[int, int]) -> None:
    """A network that was trained with its first strides taken out is exported without them, and says so."""
    words = MOBILENET.small_image_adaptation if small else None
    content = netweight_checkpoint(
        architecture="mobilenet_v2",
        adaptation=words,
        preprocessing={**MOBILENET.preprocessing.to_dict(), "height": 32, "width": 32},
        state_dict=build_network(MOBILENET, 3).state_dict(),
    )
    built = build(MOBILENET, saved(content, tmp_path / "best.pt"))
    assert built.adaptation == words
    assert built.module.network.get_submodule("features.0.0").stride == stride


def test_other_class_count_is_refused(tmp_path: Path) -> None:
    """Asking for other classes than the checkpoint has names both counts."""
    saved(netweight_checkpoint(), tmp_path / "best.pt")
    assert "has 3 classes, asked for were 10" in refusal(str(tmp_path / "best.pt"), classes=10)


def test_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    """The message counts what does not fit and names the first tensor of each kind."""
    saved(build_network(MOBILENET, 10).state_dict(), tmp_path / "plain.pth")
    message = refusal(str(tmp_path / "plain.pth"))
    assert "does not fit lenet5: 10 tensors are missing (the first: features.c1.weight)" in message
    assert "are unknown (the first: features.0.0.weight)" in message


def test_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A layer of another width is named with both shapes."""
    tensors = build_network(LENET5, 10).state_dict()
    tensors["features.c1.weight"] = torch.zeros(8, 1, 5, 5)
    saved(tensors, tmp_path / "wide.pth")
    message = refusal(str(tmp_path / "wide.pth"))
    assert "1 have another shape (the first: features.c1.weight, expected [6, 1, 5, 5], got [8, 1, 5, 5])" in message


@pytest.mark.parametrize("name", catalog.names())
def test_every_network_is_deployed_without_what_only_trains_it(name: str) -> None:
    """Auxiliary heads are gone, dropout and batch norm are those of inference; parameters are the record's."""
    architecture = catalog.get(name)
    with torch.device("meta"):  # shapes only
        built = build(architecture, RANDOM)
    assert built.parameters == architecture.parameters
    assert not any(module.training for module in built.module.modules())
    assert not any(parameter.requires_grad for parameter in built.module.parameters())
    heads = [child for child, _ in built.module.network.named_children() if child.lower().startswith("aux")]
    assert heads == []
    assert (built.auxiliary.parameters > 0) == bool(architecture.auxiliary_heads)


@pytest.mark.parametrize(("name", "dropped", "side"), [("googlenet", 6_379_984, 224), ("inception_v3", 3_326_696, 299)])
def test_published_weights_answer_as_torchvisions_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dropped: int, side: int
) -> None:
    """The same pixels give what torchvision's builder gives of these weights with its preprocessing.

    Its networks turn the usual normalisation into another inside themselves (transform_input); and the heads that its
    files carry are dropped: 13.0 and 27.2 million parameters become 6.6 and 23.8.
    """
    from torchvision import models as zoo

    architecture = catalog.get(name)
    record = zoo.get_model_weights(name).DEFAULT
    cached(record, architecture, tmp_path, monkeypatch)
    built = build(architecture, parse("DEFAULT"))
    assert (built.auxiliary.parameters, built.preprocessing.height) == (dropped, side)
    assert built.auxiliary.bytes >= 4 * dropped
    assert f"are left out: {dropped:,} parameters" in built.notes[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the heads in the file are untrained
        theirs = zoo.get_model(name, weights=record).eval()
    pixels = built.images(1, seed=0)[:, :96, :96]  # smaller, to be quick
    normalised = record.transforms(crop_size=96, resize_size=96)(pixels.permute(0, 3, 1, 2))
    with torch.inference_mode():
        expected, given = theirs(normalised), built.module(pixels)[0]
    torch.testing.assert_close(given, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_heads_that_a_checkpoint_has_not_are_not_missed(tmp_path: Path) -> None:
    """A checkpoint without auxiliary heads fits as well; one with other tensors does not."""
    architecture = catalog.get("googlenet")
    tensors = drawn(architecture, 10, deployed=True)
    built = build(architecture, saved(tensors, tmp_path / "plain.pth"))
    assert (built.auxiliary.parameters, len(built.class_names)) == (0, 10)
    with pytest.raises(NetweightError, match=r"1 are unknown \(the first: head\.weight\)"):
        build(architecture, saved({**tensors, "head.weight": torch.zeros(2)}, tmp_path / "more.pth"))


def test_published_densenets_have_former_names(tmp_path: Path) -> None:
    """Files of before 2019 have dots in the names of DenseNet's layers, and no counters of batch norm."""
    densenet, tensors = catalog.get("densenet121"), drawn(catalog.get("densenet121"))
    former = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))", r"\1.", name): tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in former
    built = build(densenet, saved(former, tmp_path / "densenet121.pth"))
    for name, tensor in built.module.network.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_published_weights_bring_their_preprocessing_and_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-50's second weights are cropped from 232 pixels and have their own published accuracy, not the first's."""
    from torchvision.models import ResNet50_Weights

    architecture = catalog.get("resnet50")
    cached(ResNet50_Weights.IMAGENET1K_V2, architecture, tmp_path, monkeypatch)
    built = build(architecture, parse("IMAGENET1K_V2"))
    assert (built.preprocessing.height, built.preprocessing.resize, built.preprocessing.interpolation) == (
        224,
        232,
        "bilinear",
    )
    assert [(each.top1_percent, each.top5_percent, each.source) for each in built.published] == [
        (80.858, 95.434, "torchvision IMAGENET1K_V2")
    ]
    assert built.class_names[:2] == ("tench", "goldfish")
    assert built.accuracy is None


def test_options_of_the_builder_come_with_the_checkpoint(tmp_path: Path) -> None:
    """A network of a quarter of the width, trained so, is exported so."""
    narrow: dict[str, Any] = {"width_mult": 0.25}
    network = build_network(replace(MOBILENET, options=tuple(narrow.items())), 3)
    content = netweight_checkpoint(
        architecture="mobilenet_v2",
        builder=MOBILENET.builder,
        options=narrow,
        preprocessing=MOBILENET.preprocessing.to_dict(),
        state_dict=network.state_dict(),
    )
    built = build(MOBILENET, saved(content, tmp_path / "best.pt"))
    assert built.parameters == sum(each.numel() for each in network.parameters())
    assert dict(built.architecture.options) == narrow
    assert built.published == ()

"""export.build: an architecture and its weights become a module from pixels to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from export.build import Pixels, build
from models import catalog
from models.build import build as build_network
from models.spec import NetweightError, Preprocessing
from models.weights import parse
from tests.test_weights import netweight_checkpoint, saved

if TYPE_CHECKING:
    from pathlib import Path

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

"""export.verify: ONNX Runtime and torch give the same answers, or nothing is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.build import Built, build
from export.convert import convert
from export.verify import BATCHES, SEED, Unseen, verify
from models import catalog
from models.spec import NetweightError
from models.weights import parse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def lenet5() -> Built:
    return build(catalog.get("lenet5"), parse("random"))


@pytest.fixture(scope="module")
def exported(lenet5: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("verify") / "model.onnx"
    convert(lenet5.module, lenet5.images(2, 0), path)
    return path


def unseen(built: Built) -> Unseen:
    """Draw the images that an export is verified with."""
    return Unseen(built.images(max(BATCHES), SEED))


class Scaled(nn.Module):
    """A module whose logits are larger or shifted: what a file that differs looks like."""

    def __init__(self, module: nn.Module, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.module, self.factor, self.shift = module, factor, shift

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.factor * self.module(image)[0] + self.shift
        return logits, logits.softmax(dim=1)


def changed(exported: Path, path: Path, change: str, factor: float) -> Path:
    """Write the file again with one tensor multiplied."""
    model = onnx.load(exported)
    (tensor,) = (each for each in model.graph.initializer if each.name == change)
    tensor.CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(tensor), change))
    onnx.save(model, path)
    return path


def test_every_batch_size_agrees(exported: Path, lenet5: Built) -> None:
    """At batches 1, 2, 3 and 8 the logits differ by less than a millionth of their scale."""
    parity = verify(exported, lenet5.module, unseen(lenet5))
    assert [each.batch for each in parity.batches] == [1, 2, 3, 8]
    assert all(each.max_relative < 1e-6 and each.top1_agreement == 1 for each in parity.batches)
    assert parity.to_dict()["batches"][3] == {
        "batch": 8,
        "max_absolute": parity.batches[3].max_absolute,
        "max_relative": parity.batches[3].max_relative,
        "probabilities_max_absolute": parity.batches[3].probabilities_max_absolute,
        "top1_agreement": 1.0,
    }


def test_differences_are_judged_by_the_scale(lenet5: Built, tmp_path: Path) -> None:
    """Logits of 1e6, as untrained deep networks give, may differ by more than the tolerance times one."""
    module = Scaled(lenet5.module, factor=1e6).eval()
    convert(module, lenet5.images(2, 0), tmp_path / "model.onnx")
    parity = verify(tmp_path / "model.onnx", module, unseen(lenet5), tolerance=1e-5)
    assert parity.max_relative < 1e-5 < max(each.max_absolute for each in parity.batches)


def test_changed_weight_is_found(exported: Path, lenet5: Built, tmp_path: Path) -> None:
    """A file with one layer's weights a thousandth off is refused, in one line with the tolerance."""
    path = changed(exported, tmp_path / "model.onnx", "classifier.output.weight", 1.001)
    with pytest.raises(NetweightError, match=r"batch 1: logits .* differ .* the tolerance is 1\.0e-04") as caught:
        verify(path, lenet5.module, unseen(lenet5))
    assert "\n" not in str(caught.value)
    verify(path, lenet5.module, unseen(lenet5), tolerance=0.01)


def test_accepted_parity_is_recorded(exported: Path, lenet5: Built, tmp_path: Path) -> None:
    """What is out of tolerance and accepted all the same says so, and by how much; what is within it does not."""
    path = changed(exported, tmp_path / "model.onnx", "classifier.output.weight", 1.001)
    accepted = verify(path, lenet5.module, unseen(lenet5), accept=True)
    assert accepted.accepted
    assert accepted.max_relative > accepted.tolerance
    assert accepted.to_dict()["within_tolerance"] is False
    fine = verify(exported, lenet5.module, unseen(lenet5), accept=True)
    assert (fine.accepted, fine.to_dict()["within_tolerance"]) == (False, True)


def test_what_is_not_finite_is_never_accepted(exported: Path, lenet5: Built, tmp_path: Path) -> None:
    """A file that answers with infinities is refused, whatever was asked for."""
    path = changed(exported, tmp_path / "model.onnx", "classifier.output.weight", float("inf"))
    with pytest.raises(NetweightError, match="of ONNX Runtime are not finite"):
        verify(path, lenet5.module, unseen(lenet5), accept=True)


def test_preprocessing_in_the_graph_is_part_of_it(exported: Path, lenet5: Built, tmp_path: Path) -> None:
    """A file that normalises differently is refused as well."""
    with pytest.raises(NetweightError, match="logits"):
        verify(
            changed(exported, tmp_path / "model.onnx", "preprocessing.variance", 1.01),
            lenet5.module,
            unseen(lenet5),
        )


def test_network_that_overflows_is_refused(exported: Path, lenet5: Built) -> None:
    """Weights whose logits are not finite are no network to publish."""
    with pytest.raises(NetweightError, match="not finite"):
        verify(exported, Scaled(lenet5.module, shift=float("nan")), unseen(lenet5))


def test_images_are_unseen(lenet5: Built) -> None:
    """What is verified with is not what the export was traced with."""
    assert not torch.equal(unseen(lenet5).images[:2], lenet5.images(2, 0))

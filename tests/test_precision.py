"""models/trainer.py: how precisely a machine trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from models import trainer
from models.spec import Recipe
from models.train import train
from tests.networks import TWO_HEADED
from tests.test_resume import STEPS
from tests.test_train import LENET, read, silent


@pytest.mark.parametrize(
    ("asked", "gpu", "bf16", "taken"),
    [
        ("auto", False, False, "32-true"),
        ("auto", True, True, "bf16-mixed"),
        ("auto", True, False, "16-mixed"),
        ("fp32", True, True, "32-true"),
        ("fp16", True, True, "16-mixed"),
        ("bf16", False, False, "bf16-mixed"),
    ],
)
def test_precision_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch,
    asked: Literal["auto", "fp32", "fp16", "bf16"],
    gpu: bool,
    bf16: bool,
    taken: str,
) -> None:
    """Unasked, a GPU trains in mixed precision, with bf16 where it has it, and a CPU in fp32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 and not including_emulation)
    assert trainer.precision(Recipe(1, 0.1, precision=asked)) == taken


def test_mixed_weights_are_fp32(tmp_path: Path) -> None:
    """Trained with bf16 mixed in, a network with batch norm and an auxiliary head learns, and its weights are fp32."""
    recipe = replace(STEPS, precision="bf16")
    reached = train(TWO_HEADED, recipe=recipe, train_images=256, directory=tmp_path, report=silent)
    assert reached.accuracy > 0.5
    kinds = {tensor.dtype for tensor in read(tmp_path)["state_dict"].values()}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_gpu_trains_in_each_precision(tmp_path: Path, precision: Literal["auto", "fp16", "fp32"]) -> None:
    """On a GPU each precision reaches the accuracy of the CPU's, in 15 epochs of LeNet-5's recipe."""
    assert LENET.recipe
    reached = train(LENET, recipe=replace(LENET.recipe, precision=precision), directory=tmp_path, report=silent)
    assert reached.accuracy > 0.96

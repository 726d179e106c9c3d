"""A run that is cut off and started again ends as if it had not been, whatever the recipe keeps between epochs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.run import Run
from models.spec import Architecture, NetweightError, Recipe
from models.train import train
from tests.networks import POISONED, TWO_HEADED
from tests.test_train import LENET, figures, read, silent

FEW = 256
"""Training images: four batches."""
PLATEAU = Recipe(
    epochs=40,
    learning_rate=0.04,
    batch_size=64,
    schedule="plateau",
    patience=0,
    decay=0.3,
    early_stop=3,
    label_smoothing=0.1,
    augmentation="shift",
    shift_pixels=1,
)
"""The rate falls after an epoch without progress, and training ends after three of them: never in the same epoch."""
STEPS = Recipe(epochs=4, learning_rate=0.05, batch_size=64, optimizer="sgd", schedule="steps", milestones=(1, 3))
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_resume import FEW, PLATEAU, TWO_HEADED
from models.train import train

def report(line):
    if line.startswith(f"  epoch {sys.argv[2]}/"):
        os.kill(os.getpid(), signal.SIGKILL)

train(TWO_HEADED, recipe=PLATEAU, train_images=FEW, directory=Path(sys.argv[1]), report=report)
"""


class CutError(Exception):
    """The run is cut off here; what stands on the disk is what SIGKILL would have left."""


def cut_after(epoch: int) -> Callable[[str], None]:
    """Return what cuts a run off when its epoch is reported."""

    def report(line: str) -> None:
        if line.startswith(f"  epoch {epoch}/"):
            raise CutError

    return report


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def unfinish(directory: Path) -> None:
    """Make a finished run one that was killed just before it said so."""
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**record, "finished": False}))


def test_plateau_early_stop_and_smoothing_survive_sigkill(tmp_path: Path) -> None:
    """Killed when its rate has fallen, a run ends early at the same epoch, its weights the same to the last bit."""
    uncut, killed = tmp_path / "uncut", tmp_path / "killed"
    lines: list[str] = []
    reached = train(TWO_HEADED, recipe=PLATEAU, train_images=FEW, directory=uncut, report=lines.append)
    rates = [row["learning_rate"] for row in figures(uncut)]
    fallen = next(index for index, rate in enumerate(rates) if rate != rates[0]) + 1
    command = [sys.executable, "-c", KILLED, str(killed), str(fallen)]
    process = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    assert process.returncode == -signal.SIGKILL
    resumed = train(TWO_HEADED, recipe=PLATEAU, train_images=FEW, directory=killed, report=silent)
    assert same(read(killed)["state_dict"], read(uncut)["state_dict"])
    assert figures(killed) == figures(uncut)
    assert fallen < reached.epochs < PLATEAU.epochs
    assert resumed.epochs == reached.epochs
    assert lines[-1].endswith(f"it ended early, after epoch {reached.epochs}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A network with two heads, trained on all ten digits, every epoch's weights kept."""
    directory = tmp_path_factory.mktemp("trained")
    return train(TWO_HEADED, recipe=STEPS, train_images=FEW, directory=directory, keep="all", report=silent)


def test_auxiliary_heads_survive_a_cut(trained: Run, tmp_path: Path) -> None:
    """A network with an auxiliary head, batch norm and momentum is resumed to the last bit, auxiliary head included."""
    asked: dict[str, Any] = {"recipe": STEPS, "train_images": FEW, "directory": tmp_path, "keep": "all"}
    with pytest.raises(CutError):
        train(TWO_HEADED, **asked, report=cut_after(2))
    train(TWO_HEADED, **asked, report=silent)
    for name in ("epoch-001.pt", "epoch-004.pt", "best.pt"):
        assert same(weights(tmp_path / name), weights(trained.directory / name))
    assert figures(tmp_path) == figures(trained.directory)


def test_auxiliary_heads_take_part_in_the_loss(trained: Run, tmp_path: Path) -> None:
    """With weight 0 the auxiliary head stays as it was drawn; with its usual weight it moves and adds to the loss."""
    recipe = replace(STEPS, auxiliary_weight=0.0)
    train(TWO_HEADED, recipe=recipe, train_images=FEW, directory=tmp_path, keep="all", report=silent)
    without, before = (weights(tmp_path / f"epoch-00{epoch}.pt")["auxiliary.weight"] for epoch in (4, 1))
    assert torch.equal(without, before)
    moved = [weights(trained.directory / f"epoch-00{epoch}.pt")["auxiliary.weight"] for epoch in (1, 4)]
    assert not torch.equal(*moved)
    first, plain = (float(figures(each)[0]["train_loss"]) for each in (trained.directory, tmp_path))
    assert first > 1.15 * plain


@pytest.mark.parametrize("cut", [1, 2])
def test_frozen_transfer_survives_a_cut(trained: Run, tmp_path: Path, cut: int) -> None:
    """Cut while it is frozen or when it thaws, a transfer to fewer classes ends with the same weights."""
    recipe = replace(STEPS, freeze_epochs=2)
    asked: dict[str, Any] = {
        "recipe": recipe,
        "data": "digits:0-4",
        "train_images": 128,
        "transfer": trained.directory / "best.pt",
        "keep": "all",
    }
    uncut = tmp_path / "uncut"
    lines: list[str] = []
    train(TWO_HEADED, **asked, directory=uncut, report=lines.append)
    with pytest.raises(CutError):
        train(TWO_HEADED, **asked, directory=tmp_path / "cut", report=cut_after(cut))
    train(TWO_HEADED, **asked, directory=tmp_path / "cut", report=silent)
    assert same(weights(tmp_path / "cut" / "epoch-004.pt"), weights(uncut / "epoch-004.pt"))
    assert "2 layers taken, fresh: head, auxiliary; for 2 epochs only head is trained, then all" in lines[1]
    source, second, third = (
        weights(path) for path in (trained.directory / "best.pt", uncut / "epoch-002.pt", uncut / "epoch-003.pt")
    )
    taken = [name for name in source if name.startswith(("stem", "body"))]
    assert "stem.1.running_mean" in taken
    assert all(torch.equal(second[name], source[name]) for name in taken), "frozen, batch norm's statistics included"
    assert not torch.equal(second["head.weight"], weights(uncut / "epoch-001.pt")["head.weight"])
    assert not any(torch.equal(third[name], source[name]) for name in taken if not name.endswith("bias"))


def test_kept_last_state_is_the_end(tmp_path: Path) -> None:
    """A run that ended early and keeps last.ckpt, killed before it said that it is finished, trains no more."""
    asked: dict[str, Any] = {"recipe": PLATEAU, "train_images": FEW, "directory": tmp_path, "keep": "last"}
    reached = train(TWO_HEADED, **asked, report=silent)
    before = figures(tmp_path)
    unfinish(tmp_path)
    again = train(TWO_HEADED, **asked, report=cut_after(reached.epochs + 1))
    assert (again.epochs, again.accuracy, again.reused) == (reached.epochs, reached.accuracy, False)
    assert figures(tmp_path) == before
    assert (tmp_path / "last.ckpt").exists()


def test_kept_files_follow_the_policy(trained: Run, tmp_path: Path) -> None:
    """`all` leaves each epoch's weights, the best of which are best.pt's; `best` leaves neither those nor last.ckpt."""
    names = {path.name for path in trained.directory.iterdir()}
    assert names >= {f"epoch-00{epoch}.pt" for epoch in (1, 2, 3, 4)}
    assert "last.ckpt" not in names
    best = json.loads((trained.directory / "run.json").read_text())["best_epoch"]
    assert (trained.directory / f"epoch-00{best}.pt").read_bytes() == (trained.directory / "best.pt").read_bytes()


def test_loss_that_becomes_no_number_keeps_the_last_good_weights(tmp_path: Path) -> None:
    """A loss that is no number in the second epoch is one line; best.pt and last.ckpt of the first stand."""
    recipe = Recipe(epochs=3, learning_rate=0.001, batch_size=64)
    with pytest.raises(NetweightError, match=r"^Poisoned did not learn, .* after epoch 2: train with .* below 0\.001$"):
        train(POISONED, recipe=recipe, train_images=FEW, directory=tmp_path, report=silent)
    assert len(figures(tmp_path)) == 1
    assert all(tensor.isfinite().all() for tensor in read(tmp_path)["state_dict"].values())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 0


def test_run_that_failed_at_once_gives_its_directory_away(tmp_path: Path) -> None:
    """What was refused before its first epoch leaves nothing, and another request may have the directory."""
    recipe = Recipe(epochs=1, learning_rate=1e38, batch_size=64, optimizer="sgd")
    with pytest.raises(NetweightError, match="did not learn"):
        train(LENET, recipe=recipe, train_images=FEW, directory=tmp_path, report=silent)
    assert train(LENET, recipe=replace(recipe, learning_rate=0.1), train_images=FEW, directory=tmp_path).epochs == 1


def test_last_checkpoint_of_another_network_is_one_line(trained: Run, tmp_path: Path) -> None:
    """A last.ckpt that was put in the place of a run's own is refused in one line, and nothing is overwritten."""
    asked: dict[str, Any] = {"recipe": STEPS, "train_images": FEW, "directory": tmp_path}
    with pytest.raises(CutError):
        train(LENET, **asked, report=cut_after(2))
    best = (tmp_path / "best.pt").read_bytes()
    other = tmp_path / "other"
    with pytest.raises(CutError):
        train(TWO_HEADED, recipe=STEPS, train_images=FEW, directory=other, report=cut_after(1))
    shutil.copy(other / "last.ckpt", tmp_path / "last.ckpt")
    with pytest.raises(
        NetweightError, match=r"^last\.ckpt is of another network: remove it to train from the beginning$"
    ) as failure:
        train(LENET, **asked, report=silent)
    assert "\n" not in str(failure.value)
    assert (tmp_path / "best.pt").read_bytes() == best


def test_request_without_its_network_is_no_request(tmp_path: Path) -> None:
    """A run of an older netweight is refused in one line."""
    (tmp_path / "run.json").write_text('{"schema": "netweight-run/1", "network": "lenet5"}')
    with pytest.raises(NetweightError, match=r"run\.json is not a run of this netweight \(netweight-run/2\): name"):
        train(LENET, recipe=STEPS, directory=tmp_path, report=silent)


@pytest.mark.parametrize("network", [LENET, TWO_HEADED])
def test_16_bit_floats_need_a_gpu(network: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 without a GPU is refused in one line before anything is written but the request."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NetweightError, match=r"^precision fp16 trains on a GPU only, .*: give fp32, bf16 or auto$"):
        train(network, recipe=replace(STEPS, precision="fp16"), directory=tmp_path, report=silent)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json"}

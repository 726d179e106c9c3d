"""models/train.py and what it is made of: runs that are trained, reused, refused; tests/test_resume.py cuts them off."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import build, catalog, fit
from models.batches import Images
from models.run import Run
from models.spec import NetweightError, Preprocessing, Recipe
from models.train import train

LENET = catalog.get("lenet5")
SHORT = Recipe(epochs=3, learning_rate=0.005, batch_size=64, augmentation="shift", shift_pixels=1)


def silent(_: str) -> None:
    """Report nothing."""


def read(directory: Path) -> dict[str, Any]:
    """Read best.pt as the export does."""
    checkpoint: dict[str, Any] = torch.load(directory / "best.pt", weights_only=True)
    return checkpoint


def figures(directory: Path) -> list[dict[str, str]]:
    """Return history.csv without the seconds."""
    with (directory / "history.csv").open(encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LeNet-5, trained for three epochs without a break."""
    return train(LENET, recipe=SHORT, directory=tmp_path_factory.mktemp("uncut"), report=silent)


@pytest.fixture
def copy(uncut: Run, tmp_path: Path) -> Path:
    """A copy of that run, to be spoilt."""
    return Path(shutil.copytree(uncut.directory, tmp_path / "run"))


def test_interrupted_run_goes_on(uncut: Run, tmp_path: Path) -> None:
    """Ctrl-C stops a run as it stops any program; started again, it ends with the uncut run's weights."""
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(line: str) -> None:
        if line.startswith("  epoch 2/"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(LENET, recipe=SHORT, directory=tmp_path, report=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "last.ckpt").exists()
    lines: list[str] = []
    resumed = train(LENET, recipe=SHORT, directory=tmp_path, report=lines.append)
    assert "going on" in lines[0]
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  epoch 3/3"]
    assert resumed.accuracy == uncut.accuracy
    ours, theirs = (read(directory)["state_dict"] for directory in (tmp_path, uncut.directory))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert figures(tmp_path) == figures(uncut.directory)


def test_state_of_an_unknown_run_is_not_resumed(uncut: Run, tmp_path: Path) -> None:
    """A last.ckpt without the run.json that says what it is of is not resumed from."""
    (tmp_path / "last.ckpt").write_bytes(b"of another network")
    assert train(LENET, recipe=SHORT, directory=tmp_path, report=silent).accuracy == uncut.accuracy


def test_loss_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    """A learning rate that drives the weights out of all bounds is answered in one line with the cure."""
    recipe = Recipe(epochs=1, learning_rate=1e38, batch_size=64, optimizer="sgd")
    with pytest.raises(NetweightError, match=r"^lenet5 did not learn.*a learning rate below 1e\+38$"):
        train(LENET, recipe=recipe, directory=tmp_path, report=silent)


def test_files_of_a_finished_run(uncut: Run) -> None:
    """A finished run leaves the best weights, its record, a row for each epoch, the held-out images, nothing else."""
    names = {path.name for path in uncut.directory.iterdir()}
    assert names == {"best.pt", "run.json", "history.csv", "history.png", "heldout.npz"}
    rows = figures(uncut.directory)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    record = json.loads((uncut.directory / "run.json").read_text())
    best = (uncut.directory / "best.pt").read_bytes()
    assert record["best"] == {"bytes": len(best), "sha256": hashlib.sha256(best).hexdigest()}
    assert record["best_epoch"] == 1 + min(range(3), key=lambda index: float(rows[index]["validation_loss"]))
    assert (record["network"], record["data"], record["seed"]) == ("lenet5", "digits", 0)
    assert record["parameters"] == uncut.parameters == 61_706
    assert record["tools"]["torch"] == torch.__version__


def test_checkpoint_says_all_that_is_needed(uncut: Run) -> None:
    """From best.pt and heldout.npz alone the network is built again, and reaches the accuracy that is written there."""
    checkpoint = read(uncut.directory)
    assert checkpoint["format"] == "netweight-checkpoint/1"
    assert checkpoint["class_names"] == [str(digit) for digit in range(10)]
    assert checkpoint["adaptation"] is None
    network = build.build(catalog.get(checkpoint["architecture"]), checkpoint["classes"], small_images=True)
    network.load_state_dict(checkpoint["state_dict"])
    with np.load(uncut.directory / "heldout.npz") as file:
        heldout = Images(file["images"], file["labels"])
    reached = fit.accuracy(network, Preprocessing.from_dict(checkpoint["preprocessing"]), heldout)
    assert checkpoint["accuracy"] == {"data": "digits", "split": "held-out", "images": 360, "top1": reached}
    assert reached == uncut.accuracy > 0.8


def test_finished_run_is_reused_without_torch(uncut: Run) -> None:
    """The same request to a finished run is answered from its record: nothing is trained, torch is not imported."""
    code = (
        "import sys; from pathlib import Path; from models import catalog, train; from models.spec import Recipe\n"
        f"run = train.train(catalog.get('lenet5'), recipe={SHORT!r}, directory=Path(sys.argv[1]))\n"
        f"assert run.reused and run.accuracy == {uncut.accuracy!r} and 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(uncut.directory)], cwd=root, check=True)


def test_damaged_run_is_trained_again(uncut: Run, copy: Path) -> None:
    """A finished run whose weights were cut short is trained again, to the same accuracy."""
    (copy / "best.pt").write_bytes((copy / "best.pt").read_bytes()[:1000])
    again = train(LENET, recipe=SHORT, directory=copy, report=silent)
    assert not again.reused
    assert again.accuracy == uncut.accuracy


def test_fresh_run_trains_again(copy: Path) -> None:
    """Without `resume`, even a finished run is trained from the beginning."""
    lines: list[str] = []
    again = train(LENET, recipe=SHORT, directory=copy, resume=False, report=lines.append)
    assert not again.reused
    assert any("epoch 1/3" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": replace(SHORT, epochs=4)}, "a run with epochs 3, and epochs 4 was asked for"),
        ({"seed": 1}, "a run with seed 0, and seed 1 was asked for"),
        ({"architecture": catalog.get("resnet18")}, "a run with network lenet5, and network resnet18 was asked for"),
    ],
)
def test_other_request_is_refused(uncut: Run, change: dict[str, Any], words: str) -> None:
    """A directory that holds another recipe's, seed's or network's run is refused, saying what differs and the cure."""
    request = {"architecture": LENET, "recipe": SHORT, **change}
    before = (uncut.directory / "run.json").read_bytes()
    with pytest.raises(NetweightError, match=f"{words}: name another --output or remove it"):
        train(**request, directory=uncut.directory, report=silent)
    assert (uncut.directory / "run.json").read_bytes() == before


def test_broken_last_checkpoint_is_one_line(copy: Path) -> None:
    """An unfinished run whose last.ckpt is broken is refused in one line that says how to mend it."""
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "finished": False}))
    (copy / "last.ckpt").write_bytes(b"PK not really")
    with pytest.raises(NetweightError, match=r"last\.ckpt cannot be read .*: remove it to train from the beginning$"):
        train(LENET, recipe=SHORT, directory=copy, report=silent)


def test_broken_record_is_one_line(tmp_path: Path) -> None:
    """A run.json that is no run's is refused in one line."""
    for text in ("{", "[]", '{"schema": "other/1"}', '{"schema": "netweight-run/2"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(NetweightError, match=r"run\.json .*: name another --output or remove it$"):
            train(LENET, recipe=SHORT, directory=tmp_path, report=silent)


def test_unwritable_directory_is_one_line(tmp_path: Path) -> None:
    """A directory that cannot be made is an error of one line that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(NetweightError, match=r"^cannot write .*file/run \(Not a directory\): name another --output"):
        train(LENET, recipe=SHORT, directory=tmp_path / "file" / "run", report=silent)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("file", ["run.json", "heldout.npz", "best.pt", "history.csv", "history.png", "last.ckpt"])
def test_full_disk_is_one_line(tmp_path: Path, file: str) -> None:
    """Whichever file the disk is full for, the error is one line that says so."""
    (tmp_path / f".{file}.part").symlink_to("/dev/full")
    with pytest.raises(NetweightError, match="No space left on device"):
        train(LENET, recipe=SHORT, directory=tmp_path, report=silent)


def test_no_room_is_seen_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checkpoints would not fit, nothing is trained, and the error says how much room is needed."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(NetweightError, match=r"needs 2 MB of room in .*, there are 1 MB: free some"):
        train(LENET, recipe=SHORT, directory=tmp_path, report=silent)
    assert not (tmp_path / "best.pt").exists()


def test_network_without_recipe(tmp_path: Path) -> None:
    """A network whose record has no recipe is refused in one line."""
    with pytest.raises(
        NetweightError, match=r"^vgg16 has no recipe .*: give --epochs and --learning-rate, or train lenet5,"
    ):
        train(catalog.get("vgg16"), directory=tmp_path, report=silent)


def test_sgd_and_kaiming(tmp_path: Path) -> None:
    """A recipe of SGD, one-cycle and Kaiming's initialisation lowers the loss in every epoch."""
    recipe = Recipe(epochs=2, learning_rate=0.05, batch_size=32, optimizer="sgd", initialization="kaiming")
    train(LENET, recipe=recipe, directory=tmp_path, report=silent)
    losses = [float(row["train_loss"]) for row in figures(tmp_path)]
    assert losses[1] < losses[0] < np.log(10)


def test_pixels_are_normalised() -> None:
    """Pixels become (x / 255 - mean) / std in FP32 [batch, channels, height, width]."""
    preprocessing = Preprocessing(height=1, width=2, channels=1, mean=(0.5,), std=(0.25,))
    pixels = torch.tensor([[[[0], [255]]]], dtype=torch.uint8)
    normalised = fit.Pixels(preprocessing)(pixels)
    assert normalised.dtype == torch.float32
    assert normalised.tolist() == [[[[-2.0, 2.0]]]]


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar with the epoch and the accuracy is shown instead of a line for each epoch."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for name, value in {"TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    train(LENET, recipe=replace(SHORT, epochs=1), directory=tmp_path)
    shown = terminal.getvalue()
    assert "LeNet-5" in shown
    assert re.search(r"epoch 1/1, rate [0-9.e-]+, loss [0-9.]+/[0-9.]+, accuracy [0-9.]+ %", shown)
    assert "epoch 1/1: " not in shown


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["lenet5", "vgg16_bn", "resnet18", "mobilenet_v2"])
def test_recipe_reaches_97_percent(name: str, tmp_path: Path) -> None:
    """The recipes of the demo's four networks reach 97 % of the held-out digits."""
    assert train(catalog.get(name), directory=tmp_path, report=silent).accuracy >= 0.97

"""Training on a folder of pictures, from the files to the exported network."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from export.pipeline import export
from models import catalog, data
from models.spec import NetweightError, Preprocessing, Recipe
from models.train import train
from models.weights import parse
from netweight import main
from server import card, images

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from models.run import Run

LENET = catalog.get("lenet5")
WORDS = ("zero", "one", "two", "three")
RECIPE = Recipe(epochs=4, learning_rate=0.005, batch_size=16, augmentation="shift", shift_pixels=1)
VARIED = Recipe(epochs=2, learning_rate=0.005, batch_size=32, augmentation="standard")


def silent(_: str) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def numerals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits 0 to 3 as files: 384 JPEG to train on, some PNG for validation and held out."""
    root = tmp_path_factory.mktemp("data") / "numerals"
    digits = data.load("digits:0-3", 1, size=40, train_images=384)
    for part, place, kind in (
        (digits.training, "train", "jpg"),
        (digits.validation, "val", "png"),
        (digits.heldout, "test", "png"),
    ):
        number = count()
        for pixels, labels in part.batches(100):
            for picture, label in zip(pixels.numpy(), labels.tolist(), strict=True):
                folder = root / place / WORDS[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture[..., 0]).save(folder / f"{next(number):04}.{kind}", quality=95)
    return root


@pytest.fixture(scope="module")
def trained(numerals: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LeNet-5, trained on these files."""
    directory = tmp_path_factory.mktemp("run")
    return train(LENET, data=str(numerals), recipe=RECIPE, directory=directory, report=silent)


def best(directory: Path) -> dict[str, Any]:
    """Read best.pt."""
    checkpoint: dict[str, Any] = torch.load(directory / "best.pt", weights_only=True)
    return checkpoint


def test_lenet_learns_the_folder(trained: Run) -> None:
    """In four epochs LeNet-5 tells the four digits apart, and the checkpoint has the folders' names, rising."""
    checkpoint = best(trained.directory)
    assert checkpoint["class_names"] == sorted(WORDS)
    assert checkpoint["accuracy"] == {"data": "numerals/", "split": "held-out", "images": 144, "top1": trained.accuracy}
    assert trained.accuracy > 0.9
    assert checkpoint["preprocessing"]["mean"] != list(LENET.preprocessing.mean)
    record = json.loads((trained.directory / "run.json").read_text())
    assert record["images"] == {"training": 384, "validation": 58, "heldout": 144}


def test_exported_network_is_right_about_the_files(trained: Run, numerals: Path, tmp_path: Path) -> None:
    """Exported, the network is as accurate on the held-out files as training measured, fed as the server feeds it."""
    import onnxruntime

    publication = export(LENET, parse(str(trained.directory / "best.pt")), tmp_path, report=silent).fp32
    assert (publication.path.parent / "labels.txt").read_text().split() == sorted(WORDS)
    session = onnxruntime.InferenceSession(publication.path / "model.onnx")
    how = card.preprocessing(publication.path)
    assert isinstance(how, card.Preprocessing)
    right = [
        sorted(WORDS)[session.run(["logits"], {"image": pixels[np.newaxis]})[0].argmax()] == path.parent.name
        for path in sorted((numerals / "test").glob("*/*.png"))
        if (pixels := images.decode(path.read_bytes(), how, 10**6)) is not None
    ]
    assert np.mean(right) == pytest.approx(trained.accuracy, abs=1e-9)


def test_cut_run_with_variation_resumes_to_the_same_weights(
    numerals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random crops, a run that is cut off and read by another number of processes ends as the uncut one does."""

    def stop(line: str) -> None:
        if line.startswith("  epoch 1/"):
            raise KeyboardInterrupt

    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    train(LENET, data=str(numerals), recipe=VARIED, directory=uncut, train_images=128, report=silent)
    with pytest.raises(KeyboardInterrupt):
        train(LENET, data=str(numerals), recipe=VARIED, directory=cut, train_images=128, report=stop)
    assert not multiprocessing.active_children()
    assert (cut / "last.ckpt").exists()
    monkeypatch.setattr("models.pictures._WORTH_A_PROCESS", 128)
    train(LENET, data=str(numerals), recipe=VARIED, directory=cut, train_images=128, report=silent)
    ours, theirs = best(cut)["state_dict"], best(uncut)["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_command_line_to_the_end(numerals: Path, tmp_path: Path) -> None:
    """`netweight train` takes the folder, its size, how many pictures, and leaves out one that cannot be read."""
    broken = numerals.parent / "broken"
    for path in sorted(numerals.rglob("*[05].*g")):
        place = broken / path.relative_to(numerals)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    first = min((broken / "train" / "one").iterdir())
    first.write_bytes(first.read_bytes()[:400])
    asked = ["train", "lenet5", "--data", str(broken), "--epochs", "1", "--train-images", "40", "--output"]
    refused = CliRunner().invoke(main, [*asked, str(tmp_path / "run")])
    assert refused.exit_code != 0
    assert "or leave them out with --unreadable skip" in refused.output
    done = CliRunner().invoke(main, [*asked, str(tmp_path / "other"), "--unreadable", "skip"])
    assert done.exit_code == 0, done.output
    assert f"left out 1 of {len(list(broken.rglob('*.*g')))} pictures" in done.output
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    assert (record["images"]["training"], record["train_images"], record["unreadable"]) == (40, 40, "skip")


def test_transfer_keeps_the_normalisation(trained: Run, tmp_path: Path) -> None:
    """Weights that are transferred see images normalised as those that they were trained on."""
    recipe = Recipe(epochs=1, learning_rate=0.001, batch_size=64)
    weights = trained.directory / "best.pt"
    train(LENET, data="digits:5-9", recipe=recipe, directory=tmp_path, transfer=weights, report=silent)
    taken, theirs = (Preprocessing.from_dict(best(place)["preprocessing"]) for place in (tmp_path, trained.directory))
    assert (taken.mean, taken.std) == (theirs.mean, theirs.std)
    assert best(tmp_path)["class_names"] == ["5", "6", "7", "8", "9"]


def test_accuracy_says_what_it_is_of(numerals: Path, tmp_path: Path) -> None:
    """Where nothing is held out, the checkpoint and every line say that the accuracy is of the validation images."""
    place = tmp_path / "numerals"
    for part in ("train", "val"):
        shutil.copytree(numerals / part, place / part)
    lines: list[str] = []
    recipe = Recipe(epochs=1, learning_rate=0.005)
    for _ in range(2):
        run = train(LENET, data=str(place), recipe=recipe, directory=tmp_path / "run", report=lines.append)
        assert "% of the validation images (which also chose the epoch) right" in lines[-1]
    assert run.reused
    assert best(run.directory)["accuracy"]["split"] == "validation, which also chose the epoch"


def test_size_that_the_network_cannot_take(numerals: Path, tmp_path: Path) -> None:
    """A size that does not go through the network is one line, before anything is trained."""
    for size in (64, 8):
        recipe = Recipe(epochs=1, learning_rate=0.005)
        with pytest.raises(
            NetweightError,
            match=rf"^lenet5 cannot take images of {size}x{size} pixels \([^\n]*\): give another --size, .* 32$",
        ):
            train(LENET, data=str(numerals), size=size, recipe=recipe, directory=tmp_path / str(size), report=silent)

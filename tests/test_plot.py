"""models/plot.py: the picture of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import plot

ROWS = [
    {"epoch": epoch, "train_loss": 2 / epoch, "validation_loss": loss, "validation_accuracy": 0.5, "learning_rate": 0.1}
    for epoch, loss in enumerate((2.0, 1.5, 0.9, 1.1), start=1)
]


def test_picture_holds_the_figures() -> None:
    """Both losses, the accuracy and the rate are drawn over the epochs, the epoch of the lowest loss is marked."""
    figure = plot._figure(ROWS, "LeNet-5 on digits")
    losses, accuracy, rate = figure.axes
    assert losses.get_title() == "LeNet-5 on digits"
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in losses.lines}
    assert lines["training"] == [2.0, 1.0, 2 / 3, 0.5]
    assert lines["validation"] == [2.0, 1.5, 0.9, 1.1]
    assert "best: epoch 3, 0.900, 50.0% right" in lines
    assert np.asarray(accuracy.lines[0].get_ydata()).tolist() == [0.5] * 4
    assert np.asarray(rate.lines[0].get_xdata()).tolist() == [1, 2, 3, 4]
    assert losses.get_yscale() == "linear"


def test_wide_losses_are_drawn_by_their_logarithm() -> None:
    """One loss of thousands does not hide the small ones."""
    losses, *_ = plot._figure([{**ROWS[0], "validation_loss": 5000.0}, *ROWS[1:]], "wide").axes
    assert losses.get_yscale() == "log"


def test_picture_is_a_png(tmp_path: Path) -> None:
    """A run of one epoch gives a PNG of 880x770 pixels that is not blank; a run of none gives nothing."""
    plot.draw([], "none", tmp_path / "none.png")
    plot.draw(ROWS[:1], "one", tmp_path / "one.png")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    with Image.open(tmp_path / "one.png") as image:
        assert (image.format, image.size) == ("PNG", (880, 770))
        assert len(image.convert("RGB").getcolors(maxcolors=100_000) or []) > 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_full_disk_leaves_the_picture(tmp_path: Path) -> None:
    """Where there is no room for a new picture, the old one stays."""
    picture = tmp_path / "history.png"
    picture.write_bytes(b"old")
    (tmp_path / ".history.png.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        plot.draw(ROWS, "full", picture)
    assert picture.read_bytes() == b"old"

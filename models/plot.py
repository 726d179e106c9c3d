"""history.png: how a run went, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from models.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_WIDE = 200
"""The highest loss to the lowest, from which a logarithmic axis is needed to see the low ones."""
_TRAINING, _VALIDATION, _QUIET = "#2a6fbb", "#d1603d", "#5b6770"


def draw(rows: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """Draw both losses, the validation accuracy and the learning rate above the epochs; nothing where there are none.

    Args:
        rows: history.csv's, one for each epoch.
        title: Stands above the picture.
        path: A PNG file, written whole or not at all.
    """
    if not rows:
        return
    figure = _figure(rows, title)
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png")


def _figure(rows: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Return matplotlib's figure: three panels, one below the other, over the same epochs."""
    epochs = [row["epoch"] for row in rows]
    best = min(rows, key=lambda row: row["validation_loss"])
    figure = Figure(figsize=(8, 7), dpi=110, layout="constrained")
    losses, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(4, 3, 1.5))
    for panel, name, colour, label in (
        (losses, "train_loss", _TRAINING, "training"),
        (losses, "validation_loss", _VALIDATION, "validation"),
        (accuracy, "validation_accuracy", _VALIDATION, "validation"),
        (rate, "learning_rate", _QUIET, "learning rate"),
    ):
        panel.plot(epochs, [row[name] for row in rows], color=colour, label=label, marker="o", markersize=3)
    for panel in (losses, accuracy):
        panel.axvline(best["epoch"], color=_QUIET, linestyle=":", linewidth=1)
    losses.plot(best["epoch"], best["validation_loss"], "*", color=_VALIDATION, markersize=14, label=_best(best))
    accuracy.plot(best["epoch"], best["validation_accuracy"], "*", color=_VALIDATION, markersize=14)
    both = [row[name] for row in rows for name in ("train_loss", "validation_loss")]
    if max(both) > _WIDE * min(both) > 0:
        losses.set(title=title, ylabel="cross-entropy", yscale="log")
    else:
        losses.set(title=title, ylabel="cross-entropy", ylim=(0, None))
    losses.legend(edgecolor="none", framealpha=1)
    accuracy.set(ylabel="validation accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    for panel in (losses, accuracy, rate):
        panel.grid(visible=True, alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _best(row: Mapping[str, float]) -> str:
    """Say which epoch was the best."""
    return f"best: epoch {row['epoch']:.0f}, {row['validation_loss']:.3f}, {row['validation_accuracy']:.1%} right"

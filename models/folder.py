"""A folder of pictures as a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from models import layout, scan
from models.data import MOST_HELDOUT_IN_A_FILE, DataSet, drawn, subset
from models.pictures import Pictures
from models.spec import NetweightError, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from models.batches import Part
    from models.layout import Listing

HELD_BYTES = 256 * 2**20
"""A folder whose images, at the network's size, take no more than this is kept in memory."""
_MEASURED = 2000
"""Images that the mean and the standard deviation are measured on."""
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Asked:
    """What is to be made of a folder; `models.data.load` tells what each field means."""

    channels: int
    size: int | None
    train_images: int | None
    unreadable: Literal["refuse", "skip"]
    seed: int
    like: Preprocessing | None


def load(folder: Path, asked: Asked, cache: Path | None, report: Callable[[str], None]) -> DataSet:
    """Find a folder's pictures, see that all can be read, and measure those to train on.

    Raises:
        NetweightError: the folder cannot be trained on.
    """
    try:
        parts = layout.parts(folder)
    except OSError as failure:
        raise NetweightError(f"{failure.filename} cannot be read ({failure.strerror}): mend it there") from failure
    memory = scan.remember(cache, folder, [name for listing in parts.values() for name in listing.names])
    if memory.changed:
        report("  the pictures have changed since this run last saw them: checked again")
    parts = _readable(folder, parts, asked, memory, report)
    split = layout.ALL not in parts
    if not split:
        parts = layout.split(folder, parts[layout.ALL])
    chosen = subset(parts["train"].labels, asked.train_images, asked.seed)
    _say(folder, parts, len(chosen), split, report)
    parts["train"] = parts["train"].only(chosen)
    return _data_set(folder, parts, asked, memory)


def _data_set(folder: Path, parts: dict[str, Listing], asked: Asked, memory: scan.Memory) -> DataSet:
    """Make the parts, and measure the one that is trained on."""
    geometry = _geometry(asked)
    image_bytes = geometry.height * geometry.width * geometry.channels
    hold = image_bytes * sum(len(listing.names) for listing in parts.values()) <= HELD_BYTES
    pictures = {
        name: Pictures(_paths(folder, listing), listing.labels, geometry, hold=hold) for name, listing in parts.items()
    }
    key = f"statistics of {asked.train_images or 'all'} images, seed {asked.seed}, {geometry}"
    mean, std = memory.get(key, lambda: _measure(pictures["train"]))
    return DataSet(
        name=f"{folder.resolve().name}/",  # with a slash, as a folder called digits is not the digits
        class_names=parts["train"].class_names,
        training=pictures["train"],
        validation=pictures["val"],
        heldout=pictures.get("test", pictures["val"]),
        preprocessing=replace(geometry, mean=tuple(mean), std=tuple(std)),
        heldout_is_validation="test" not in pictures,
    )


def _readable(
    folder: Path, parts: dict[str, Listing], asked: Asked, memory: scan.Memory, report: Callable[[str], None]
) -> dict[str, Listing]:
    """Leave out the pictures that cannot be read, or refuse the folder for them, as asked."""
    names = [name for listing in parts.values() for name in listing.names]
    bad: dict[str, str] = memory.get("unreadable", lambda: scan.unreadable(folder, names, report))
    if not bad:
        return parts
    if asked.unreadable == "refuse":
        first, reason = next(iter(bad.items()))
        raise NetweightError(
            f"{len(bad):,} of {len(names):,} pictures cannot be read, first {layout.printable(folder / first)} ({reason}): "
            "mend or remove them, or leave them out with --unreadable skip"
        )
    listed = layout.few([f"{layout.printable(name)} ({reason})" for name, reason in bad.items()])
    report(f"  left out {len(bad):,} of {len(names):,} pictures, which cannot be read: {listed}")
    kept = {
        part: listing.only(np.array([index for index, name in enumerate(listing.names) if name not in bad], np.int64))
        for part, listing in parts.items()
    }
    for part, listing in kept.items():
        for label, class_name in enumerate(listing.class_names):
            if label not in listing.labels:
                raise NetweightError(layout.empty(folder / ("" if part == layout.ALL else part) / class_name))
    return kept


def _say(folder: Path, parts: dict[str, Listing], trained_on: int, split: bool, report: Callable[[str], None]) -> None:
    """Report what the folder holds, and what follows from that."""
    train, val = parts["train"], parts["val"]
    heldout = f"{len(parts['test'].names):,} are held out" if "test" in parts else "none is held out (there is no test)"
    share = f"{trained_on:,} of " if trained_on < len(train.names) else ""
    report(
        f"{folder}: {len(train.class_names):,} classes, {share}{len(train.names):,} pictures to train on, "
        f"{len(val.names):,} choose the best epoch, {heldout}"
    )
    if not split:
        report("  there is no train and val: of each class a tenth was drawn for validation, and a tenth held out")
    ignored = sum(listing.ignored for listing in parts.values()) if split else train.ignored
    if ignored:
        report(
            f"  ignored {ignored:,} files that are no pictures"
            if ignored > 1
            else "  ignored 1 file that is no picture"
        )
    if len(parts.get("test", val).names) > MOST_HELDOUT_IN_A_FILE:
        report(f"  heldout.npz is given {MOST_HELDOUT_IN_A_FILE:,} of them, drawn with seed {_SAMPLE_SEED}")


def _geometry(asked: Asked) -> Preprocessing:
    """Return how pictures are resized and cropped: as the network says, in proportion where another size is asked."""
    like = asked.like or Preprocessing(224, 224, asked.channels, (), (), resize=256)
    size = asked.size or like.height
    resize = None if like.resize is None else max(size, round(like.resize * size / like.height))
    return Preprocessing(size, size, asked.channels, (), (), resize, like.interpolation)


def _paths(folder: Path, listing: Listing) -> NDArray[np.bytes_]:
    """Return where the pictures are."""
    return np.array([os.fsencode(folder / name) for name in listing.names])


def _measure(training: Part) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, of a sample of the images to train on."""
    sample = training.only(drawn(training.labels, min(len(training), _MEASURED), _SAMPLE_SEED))
    sums, squares, count = np.zeros(1), np.zeros(1), 0
    for batch, _ in sample.batches(100):
        values = batch.numpy().reshape(-1, batch.shape[3]) / 255
        sums, squares, count = sums + values.sum(axis=0), squares + (values**2).sum(axis=0), count + len(values)
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0)).clip(1 / 255)
    return [round(float(value), 4) for value in mean], [round(float(value), 4) for value in deviation]

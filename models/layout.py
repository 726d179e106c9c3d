"""Which files of a folder are which part's and which class's: FOLDER/train/CLASS/*.jpg, FOLDER/val/CLASS/*.jpg."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import models.torchvision_on_cpu  # noqa: F401
from models.spec import NetweightError

# isort: split
from torchvision.datasets.folder import IMG_EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ALL = "all"
"""The one part of a folder that is not split."""
_SPLIT_SEED = 0
_SPLIT_SHARE = 0.1
"""Of each class for validation, and as much held out, where the folder is not split."""
_NAMED = 3
"""How many of a list an error or a line names."""


@dataclass(frozen=True)
class Listing:
    """The pictures of one part."""

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    """Of the files, below the folder."""
    labels: NDArray[np.int64]
    ignored: int
    """Files that are no pictures."""

    def only(self, chosen: NDArray[np.int64]) -> Listing:
        """Return these pictures alone."""
        return replace(self, names=tuple(self.names[index] for index in chosen), labels=self.labels[chosen])


def parts(folder: Path) -> dict[str, Listing]:
    """List train, val and, if it is there, test; or `ALL`, where the class folders stand directly in the folder.

    Raises:
        NetweightError: parts are missing or differ, or a class has no picture.
    """
    there = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    if not there:
        return {ALL: _listing(folder, "")}
    missing = [name for name in ("train", "val") if name not in there]
    if missing:
        raise NetweightError(
            f"{folder} has {' and '.join(there)} but no {' and no '.join(missing)}: "
            "expected train/CLASS and val/CLASS (test/CLASS may be there), or CLASS alone"
        )
    found = {name: _listing(folder, name) for name in there}
    for name, listing in found.items():
        _check_same_classes(folder, found["train"], name, listing)
    return found


def _listing(folder: Path, part: str) -> Listing:
    """List the pictures of each class folder, at any depth; hidden files and folders are passed over."""
    place = folder / part
    class_names = tuple(sorted(entry.name for entry in place.iterdir() if _shown(entry.name) and entry.is_dir()))
    if len(class_names) < 2:
        found = f"one class only ({class_names[0]})" if class_names else "no class folders"
        raise NetweightError(f"{place} has {found}: expected two or more folders, each with pictures of one class")
    for class_name in class_names:
        if not class_name.isprintable():
            raise NetweightError(f"{place} has a class folder {class_name!r}: expected a name that can be printed")
    names: list[str] = []
    labels: list[int] = []
    ignored = 0
    for label, class_name in enumerate(class_names):
        files = sorted(_files(place / class_name))
        pictures = [file for file in files if file.suffix.lower() in IMG_EXTENSIONS]
        ignored += len(files) - len(pictures)
        if not pictures:
            raise NetweightError(empty(place / class_name))
        names += [str(picture.relative_to(folder)) for picture in pictures]
        labels += [label] * len(pictures)
    return Listing(class_names, tuple(names), np.array(labels, np.int64), ignored)


def _files(place: Path) -> Iterator[Path]:
    """Yield all files at or below a folder, through symbolic links, each folder once."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(place, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [name for name in folders if _shown(name)] if real not in seen else []
        if real not in seen:
            yield from (Path(parent, name) for name in files if _shown(name))
        seen.add(real)


def _shown(name: str) -> bool:
    """Return whether a file or folder is not hidden."""
    return not name.startswith(".")


def empty(place: Path) -> str:
    """Say that a class has no picture."""
    kinds = ", ".join(extension.removeprefix(".") for extension in IMG_EXTENSIONS)
    return f"{place} holds no picture that can be read ({kinds}): add some, or remove the folder"


def _check_same_classes(folder: Path, train: Listing, name: str, listing: Listing) -> None:
    """Make sure that a part has the classes of the training part."""
    ours, theirs = set(train.class_names), set(listing.class_names)
    if ours != theirs:
        differing = [
            f"only in {part}: {few(sorted(only))}"
            for part, only in (("train", ours - theirs), (name, theirs - ours))
            if only
        ]
        raise NetweightError(
            f"{folder}: train and {name} have different classes, {'; '.join(differing)}: expected the same folders"
        )


def printable(name: Path | str) -> str:
    """Return a file's name with question marks for bytes that are no text."""
    return str(name).encode(errors="replace").decode()


def few(names: list[str]) -> str:
    """Name the first few, and say how many there are beside them."""
    beside = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{beside}"


def split(folder: Path, listing: Listing) -> dict[str, Listing]:
    """Split each class, always in the same way: a tenth for validation, a tenth held out, the rest to train on."""
    draw = np.random.default_rng(_SPLIT_SEED)
    chosen: dict[str, list[NDArray[np.int64]]] = {"train": [], "val": [], "test": []}
    for label, class_name in enumerate(listing.class_names):
        members = draw.permutation(np.flatnonzero(listing.labels == label))
        if len(members) < len(chosen):
            raise NetweightError(
                f"{folder / class_name} has {len(members)} pictures: expected {len(chosen)} or more, one to train on, "
                "one to choose the best epoch, one held out"
            )
        tenth = max(1, round(len(members) * _SPLIT_SHARE))
        chosen["test"].append(members[:tenth])
        chosen["val"].append(members[tenth : 2 * tenth])
        chosen["train"].append(members[2 * tenth :])
    return {part: listing.only(np.sort(np.concatenate(members))) for part, members in chosen.items()}

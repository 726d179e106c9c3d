"""models/folder.py and what it is made of: a folder of pictures as a data set."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import data, folder, scan
from models.augment import Augmentation
from models.pictures import Pictures
from models.spec import NetweightError, Preprocessing
from server import card, images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models.batches import Part

GREY = Preprocessing(32, 32, 1, (), ())
PHOTO = Preprocessing(40, 40, 3, (), (), resize=48)
Tree = dict[str, int]
"""Class folders below the folder -> how many pictures each is given."""


def write(root: Path, tree: Tree) -> Path:
    """Fill class folders with pictures, JPEG and PNG in turn, of random sizes and colours."""
    draw = np.random.default_rng(0)
    for place, count in tree.items():
        (root / place).mkdir(parents=True)
        for index in range(count):
            height, width = draw.integers(30, 90, 2)
            coarse = draw.integers(0, 256, (6, 6, 3), np.uint8)
            picture = Image.fromarray(coarse).resize((int(width), int(height)))
            picture.save(root / place / f"{index}.{'png' if index % 2 else 'jpg'}")
    return root


PLAIN: Tree = {f"{part}/{name}": 3 for part in ("train", "val", "test") for name in ("cat", "dog")}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and three dogs in each of three parts."""
    return write(tmp_path / "pets", PLAIN)


def silent(_: str) -> None:
    """Report nothing."""


def load(place: Path, **changes: Any) -> data.DataSet:
    """Load a folder for a network that takes colours."""
    return data.load(str(place), 3, **{"like": PHOTO, "report": silent, **changes})


def pixels(part: Part) -> NDArray[np.uint8]:
    """Return all images, UINT8 [N, height, width, channels]."""
    return np.concatenate([batch.numpy() for batch, _ in part.batches(50)])


def epoch(part: Part, seed: int, augmentation: Augmentation | None, batch_size: int = 4) -> bytes:
    """Return an epoch as bytes."""
    batches = list(part.batches(batch_size, order_seed=seed, augmentation=augmentation))
    return b"".join(image.numpy().tobytes() + labels.numpy().tobytes() for image, labels in batches)


def test_folder_in_three_parts(pets: Path) -> None:
    """train, val and test become the three parts, the folders' names the classes, images at the network's size."""
    lines: list[str] = []
    loaded = load(pets, report=lines.append)
    assert lines == [
        f"{pets}: 2 classes, 6 pictures to train on, 6 choose the best epoch, 6 are held out",
    ]
    assert (loaded.name, loaded.class_names, loaded.heldout_is_validation) == ("pets/", ("cat", "dog"), False)
    for part in (loaded.training, loaded.validation, loaded.heldout):
        assert part.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert pixels(part).shape == (6, 40, 40, 3)
    assert not {image.tobytes() for image in pixels(loaded.heldout)} & {
        image.tobytes() for image in pixels(loaded.training)
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", [None, 48, 40])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_pixels_are_the_servers(pets: Path, channels: int, resize: int | None, interpolation: Any) -> None:
    """A network is trained on the very pixels that the server makes of the same files, bit by bit."""
    like = Preprocessing(40, 40, channels, (), (), resize, interpolation)
    ours = pixels(data.load(str(pets), channels, like=like, report=silent).heldout)
    files = [path.read_bytes() for path in sorted((pets / "test").rglob("*.*g"))]
    how = card.Preprocessing(40, 40, channels, resize, interpolation)
    assert np.array_equal(ours, np.stack([images.decode(file, how, 10**6) for file in files]))


def test_statistics_are_of_the_training_part(pets: Path) -> None:
    """Mean and deviation are measured: normalised by them, the training images have mean 0 and deviation 1."""
    loaded = load(pets)
    normalised = (pixels(loaded.training) / 255 - loaded.preprocessing.mean) / loaded.preprocessing.std
    assert np.abs(normalised.mean(axis=(0, 1, 2))).max() < 1e-3
    assert np.abs(normalised.std(axis=(0, 1, 2)) - 1).max() < 1e-3


@pytest.mark.parametrize(
    ("size", "like", "expected"),
    [
        (None, PHOTO, (40, 48)),
        (80, PHOTO, (80, 96)),
        (64, GREY, (64, None)),
        (None, None, (224, 256)),
    ],
)
def test_size_and_resize(pets: Path, size: int | None, like: Preprocessing | None, expected: tuple[int, int]) -> None:
    """Images have the network's own size, or the one asked for with the resizing in proportion."""
    preprocessing = load(pets, size=size, like=like).preprocessing
    assert (preprocessing.height, preprocessing.resize) == expected
    assert preprocessing.width == preprocessing.height


def test_without_a_held_out_part(pets: Path) -> None:
    """Without test, the validation part is what accuracy is measured on, and that is said."""
    shutil.rmtree(pets / "test")
    lines: list[str] = []
    loaded = load(pets, report=lines.append)
    assert loaded.heldout_is_validation
    assert loaded.heldout is loaded.validation
    assert lines[0].endswith("6 choose the best epoch, none is held out (there is no test)")


def test_class_folders_alone_are_split(tmp_path: Path) -> None:
    """Without train and val, of each class a tenth is held out and a tenth validates, always the same ones."""
    place = write(tmp_path / "flat", {"a": 20, "b": 30, "c": 3})
    lines: list[str] = []
    loaded, again = load(place, report=lines.append), load(place, seed=1)
    parts = (loaded.training, loaded.validation, loaded.heldout)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[16, 24, 1], [2, 3, 1], [2, 3, 1]]
    assert len({image.tobytes() for part in parts for image in pixels(part)}) == 53
    assert np.array_equal(pixels(loaded.heldout), pixels(again.heldout))
    assert not loaded.heldout_is_validation
    assert (
        lines[1] == "  there is no train and val: of each class a tenth was drawn for validation, and a tenth held out"
    )


def test_other_files_are_passed_over(pets: Path) -> None:
    """Hidden files and folders are not seen, files that are no pictures are counted, nested ones and links are read."""
    cat = pets / "train" / "cat"
    (cat / ".hidden.png").write_text("no picture")
    (pets / "train" / ".cache").mkdir()
    (cat / "notes.txt").write_text("no picture")
    (cat / "more").mkdir()
    (cat / "more" / "linked.JPG").symlink_to(cat / "0.jpg")
    (cat / "more" / "up").symlink_to(cat)
    lines: list[str] = []
    loaded = load(pets, report=lines.append)
    assert loaded.training.labels.tolist() == [0] * 4 + [1] * 3
    assert "  ignored 1 file that is no picture" in lines


def test_fewer_pictures_to_train_on(pets: Path) -> None:
    """`train_images` leaves that many, of each class alike, and the other parts whole."""
    lines: list[str] = []
    loaded = load(pets, train_images=4, report=lines.append)
    assert "2 classes, 4 of 6 pictures to train on, 6 choose" in lines[0]
    assert np.bincount(loaded.training.labels).tolist() == [2, 2]
    assert (len(loaded.validation), len(loaded.heldout)) == (6, 6)


def test_read_from_files_or_from_memory(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is too large to be held gives the same batches as one that is held."""
    held = load(pets)
    monkeypatch.setattr(folder, "HELD_BYTES", 0)
    read = load(pets)
    for augmentation in (None, Augmentation("shift", 2), Augmentation("standard")):
        assert epoch(held.training, 5, augmentation) == epoch(read.training, 5, augmentation)
    assert np.array_equal(pixels(held.heldout), pixels(read.heldout))


def test_variation_does_not_depend_on_the_processes(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch is the same to the last bit, however many processes read: each picture by its index and the seed."""
    part = load(pets).training
    alone = [epoch(part, seed, Augmentation("standard")) for seed in (1, 1, 2)]
    monkeypatch.setattr("models.pictures._WORTH_A_PROCESS", 3)
    assert alone == [epoch(part, seed, Augmentation("standard")) for seed in (1, 1, 2)]
    assert alone[0] == alone[1] != alone[2]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(part, 1, Augmentation("standard"))
    assert torch.equal(torch.get_rng_state(), before)


def test_picture_that_goes_missing(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is gone in the middle of training is one line that names it, whichever process read it."""
    part = load(pets).training
    (pets / "train" / "dog" / "1.png").unlink()
    for worth_a_process in (32, 3):
        monkeypatch.setattr("models.pictures._WORTH_A_PROCESS", worth_a_process)
        with pytest.raises(
            NetweightError, match=r"^'\S*/train/dog/1\.png' cannot be read any more \(no such file\): put"
        ):
            epoch(part, 1, Augmentation("standard"), batch_size=6)


def test_heldout_file(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """heldout.npz holds the held-out images at the network's size, of very many a stratified sample, which is said."""
    loaded = load(pets)
    data.write_heldout(loaded, tmp_path / "heldout.npz")
    with np.load(tmp_path / "heldout.npz") as file:
        assert np.array_equal(file["images"], pixels(loaded.heldout))
        assert np.array_equal(file["labels"], loaded.heldout.labels)
    for module in (data, folder):
        monkeypatch.setattr(module, "MOST_HELDOUT_IN_A_FILE", 4)
    lines: list[str] = []
    data.write_heldout(load(pets, report=lines.append), tmp_path / "heldout.npz")
    with np.load(tmp_path / "heldout.npz") as file:
        assert file["images"].shape == (4, 40, 40, 3)
        assert file["labels"].tolist() == [0, 0, 1, 1]
    assert "  heldout.npz is given 4 of them, drawn with seed 0" in lines


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_unreadable_pictures_are_refused(pets: Path) -> None:
    """Pictures that are cut short, no pictures, or links to nothing: the first is named and they are counted."""
    cut(pets / "train" / "cat" / "0.jpg")
    cut(pets / "val" / "dog" / "1.png")
    (pets / "test" / "dog" / "empty.png").touch()
    (pets / "test" / "dog" / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(
        NetweightError,
        match=r"^4 of 20 pictures cannot be read, first \S*/train/cat/0\.jpg \(image file is truncated.*\): "
        r"mend or remove them, or leave them out with --unreadable skip$",
    ):
        load(pets)


def test_unreadable_pictures_are_left_out(pets: Path) -> None:
    """Where that is asked for, they are left out and named, with the count, and the rest is trained on."""
    cut(pets / "train" / "cat" / "0.jpg")
    for index in range(4):
        (pets / "train" / "dog" / f"bad{index}.png").write_text("no picture")
    lines: list[str] = []
    loaded = load(pets, unreadable="skip", report=lines.append)
    assert loaded.training.labels.tolist() == [0, 0, 1, 1, 1]
    assert lines[0].startswith(
        "  left out 5 of 22 pictures, which cannot be read: train/cat/0.jpg (image file is trunc"
    )
    assert lines[0].endswith("train/dog/bad0.png (no picture), train/dog/bad1.png (no picture) and 2 more")


def test_class_of_unreadable_pictures(pets: Path) -> None:
    """A class that has no picture left once the unreadable ones are left out is named."""
    for path in (pets / "val" / "dog").iterdir():
        cut(path)
    with pytest.raises(NetweightError, match=r"^\S*/val/dog holds no picture that can be read"):
        load(pets, unreadable="skip")


def test_pictures_are_checked_once(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out is kept: a resumed run decodes and measures nothing; a picture that changed is looked at."""
    cut(pets / "train" / "cat" / "0.jpg")
    cache = tmp_path / "run" / "pictures.json"
    first = load(pets, unreadable="skip", cache=cache)
    assert json.loads(cache.read_text())["schema"] == scan.SCHEMA

    def never(*_: Any) -> Any:
        pytest.fail("looked again")

    with monkeypatch.context() as patch:
        patch.setattr(scan, "unreadable", never)
        patch.setattr(folder, "_measure", never)
        again = load(pets, unreadable="skip", cache=cache)
    assert again.preprocessing == first.preprocessing
    assert len(again.training) == len(first.training) == 5
    (pets / "train" / "cat" / "0.jpg").write_bytes((pets / "train" / "cat" / "2.jpg").read_bytes())
    lines: list[str] = []
    assert len(load(pets, cache=cache, report=lines.append).training) == 6
    assert lines[0] == "  the pictures have changed since this run last saw them: checked again"
    for broken in ("{", "[]", '{"schema": "other/1", "facts": {"unreadable": {"train/cat/2.jpg": "other"}}}'):
        cache.write_text(broken)
        assert len(load(pets, cache=cache, report=lines.append).training) == 6
    assert len(lines) == 5


def test_long_checks_are_reported(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that takes long says how far it is and how long it will take."""
    monkeypatch.setattr(scan, "_SECONDS_BETWEEN_REPORTS", 0.0)
    lines: list[str] = []
    load(pets, report=lines.append)
    assert lines[5].startswith("  checked 6 of 18 pictures, about ")


def test_modes_of_pictures(tmp_path: Path) -> None:
    """Palettes, alpha, 16 bits and CMYK are read as the server reads them, without a warning."""
    place = write(tmp_path / "modes", {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
    grey = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (50, 1))
    colours = Image.fromarray(np.stack([grey, grey.T, 255 - grey], axis=2))
    palette = colours.quantize(16)
    palette.info["transparency"] = bytes(range(16))
    pictures = {
        "palette.png": palette,
        "alpha.png": colours.convert("RGBA"),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "print.jpg": colours.convert("CMYK"),
        "grey.png": Image.fromarray(grey),
    }
    for name, picture in pictures.items():
        picture.save(place / "train" / "a" / name)
    names = ["0.jpg", *sorted(pictures)]
    for channels in (1, 3):
        ours = pixels(data.load(str(place), channels, like=PHOTO, report=silent).training)
        how = card.Preprocessing(40, 40, channels, 48, "bilinear")
        for image, name in zip(ours[:-1], names, strict=True):
            theirs = images.decode((place / "train" / "a" / name).read_bytes(), how, 10**6)
            assert np.array_equal(image, theirs), name


def remove(*names: str) -> Callable[[Path], None]:
    """Return what removes folders."""

    def change(place: Path) -> None:
        for name in names:
            shutil.rmtree(place / name)

    return change


def empty(name: str) -> Callable[[Path], None]:
    """Return what empties a folder."""

    def change(place: Path) -> None:
        shutil.rmtree(place / name)
        (place / name).mkdir()

    return change


def rename(name: str, other: str) -> Callable[[Path], None]:
    """Return what renames a folder."""

    def change(place: Path) -> None:
        (place / name).rename(place / other)

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty("val/dog"), r"/val/dog holds no picture that can be read \(jpg, .*\): add some, or remove the folder"),
        (remove("train/dog"), r"/train has one class only \(cat\): expected two or more folders, each with pictures"),
        (
            remove("val"),
            r" has train and test but no val: expected train/CLASS and val/CLASS \(test/CLASS may be there\)",
        ),
        (
            rename("val/dog", "val/fox"),
            r": train and val have different classes, only in train: dog; only in val: fox: expected the same folders",
        ),
        (
            rename("test/dog", "test/fox"),
            r": train and test have different classes, only in train: dog; only in test: fox: expected the same folders",
        ),
        (
            remove("train", "val", "test"),
            r" has no class folders: expected two",
        ),
    ],
)
def test_folder_that_cannot_be_trained_on(pets: Path, spoil: Callable[[Path], None], words: str) -> None:
    """An empty class, one class only, missing or different parts: one line that names the folder and the class."""
    spoil(pets)
    with pytest.raises(NetweightError, match=rf"^\S*/pets{words}[^\n]*$"):
        load(pets)


def test_too_small_to_split(tmp_path: Path) -> None:
    """A class of two pictures cannot be split in three, and is named."""
    place = write(tmp_path / "flat", {"a": 5, "b": 2})
    with pytest.raises(NetweightError, match=r"^\S*/flat/b has 2 pictures: expected 3 or more, one to train on"):
        load(place)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Names of files need be no text: they are the file system's bytes."""
    place = write(tmp_path / "odd", {f"{part}/{name}": 1 for part in ("train", "val") for name in ("a", "b b")})
    os.rename(os.fsencode(place / "train/a/0.jpg"), os.fsencode(place / "train/a") + b"/\xff.jpg")  # noqa: PTH104
    loaded = load(place, cache=tmp_path / "pictures.json")
    assert isinstance(loaded.training, Pictures)
    assert pixels(loaded.training).shape == (2, 40, 40, 3)
    (place / "train" / "b b" / os.fsdecode(b"\xfe.jpg")).write_text("no picture")
    with pytest.raises(
        NetweightError, match=r"^1 of 5 pictures cannot be read, first .*/train/b b/\?\.jpg \(no picture\)"
    ):
        load(place)
    os.rename(os.fsencode(place / "val/a"), os.fsencode(place / "val") + b"/\xff")  # noqa: PTH104
    with pytest.raises(
        NetweightError, match=r"/val has a class folder '\\udcff': expected a name that can be printed$"
    ):
        load(place)

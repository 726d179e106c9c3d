"""Names and files: none of them leads out of its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from server import paths
from server.errors import InvalidArgumentError, ModelLoadError


@pytest.mark.parametrize("name", ["lenet5", "a", "VGG-16 (Conv1)", "größe", "a..b", "x" * 255])
def test_a_directorys_name_is_a_models_name(name: str) -> None:
    """Any plain name of a directory passes."""
    paths.check_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../up", "a/b", "/etc", "a\\b", "a\0b", "a\nb", "\u202eb", "x" * 256, "ö" * 128],
)
def test_a_models_name_is_one_step(name: str) -> None:
    """Whatever climbs, descends, hides, cannot be printed or is too long is refused, in one short line."""
    with pytest.raises(InvalidArgumentError, match=r"expected the name of a directory$") as refused:
        paths.check_model_name(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a//b", "", "a/", ".x", "a/./b", "a\\..\\b", "a\0"]
)
def test_a_files_name_goes_down_only(name: str) -> None:
    """A file that a model names is relative, and no step of its path climbs."""
    with pytest.raises(ModelLoadError, match="expected a path below the model's directory"):
        paths.check_file_name(name, "label_filename")


def test_links_are_followed_as_far_as_the_directory(tmp_path: Path) -> None:
    """Links inside the directory are fine, as Kubernetes makes them; one that leads out is refused."""
    home = tmp_path / "home"
    (home / "..2026").mkdir(parents=True)
    (home / "..2026" / "weights").write_bytes(b"1")
    (home / "..data").symlink_to("..2026")
    (home / "weights").symlink_to("..data/weights")
    (tmp_path / "secret").write_bytes(b"2")
    (home / "out").symlink_to("../secret")
    (home / "up").symlink_to("..")
    assert paths.inside(home, "weights", "weights").read_bytes() == b"1"
    for name in ("out", "up/secret"):
        with pytest.raises(ModelLoadError, match=r"is a link that leads out of home"):
            paths.inside(home, name, "weights")
    (tmp_path / "alias").symlink_to("home")
    assert paths.inside(tmp_path / "alias", "weights", "weights").read_bytes() == b"1"


def test_stamps_tell_a_replaced_file(tmp_path: Path) -> None:
    """A file that is written anew, replaced, made or removed has another stamp; one that is left alone has not."""
    file = tmp_path / "file"
    stamps = [paths.stamps(str(file))]
    file.write_text("one")
    stamps.append(paths.stamps(str(file)))
    (tmp_path / "other").write_text("two")
    (tmp_path / "other").replace(file)
    stamps.append(paths.stamps(str(file)))
    assert len(set(stamps)) == 3
    assert paths.stamps(str(file)) == stamps[-1]

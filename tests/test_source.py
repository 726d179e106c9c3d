"""What lies in a model's directory, and when it counts as changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.errors import ModelLoadError
from server.pb import model_config_pb2 as pb
from server.source import Source, models
from tests import graphs


@pytest.fixture
def scale(tmp_path: Path) -> Source:
    """A model with versions 1 and 2, a configuration and labels."""
    for version in (1, 2):
        graphs.scale(tmp_path, version=version)
    (tmp_path / "scale" / "config.pbtxt").write_text("max_batch_size: 4")
    (tmp_path / "scale" / "labels.txt").write_text("a\n")
    return Source(tmp_path / "scale")


def marks(source: Source) -> list[object]:
    return [source.mark(version, source.configuration()) for version in ("1", "2")]


def write(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(text)

    return change


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def publish(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    facts = path.stat()
    os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize(
    ("name", "change", "changed"),
    [
        ("config.pbtxt", write("max_batch_size: 8"), [True, True]),
        ("config.pbtxt", write("max_batch_size: 4 version_policy { all { } }"), [False, False]),
        ("config.pbtxt", write("# words\nmax_batch_size: 4"), [False, False]),
        ("config.pbtxt", touch, [False, False]),
        ("labels.txt", write("b\n"), [True, True]),
        ("1/model.onnx", write("other"), [True, False]),
        ("2/model.onnx", touch, [False, True]),
        ("2/model.onnx", publish, [False, True]),
        ("2/model.onnx", Path.unlink, [False, True]),
        ("1/model.onnx.data", write("weights"), [True, False]),
        ("warmup/zeros", write("0"), [True, True]),
        ("3/model.onnx", write("new"), [False, False]),
        (".tensorrt/1/engine", write("cache"), [False, False]),
        ("1/.model.onnx.part", write("half"), [False, False]),
    ],
)
def test_what_counts_as_changed(scale: Source, name: str, change: Callable[[Path], None], changed: list[bool]) -> None:
    """A version's own files, the configuration but for its policy, and what versions share; hidden files do not."""
    before = marks(scale)
    path = scale.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    change(path)
    assert [old != new for old, new in zip(before, marks(scale), strict=True)] == changed


def test_a_look_sees_every_version(scale: Source) -> None:
    """A version that has come, gone or changed, and an empty directory, are seen; what is hidden is not."""
    looks = [scale.look()]
    (scale.directory / "3").mkdir()
    looks.append(scale.look())
    graphs.scale(scale.directory.parent, version=3)
    looks.append(scale.look())
    (scale.directory / "1" / "model.onnx").unlink()
    looks.append(scale.look())
    assert len(set(looks)) == 4
    (scale.directory / ".partial").mkdir()
    assert scale.look() == looks[-1]


def test_links_are_followed_to_what_they_are_now(tmp_path: Path) -> None:
    """A version whose directory is a link changes when the link leads elsewhere."""
    for factor in (1, 2):
        graphs.scale(tmp_path / "store", str(factor), factor=factor)
    link = tmp_path / "scale" / "1"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "store" / "1" / "1")
    source = Source(link.parent)
    assert source.versions() == [1]
    before = source.look(), source.mark("1", pb.ModelConfig())
    link.unlink()
    link.symlink_to(tmp_path / "store" / "2" / "1")
    assert source.look() != before[0]
    assert source.mark("1", pb.ModelConfig()) != before[1]


def test_versions_and_models(tmp_path: Path) -> None:
    """Versions are directories named by positive integers; a model that has gone has none."""
    for name in ("10", "9", "01", "0", "-1", "x", ".1"):
        (tmp_path / "scale" / name).mkdir(parents=True)
    (tmp_path / "scale" / "3").write_text("a file")
    (tmp_path / ".hidden").mkdir()
    assert Source(tmp_path / "scale").versions() == [9, 10]
    assert models(tmp_path) == ["scale"]
    gone = Source(tmp_path / "gone")
    assert (gone.versions(), gone.look()) == ([], frozenset())
    with pytest.raises(ModelLoadError, match="there is no version directory"):
        gone.chosen()


def test_a_given_configuration_takes_the_files_place(scale: Source) -> None:
    """With a configuration of its own, what lies in config.pbtxt has no say."""
    given = Source(scale.directory, pb.ModelConfig(max_batch_size=2))
    before = marks(given)
    (scale.directory / "config.pbtxt").write_text("no configuration")
    assert given.configuration().max_batch_size == 2
    assert marks(given) == before

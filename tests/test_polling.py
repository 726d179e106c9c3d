"""When a look at the repository leads to something."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from server.config import Settings
from server.polling import Polling
from server.source import Files, Source
from tests import graphs


class Control:
    """Notes whom it was told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def follow(self, name: str) -> None:
        self.told.append(name)

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def control() -> Control:
    """Who is told."""
    return Control()


def polling(repository: Path, control: Control, *models: str) -> Polling:
    settings = Settings(repository=repository, models=models, model_control="poll")
    return Polling(settings, control, threading.Event())  # type: ignore[arg-type]


def test_only_what_settles_is_acted_on(tmp_path: Path, control: Control) -> None:
    """A change is acted on once, at the first look that finds it as the look before."""
    path = graphs.scale(tmp_path)
    graphs.scale(tmp_path, "other")
    looks = polling(tmp_path, control)
    assert looks.step()
    assert control.take() == []
    for content in (b"h", b"ha", b"half"):  # somebody writes
        path.write_bytes(content)
        assert not looks.step()
    assert control.take() == []
    assert looks.step()
    assert control.take() == ["scale"]
    assert looks.step()
    assert control.take() == []


def test_models_come_and_go(tmp_path: Path, control: Control) -> None:
    """A model that is new, or gone in two looks, is told of; one that was away for a moment is not."""
    graphs.scale(tmp_path, "a")
    looks = polling(tmp_path, control)
    graphs.scale(tmp_path, "b")
    assert [looks.step(), looks.step(), control.take()] == [False, True, ["b"]]
    (tmp_path / "a").rename(tmp_path / ".a")
    assert not looks.step()
    (tmp_path / ".a").rename(tmp_path / "a")
    assert [looks.step(), looks.step(), control.take()] == [True, True, []]
    shutil.rmtree(tmp_path / "a")
    assert [looks.step(), looks.step(), control.take()] == [False, True, ["a"]]
    assert [looks.step(), control.take()] == [True, []]


def test_a_repository_that_has_gone_changes_nothing(tmp_path: Path, control: Control) -> None:
    """While the repository cannot be read nothing is told: it may come back."""
    repository = tmp_path / "repository"
    graphs.scale(repository)
    looks = polling(repository, control)
    repository.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            looks.step()
    (tmp_path / "away").rename(repository)
    assert looks.step()
    assert control.take() == []


def test_a_model_that_cannot_be_read_stays_as_it_is(
    tmp_path: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one model's directory cannot be read nothing is told of it; others are followed."""
    for name in ("a", "b"):
        graphs.scale(tmp_path, name)
    looks = polling(tmp_path, control)
    for name in ("a", "b"):
        graphs.scale(tmp_path, name, version=2)
    look = Source.look

    def refused(source: Source) -> Files:
        if source.name == "a":
            raise PermissionError(13, "Permission denied")
        return look(source)

    with monkeypatch.context() as patched:
        patched.setattr(Source, "look", refused)
        assert [looks.step(), looks.step(), control.take()] == [False, True, ["b"]]
    assert [looks.step(), looks.step(), control.take()] == [False, True, ["a"]]


def test_only_the_named_models_are_followed(tmp_path: Path, control: Control) -> None:
    """With --model the others may come and go unseen."""
    for name in ("a", "b"):
        graphs.scale(tmp_path, name)
    looks = polling(tmp_path, control, "a")
    for name in ("a", "b", "c"):
        graphs.scale(tmp_path, name, version=2)
    assert [looks.step(), looks.step(), control.take()] == [False, True, ["a"]]

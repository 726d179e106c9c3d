"""The files of a comparison: all of them whole, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compare import comparison as store
from compare import page, results
from compare.comparison import Comparison
from compare.results import write_all
from models.spec import NetweightError
from tests.costs import BARE, comparison


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a short page in place of the real one, which tests of its own draw."""
    monkeypatch.setattr(page, "as_html", lambda shown: f"<html>{len(shown.cards)}</html>", raising=False)


def test_five_files(tmp_path: Path, plain_page: None) -> None:
    """JSON, CSV, Markdown, page and picture lie there under the name; nothing else does."""
    folder = tmp_path / "new"
    paths = write_all(folder, comparison(), name="mine")
    assert [path.name for path in paths] == ["mine.json", "mine.csv", "mine.md", "mine.html", "mine.svg"]
    assert sorted(folder.iterdir()) == sorted(paths)
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in paths}
    assert store.read(paths[0]).cards[0].model == "vgg16"
    assert texts[".csv"].startswith("created,model,")
    assert "| vgg16 |" in texts[".md"]
    assert texts[".svg"].startswith("<svg")
    assert texts[".html"] == "<html>6</html>"


def test_none_where_one_fails(tmp_path: Path, plain_page: None) -> None:
    """A comparison that cannot be drawn leaves what stood there, all of it, and no half-made file."""
    before = {path: path.read_bytes() for path in write_all(tmp_path, comparison(BARE))}
    with pytest.raises(NetweightError, match="nothing was measured"):
        write_all(tmp_path, replace(comparison(), cards=()))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_none_where_the_disk_fails(tmp_path: Path, plain_page: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written keeps the others from taking their places."""
    (before,) = {path.read_bytes() for path in write_all(tmp_path, comparison(BARE)) if path.suffix == ".json"}

    def fail(_: Comparison) -> str:
        return "\ud800"  # no text that can be encoded

    monkeypatch.setattr(results, "as_csv", fail)
    with pytest.raises(UnicodeEncodeError):
        write_all(tmp_path, comparison())
    assert (tmp_path / "comparison.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_where_nothing_can_be_written(tmp_path: Path, plain_page: None) -> None:
    """A file where the directory should be is an error in one line that names it."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(NetweightError, match=r"cannot write the comparison into .*taken: .*; name another --output"):
        write_all(tmp_path / "taken", comparison())

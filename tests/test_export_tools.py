"""The oldest and the newest export tools: which are tried, and what counts as a failure; `make export-tools` tries them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tests import export_tools
from tests.export_tools import LIGHT, Outcome


def test_versions_are_read_without_their_local_part() -> None:
    """What uv prints becomes versions by name: markers, comments and +cpu are left out."""
    printed = "onnx-ir==1.1.0\ntorch==2.13.0+cpu\ncolorama==0.4.6 ; sys_platform == 'win32'\n    # via torch==9\n"
    assert export_tools.pins(printed) == {"onnx-ir": "1.1.0", "torch": "2.13.0", "colorama": "0.4.6"}


def test_only_what_differs_is_installed() -> None:
    """A tool that is there in the version asked for is not installed again."""
    versions = {each: version(each) for each in LIGHT}
    assert export_tools.differing(versions, LIGHT) == []
    assert export_tools.differing({**versions, "onnx": "1.0"}, LIGHT) == ["onnx==1.0"]


def test_a_torch_that_is_not_tried_is_said_aloud() -> None:
    """Another torch than the installed one is named as not tried; another onnx is tried."""
    assert "NOT 1.0 and 9.9" in export_tools.told("torch", "1.0", "9.9")
    assert export_tools.told("onnx", "1.0", "9.9") == "onnx: 1.0 and 9.9"
    assert export_tools.told("onnx", "1.0", "1.0") == "onnx: 1.0, the only one within the bounds"


def test_a_tool_that_breaks_the_export_fails(tmp_path: Path) -> None:
    """Tools in the directory are searched first; where they break the export, the row says how and the set fails."""
    (tmp_path / "onnxscript").mkdir()
    (tmp_path / "onnxscript" / "__init__.py").write_text("raise ImportError('too old')\n", encoding="utf-8")
    outcome = export_tools.export("oldest", "lenet5", tmp_path)
    assert not outcome.good
    assert outcome.row() == "oldest  lenet5        failed: ImportError: too old"


def test_a_file_out_of_tolerance_fails() -> None:
    """What was published with --accept-parity would not count as exported."""
    assert not Outcome("oldest", "lenet5", {"parity": {"within_tolerance": False}}).good
    assert Outcome("oldest", "lenet5", {"parity": {"within_tolerance": True}}).good

"""What docs/weighing.md says of the sizes that are quoted for VGG follows from the catalogue's parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compare.cost import MB, MIB
from models.catalog import get

PAGE = (Path(__file__).parents[1] / "docs/weighing.md").read_text(encoding="utf-8")
LAST_LAYER = 4096 * 1000 + 1000


def megabytes(parameters: int) -> str:
    return f"{parameters * 4 / MB:.1f}"


@pytest.mark.parametrize(("name", "title"), [("vgg16", "VGG-16"), ("vgg19", "VGG-19")])
def test_table(name: str, title: str) -> None:
    """The table's MB and MiB are four bytes for each parameter, each in its own unit."""
    parameters = get(name).parameters
    row = f"| {title} | {parameters:,} | {megabytes(parameters)} | {parameters * 4 / MIB:.1f} |"
    assert row in PAGE


def test_533_is_no_vgg16() -> None:
    """533 is VGG-16 in neither unit, with its last layer or without; the networks named beside it weigh what is said."""
    whole = get("vgg16").parameters
    assert not {round(size * 4 / unit) for size in (whole, whole - LAST_LAYER) for unit in (MB, MIB)} & {533}
    assert f"({megabytes(whole - LAST_LAYER)} MB) without its last layer" in PAGE
    assert f"VGG-11 takes {megabytes(get('vgg11').parameters)} MB, VGG-13 {megabytes(get('vgg13').parameters)}" in PAGE
    one_by_one = 256 * 256 + 256 + 2 * (512 * 512 + 512)
    assert f"three are 1x1, {megabytes(get('vgg13').parameters + one_by_one)}" in PAGE
    assert "533 MB would be 133.25 million parameters, 533 MiB 139.7 million" in PAGE
    assert (533 * MB / 4, round(533 * MIB / 4, -5)) == (133.25e6, 139.7e6)


def test_528_and_574() -> None:
    """528 and 548 are the MiB rounded, 553 and 574 the MB cut off."""
    sizes = [get(name).parameters * 4 for name in ("vgg16", "vgg19")]
    assert [round(size / MIB) for size in sizes] == [528, 548]
    assert [int(size / MB) for size in sizes] == [553, 574]
    assert re.search(r"553,430,176 bytes are 527\.8 MiB", PAGE)
    assert sizes[0] == 553_430_176

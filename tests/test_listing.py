"""models.listing and models.show: the catalogue as a table, as pages, as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import netweight
from models import catalog, listing, show
from models.layers import Layer


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netweight.main, ("models", *arguments))


def row(name: str) -> list[str]:
    """Return one network's line of the table, cut where two blanks or more stand."""
    lines = run().output.splitlines()
    (found,) = [line for line in lines if line.split(" ", 1)[0] == name]
    return [cell for cell in found.split("  ") if cell]


def test_the_table_has_a_line_for_each_network() -> None:
    """Name, family, year, parameters, MB and MiB of fp32; none is cut off."""
    listed = [line.split()[0] for line in run().output.partition("\n\n")[0].splitlines()[1:]]
    assert listed == list(catalog.names())
    cells = [cell.strip() for cell in row("vgg16")]
    assert {"VGG", "2014", "138,357,544", "553.4", "527.8"} <= set(cells)
    assert "…" not in run().output


@pytest.mark.parametrize(
    ("name", "millions", "error"),
    [
        ("vgg11", 133, "10.4"),
        ("vgg11_lrn", 133, "10.5"),
        ("vgg13", 133, "9.9"),
        ("vgg16_c", 134, "9.4"),
        ("vgg16", 138, "8.8"),
        ("vgg19", 144, "9.0"),
    ],
)
def test_vggs_rows_are_the_papers(name: str, millions: int, error: str) -> None:
    """The six rows of VGG's table come out: parameters in millions, and the published top-5 error, marked so."""
    assert round(catalog.get(name).parameters / 1e6) == millions
    assert any(cell.strip().endswith(f"/ {error}") for cell in row(name))
    assert "published error" in run().output.splitlines()[0]


def test_json_has_errors_beside_accuracies() -> None:
    """A program reads published errors and accuracies; they add up to 100 %."""
    for each in json.loads(run("list", "--json").output):
        assert each["fp32_bytes"] == 4 * each["parameters"]
        for figures in each["published"]:
            assert figures["top1_percent"] + figures["top1_error_percent"] == pytest.approx(100)
            if figures["top5_percent"] is not None:
                assert figures["top5_percent"] + figures["top5_error_percent"] == pytest.approx(100)


def test_a_page_says_where_the_weight_sits() -> None:
    """VGG-16: 89.4 % in three fully connected layers, 74.3 % in one; the work is in the convolutions."""
    page = run("show", "vgg16").output
    assert "89.4 % in 3 fully connected layers" in page
    assert "74.3 % in classifier.0 alone" in page
    assert "99.2 % in 13 convolutions" in page
    assert "102,764,544" in page
    assert "553,430,176 bytes = 553.4 MB = 527.8 MiB" in page
    assert "533" in page
    assert "(error 8.8 %)" in page
    assert "features.1 " not in page  # an activation


def test_a_pages_json_has_every_layer() -> None:
    """Also those that only pass values on; shares add up to one."""
    (shown,) = json.loads(run("show", "vgg16", "--json").output)
    assert [each["name"] for each in shown["layers"]][:3] == ["features.0", "features.1", "features.2"]
    assert sum(each["share"] for each in shown["layers"]) == pytest.approx(1)
    first = next(each for each in shown["layers"] if each["name"] == "classifier.0")
    assert (first["parameters"], first["bytes"], first["output_shape"]) == (102_764_544, 411_058_176, [4096])
    assert round(first["share"], 3) == 0.743


def test_without_torch_the_record_is_shown_alone(tmp_path: Path) -> None:
    """Where torch is not installed the page ends with a line that says so; JSON has no layers; nothing fails."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    pages = [
        subprocess.run(
            [sys.executable, "-m", "netweight", "models", "show", "vgg16", *more],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        ).stdout
        for more in ([], ["--json"])
    ]
    assert "138,357,544" in pages[0]
    assert "torch, which is not installed" in pages[0].splitlines()[-1]
    assert json.loads(pages[1])[0]["layers"] is None


def test_units_are_told_for_small_networks_too() -> None:
    """61,706 parameters are 0.247 MB = 0.235 MiB: three digits, not 0.2 and 0.2."""
    assert "246,824 bytes = 0.247 MB = 0.235 MiB" in listing.describe(catalog.get("lenet5"))


def test_builder_options_are_shown() -> None:
    """Whoever reads the page can build the network again."""
    narrow = replace(catalog.get("mobilenet_v2"), options=(("width_mult", 0.25),))
    assert "torchvision.models:mobilenet_v2(width_mult=0.25)" in listing.describe(narrow)


def test_a_network_without_matrices_has_no_such_share() -> None:
    """Kinds that hold nothing are not named."""
    only = Layer("conv", "Conv2d", (3, 9, 9), (4, 7, 7), 112, 5292)
    said = listing.where_the_weight_sits([only])
    assert said.splitlines()[0].endswith("100.0 % in 1 convolution; 100.0 % in conv alone")


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_0", "mobilenet_v1"])
def test_pages_sum_up(name: str) -> None:
    """A page's last row of layers is the record's parameters: auxiliary heads and what is folded play no part."""
    architecture = catalog.get(name)
    (line,) = [line for line in show.network_page(architecture).splitlines() if line.startswith("sum ")]
    assert f"{architecture.parameters:,}" in line
    assert f"{architecture.multiply_accumulates / 1e6:,.1f}" in line

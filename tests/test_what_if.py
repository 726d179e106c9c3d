"""export.what_if: what `netweight weigh` says before anything is made is, byte for byte, what is made."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import netweight
from export import hollow, subject, what_if
from export.build import build
from export.calibration import Calibration
from export.convert import convert, metadata
from export.picture import draw
from export.subject import Subject
from export.variants import VARIANTS, make
from export.weigh import weigh
from models import catalog, heads
from models.spec import NetweightError
from models.weights import parse


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netweight.main, ("weigh", *arguments))


def exported(directory: Path, name: str) -> Path:
    """Export a network with random weights, without publishing it."""
    built = build(catalog.get(name), parse("random"))
    return convert(built.module, built.images(2, 0), directory / "model.onnx", metadata=metadata(built))[0]


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("lenet5"), "lenet5")


@pytest.fixture(scope="module")
def told() -> Subject:
    return subject.network_by(catalog.get("lenet5"), lighter_heads=False)


def compare(directory: Path, told: Subject, path: Path) -> None:
    """Hold the sizes told from the architecture, and from the file, against those of the variants really made."""
    assert told.variants == what_if.sizes(hollow.of_file(path))
    assert [asdict(layer) for layer in told.layers] == [asdict(layer) for layer in weigh(path).layers]
    sizes = {size.variant: size.bytes for size in told.variants}
    assert sizes.pop("fp32") == weigh(path).initializer_bytes
    for variant, size in sizes.items():
        target = directory / f"{variant}.onnx"
        make(variant, path, target, Calibration("random", images=4))
        assert weigh(target).initializer_bytes == size, variant
        assert weigh(target).parameters == weigh(path).parameters, variant
    for variant in VARIANTS.keys() - sizes.keys():
        with pytest.raises(NetweightError, match="no fully connected layer"):
            make(variant, path, directory / "none.onnx")


def test_sizes_are_those_of_the_variants(tmp_path: Path, told: Subject, lenet5: Path) -> None:
    """Every layer and variant of LeNet-5 weighs what was said, from its architecture and from its file."""
    compare(tmp_path, told, lenet5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "resnet18", "densenet121", "alexnet_2012"])
def test_sizes_are_those_of_the_variants_of_any_network(tmp_path: Path, name: str) -> None:
    """So does every variant of networks with batch norm that stays, without a matrix, with LRN, with squeezed channels."""
    compare(tmp_path, subject.network_by(catalog.get(name), lighter_heads=False), exported(tmp_path, name))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 5])
def test_a_lighter_head_weighs_what_was_said(tmp_path: Path, rank: int | None) -> None:
    """LeNet-5 with pooling, or with thin layers of a rank, exported for real, has the bytes that were told."""
    architecture = catalog.get("lenet5")
    weighed = subject.network_by(architecture, rank=rank)
    built = build(architecture, parse("random"))
    network: Any = built.module.network
    if rank is None:
        heads.pool(network, "lenet5")
        told = [size for size in weighed.variants if size.suffix == ".pool"]
    else:
        heads.svd(network, "lenet5", rank=rank)
        told = [size for size in weighed.variants if size.suffix == ".svd"]
        assert told[0].head == "svd, rank 5"
    path, *_ = convert(built.module.eval(), built.images(2, 0), tmp_path / "model.onnx")
    assert [size.bytes for size in told] == [weigh(path).initializer_bytes]


def test_vgg16_is_told_without_its_weights() -> None:
    """553 MB are not needed to say so: all graphs hold no large tensor, and the variants' sizes follow from the layers."""
    model = hollow.of_network(catalog.get("vgg16"))
    sizes = {size.variant: size.bytes for size in what_if.sizes(model)}
    parameters, preprocessing = 138_357_544, 4 * 3 * 4 + 2 * 8  # four vectors of three colours, one shape of two axes
    assert sizes["fp32"] == 4 * parameters + preprocessing
    matrices = ((25_088, 4_096), (4_096, 4_096), (4_096, 1_000))
    whole = sum(inputs * outputs for inputs, outputs in matrices)
    blocks = sum(-(-inputs // 64) * outputs for inputs, outputs in matrices)
    assert sizes["int4-weights"] == sizes["fp32"] - 4 * whole + blocks * (32 + 4)
    assert sizes["int8-weights"] == sizes["fp32"] - 4 * whole + blocks * (64 + 4)
    assert round(sizes["int8"] / sizes["fp32"], 2) == 0.25
    layers = what_if.layers(model).layers
    assert max(layers, key=lambda layer: layer.bytes).name == "classifier.0"


def test_the_page_of_a_file(lenet5: Path) -> None:
    """A file is weighed without a repository: sizes in both units, layers, where the weight sits."""
    shown = run(str(lenet5)).output
    assert "48,120" in shown
    assert "246,852" in shown
    assert "78.0 % of the bytes are in features.c5 alone" in shown
    sizes = json.loads(run(str(lenet5), "--json").output)
    assert sizes["variants"][0]["variant"] == "fp32"
    assert {each["variant"] for each in sizes["variants"]} == {"fp32", *VARIANTS}
    assert all(each["head"] is None for each in sizes["variants"])
    assert sum(layer["parameters"] for layer in sizes["layers"]) == 61_706


def test_a_variant_is_weighed_as_it_is(tmp_path: Path, lenet5: Path) -> None:
    """Of a file that is no fp32 graph any more no variants are told."""
    target = tmp_path / "lenet5.onnx"
    make("int4-weights", lenet5, target)
    (size,) = json.loads(run(str(target), "--json").output)["variants"]
    assert size["bytes"] == weigh(target).initializer_bytes
    assert size["variant"] == "float32, int4"


def test_a_model_of_the_repository(tmp_path: Path, lenet5: Path) -> None:
    """A model's newest version is weighed; its card says which heads it could have."""
    for version in (1, 2):
        folder = tmp_path / "digits" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(lenet5.read_bytes())
    card = {
        "architecture": {"name": "lenet5", "classes": 10, "adaptation": None},
        "preprocessing": {**catalog.get("lenet5").preprocessing.to_dict(), "input": "uint8"},
    }
    (tmp_path / "digits" / "2" / "card.json").write_text(json.dumps(card))
    weighed = json.loads(run("digits", "--repository", str(tmp_path), "--rank", "4", "--json").output)
    assert weighed["source"] == f"version 2 in {tmp_path}"
    assert {each["head"] for each in weighed["variants"]} == {None, "pool", "svd, rank 4"}
    (tmp_path / "digits" / "2" / "card.json").unlink()
    bare = json.loads(run("digits", "--repository", str(tmp_path), "--json").output)
    assert {each["head"] for each in bare["variants"]} == {None}


def test_an_own_network(lenet5: Path) -> None:
    """A user's own builder is weighed by its options as the catalogue's networks are; its classes are its own."""
    arguments = ("mine", "--builder", "models.nets.lenet5:lenet5", "--builder-option", "num_classes=10", "--no-heads")
    weighed = json.loads(run(*arguments[:3], "--no-heads", "--json").output)
    assert weighed["name"] == "mine"
    assert sum(layer["parameters"] for layer in weighed["layers"]) == 61_706
    assert run(*arguments).exit_code == 1  # num_classes is given twice


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_a_picture(tmp_path: Path, told: Subject, suffix: str) -> None:
    """The picture names the layers, their MB and the variants; the same weight gives the same file."""
    files = [draw(told, tmp_path / f"{each}{suffix}") for each in "ab"]
    data = files[0].read_bytes()
    assert data == files[1].read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG")
        return
    text = data.decode()
    for word in ("features.c5", "78.0 %", "fully connected", "lenet5.int8", "0.247 MB"):
        assert word in text, word
    assert text.startswith("<!doctype html>" if suffix == ".html" else "<?xml")


FAILURES = {
    "unknown": (["vgg61"], "unknown network 'vgg61' (did you mean"),
    "no file": (["nosuch.onnx"], "nosuch.onnx"),
    "no ONNX file": (["README.md"], "README.md is not an ONNX file"),
    "nothing": ([], "weigh needs a network, a model of the repository or an ONNX file"),
    "all of one": (["lenet5", "--all"], "--all weighs the catalogue"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_bad_input_is_one_line(case: str) -> None:
    """What cannot be weighed is told in one line."""
    arguments, text = FAILURES[case]
    failed = run(*arguments)
    assert failed.exit_code == 1
    (line,) = failed.output.splitlines()
    assert line.startswith("Error: ")
    assert text in line


def test_a_picture_that_cannot_be_written(tmp_path: Path, told: Subject) -> None:
    """Another suffix, or a directory that is not there, is one line."""
    for name, text in (("a.gif", "expected a file that ends in .svg"), ("none/a.svg", "cannot write")):
        with pytest.raises(NetweightError, match=text):
            draw(told, tmp_path / name)

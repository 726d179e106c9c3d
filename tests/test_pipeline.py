"""export.pipeline: build, convert, verify, weigh, publish."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from export.pipeline import export
from models import catalog
from models.spec import NetweightError
from models.weights import parse
from tests.test_weights import netweight_checkpoint, saved

if TYPE_CHECKING:
    from pathlib import Path

    from export.publish import Publication

LENET5 = catalog.get("lenet5")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Publication:
    """LeNet-5 with random weights, exported once."""
    return export(LENET5, parse("random"), tmp_path_factory.mktemp("models"), report=lines.append).fp32


def test_card_says_all_of_a_version(published: Publication) -> None:
    """card.json holds provenance, preprocessing, weight and parity, and is what the caller is told."""
    card = json.loads((published.path / "card.json").read_text())
    assert (card["schema"], card["name"], card["version"]) == ("netweight-card/1", "lenet5", 1)
    assert card["architecture"]["title"] == "LeNet-5"
    assert card["preprocessing"] == {**json.loads(json.dumps(LENET5.preprocessing.to_dict())), "input": "uint8"}
    assert (card["parameters"], card["multiply_accumulates"]) == (61_706, 416_520)
    assert [batch["batch"] for batch in card["parity"]["batches"]] == [1, 2, 3, 8]
    exporters = {"torch", "torchvision", "onnx", "onnxscript", "onnx-ir", "onnxruntime"}
    assert set(card["tools"]) == {"python", "netweight", *exporters}
    assert card == json.loads(json.dumps(published.card))


def test_random_weights_are_labelled_untrained(published: Publication) -> None:
    """The card of a network that was never trained says so and claims no accuracy."""
    weights = published.card["weights"]
    assert (weights["kind"], weights["trained"], weights["source"]) == ("random", False, "seed 0")
    assert weights["checkpoint_bytes"] > 4 * 61_706
    assert published.card["accuracy"] is None


def test_card_knows_its_files(published: Publication) -> None:
    """Bytes and SHA-256 on the card are those of the file."""
    content = (published.path / "model.onnx").read_bytes()
    graph = published.card["graph"]
    assert graph["files"] == {"model.onnx": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    assert graph["onnx_bytes"] == published.card["deployment"]["bytes"] == len(content)


def test_every_step_is_reported_with_its_seconds(published: Publication, lines: list[str]) -> None:
    """Each step is told when it begins and when it is done."""
    begun, done = lines[::2], lines[1::2]
    assert [line.split()[1] for line in begun] == ["build", "convert", "verify", "weigh"]
    for begins, ends in zip(begun, done, strict=True):
        assert begins.endswith(" ...")
        assert re.fullmatch(r"  \d+\.\d s", ends)


def test_exporting_again_makes_version_two(published: Publication) -> None:
    """The next version of the same weights has the same bytes and stands beside the first."""
    again = export(LENET5, parse("random"), published.path.parent.parent).fp32
    assert (again.version, again.path) == (2, published.path.parent / "2")
    assert again.card["graph"] == published.card["graph"]


def test_checkpoint_brings_names_and_accuracy(tmp_path: Path) -> None:
    """What a training run knew stands in the repository, under the name that was asked for; weights lie beside."""
    weights = saved(netweight_checkpoint(), tmp_path / "best.pt")
    publication = export(LENET5, weights, tmp_path / "models", name="threes", external_data_above=1000).fp32
    assert (tmp_path / "models" / "threes" / "labels.txt").read_text() == "zero\none\ntwo\n"
    assert publication.card["accuracy"]["top1"] == 0.98
    assert publication.card["weights"]["trained"]
    assert publication.card["architecture"]["classes"] == 3
    files = publication.card["graph"]["files"]
    assert set(files) == {"model.onnx", "model.onnx.data"}
    assert publication.card["graph"]["onnx_bytes"] == sum(each["bytes"] for each in files.values())


def test_out_of_tolerance_publishes_nothing(tmp_path: Path) -> None:
    """An export that differs from torch by more than it may leaves the repository as it was."""
    with pytest.raises(NetweightError, match="not published"):
        export(LENET5, parse("random"), tmp_path, tolerance=1e-12)
    assert not list(tmp_path.iterdir())


def test_contradiction_is_found_before_the_work(published: Publication) -> None:
    """Another class count under the same name is refused after the build, before the conversion."""
    lines: list[str] = []
    with pytest.raises(NetweightError, match="--name"):
        export(LENET5, parse("random"), published.path.parent.parent, classes=5, report=lines.append)
    assert len(lines) == 1


def test_out_of_tolerance_is_published_where_that_is_accepted(tmp_path: Path) -> None:
    """With `accept_parity` the export is published, and its card says that it is out of tolerance."""
    lines: list[str] = []
    options: dict[str, Any] = {"tolerance": 1e-12, "accept_parity": True}
    card = export(LENET5, parse("random"), tmp_path, report=lines.append, **options).fp32.card
    assert (card["parity"]["accepted"], card["parity"]["within_tolerance"]) == (True, False)
    assert max(batch["max_relative"] for batch in card["parity"]["batches"]) > 1e-12
    assert any("accepted although out of tolerance" in line for line in lines)


def test_variants_are_models_of_their_own(tmp_path: Path) -> None:
    """Several at once: each with its card, config and labels, made from the fp32 version that its card names."""
    exported = export(LENET5, parse("random"), tmp_path, variants=("fp16", "fp16-weights"))
    assert [each.name for each in exported.variants] == ["lenet5.fp16", "lenet5.fp16-weights"]
    for each in exported.variants:
        assert each.card["graph"]["variant"] == each.name.removeprefix("lenet5.")
        assert each.card["reference"] == {"name": "lenet5", "version": 1}
        assert [batch["batch"] for batch in each.card["parity"]["batches"]] == [1, 2, 3, 8]
        assert each.card["parity"]["within_tolerance"]
        assert each.card["graph"]["onnx_bytes"] < exported.fp32.card["graph"]["onnx_bytes"]
        config = (tmp_path / each.name / "config.pbtxt").read_text()
        assert f'name: "{each.name}"' in config
        assert (tmp_path / each.name / "labels.txt").read_text() == (tmp_path / "lenet5" / "labels.txt").read_text()


def test_a_variant_that_fails_does_not_undo_the_others(tmp_path: Path) -> None:
    """int8 without calibration images is refused in one line; fp32 and the other variant are published."""
    exported = export(LENET5, parse("random"), tmp_path, variants=("int8", "fp16"))
    (failure,) = exported.failures
    assert failure.startswith("lenet5.int8: ")
    assert "--calibration" in failure
    assert "\n" not in failure
    assert [each.name for each in exported.variants] == ["lenet5.fp16"]
    assert {each.name for each in tmp_path.iterdir()} == {"lenet5", "lenet5.fp16"}


def test_variants_alone_are_added_to_what_is_there(tmp_path: Path) -> None:
    """A second call with a variant takes the fp32 version that the same weights and tools made, unless --fresh."""
    first = export(LENET5, parse("random"), tmp_path).fp32
    lines: list[str] = []
    added = export(LENET5, parse("random"), tmp_path, variants=("fp16",), report=lines.append)
    assert (added.reused, added.fp32.version) == (True, first.version)
    assert any("made from the same weights by the same tools" in line for line in lines)
    assert not export(LENET5, parse("random:1"), tmp_path, variants=("fp16",)).reused
    assert not export(LENET5, parse("random:1"), tmp_path, variants=("fp16",), fresh=True).reused


def test_unknown_variant_is_refused_before_the_work(tmp_path: Path) -> None:
    """The message says which there are, and nothing is made."""
    with pytest.raises(NetweightError, match="unknown variant 'fp8': expected one of fp16, int8"):
        export(LENET5, parse("random"), tmp_path, variants=("fp8",))
    assert not list(tmp_path.iterdir())


def test_held_out_images_are_answered_by_the_file(tmp_path: Path) -> None:
    """With held-out images the card tells how many of them the file itself gets right, and a variant's agreement."""
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), dtype=np.uint8)
    np.savez(tmp_path / "heldout.npz", images=images, labels=np.arange(40) % 10)
    options: dict[str, Any] = {"heldout": tmp_path / "heldout.npz", "variants": ("fp16-weights",)}
    exported = export(LENET5, parse("random"), tmp_path / "models", **options)
    session = onnxruntime.InferenceSession(exported.fp32.path / "model.onnx")
    (logits,) = session.run(["logits"], {"image": images})
    heldout = exported.fp32.card["heldout"]
    assert heldout["top1"] == pytest.approx((logits.argmax(1) == np.arange(40) % 10).mean())
    assert (heldout["images"], heldout["agreement"]) == (40, 1.0)
    (variant,) = exported.variants
    assert variant.card["heldout"]["agreement"] >= 0.9
    assert variant.card["parity"]["inputs"].endswith("heldout.npz")

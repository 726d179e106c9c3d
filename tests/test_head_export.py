"""export.heads: a trained network's lighter head is made, fine-tuned, kept, and exported like any other network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from compare import lighter_heads
from compare.columns import DASH
from export import heads, pipeline
from export.commands import export as command
from export.heads import Asked
from export.weigh import weigh
from models import finetune
from models.spec import Architecture, NetweightError, Preprocessing, Recipe
from models.train import train
from models.weights import parse
from tests.costs import comparison

if TYPE_CHECKING:
    from pathlib import Path

    from export.pipeline import Exported
    from models.spec import Weights


class TinyVGG(nn.Module):
    """VGG's structure in small: convolutions, pooling to 2x2, three fully connected layers with most of the weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, num_classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


TINY = Architecture(
    name="tiny_vgg",
    title="Tiny VGG",
    family="VGG",
    year=2014,
    builder="tests.test_head_export:TinyVGG",
    parameters=0,
    preprocessing=Preprocessing(32, 32, 3, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)),
    classes=10,
    recipe=Recipe(epochs=3, learning_rate=0.01),
)
SVD = Asked("svd", energy=0.8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VGG, trained on the digits."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    train(TINY, directory=directory, report=lambda _line: None)
    return directory


@pytest.fixture(scope="module")
def weights(run: Path) -> Weights:
    return parse(str(run / "best.pt"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def pooled(weights: Weights, repository: Path, lines: list[str]) -> Exported:
    """The pooled head, fine-tuned, exported once."""
    return heads.export(TINY, weights, repository, asked=Asked("pool"), report=lines.append)


def card(repository: Path, name: str) -> dict[str, Any]:
    version = max(int(each.name) for each in (repository / name).iterdir() if each.name.isdecimal())
    content: dict[str, Any] = json.loads((repository / name / str(version) / "card.json").read_text())
    return content


def content(best: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(best, weights_only=True)
    return loaded


def refusal(weights: Weights, repository: Path, asked: Asked, architecture: Architecture = TINY) -> str:
    """Return the one line that an export ends with, and make sure that it published nothing."""
    before = sorted(repository.rglob("card.json"))
    with pytest.raises(NetweightError) as caught:
        heads.export(architecture, weights, repository, asked=asked)
    assert "\n" not in str(caught.value)
    assert sorted(repository.rglob("card.json")) == before
    return str(caught.value)


def test_pooled_network_is_published_beside_the_original(pooled: Exported, repository: Path) -> None:
    """NAME.pool has the features' weights and one layer; the original, which was missing, is published as NAME."""
    assert (pooled.fp32.name, pooled.reused) == ("tiny_vgg.pool", False)
    layers = [layer["name"] for layer in card(repository, "tiny_vgg.pool")["layers"]]
    assert layers == ["features.0", "features.3", "classifier.0"]
    assert [layer["name"] for layer in card(repository, "tiny_vgg")["layers"]][2:] == [
        "classifier.0",
        "classifier.3",
        "classifier.5",
    ]


def test_card_tells_what_the_head_took_and_cost(pooled: Exported, run: Path) -> None:
    """Parameters and bytes before and after, how it was fine-tuned, and from which weights it was made."""
    head = pooled.fp32.card["head"]
    assert (head["kind"], head["energy"], head["rank"]) == ("pool", None, None)
    full = content(run / "best.pt")["state_dict"]
    assert head["bytes"]["before"] == sum(tensor.nbytes for tensor in full.values())
    assert head["parameters"]["before"] - head["parameters"]["after"] == 64 * 96 + 96 + 96 * 96 + 96 + 96 * 10 - 16 * 10
    assert head["origin"]["kind"] == "checkpoint"
    assert len(head["origin"]["sha256"]) == 64
    tuning = head["fine_tuning"]
    assert tuning["epochs"] == {"head": 1, "all": 3}
    assert tuning["learning_rate"] == {"head": finetune.HEAD_LEARNING_RATE, "all": finetune.LEARNING_RATE}
    assert (tuning["data"], tuning["images"], len(tuning["history"])) == ("digits", 1293, 4)
    assert tuning["accuracy"]["after"] > tuning["accuracy"]["before"]
    assert head["original_accuracy"] == content(run / "best.pt")["accuracy"]


def test_agreement_is_with_the_original(pooled: Exported, repository: Path) -> None:
    """The card's held-out agreement is that of the two files' answers, and its reference is the original's version."""
    measured = pooled.fp32.card["heldout"]
    assert pooled.fp32.card["reference"] == {"name": "tiny_vgg", "version": 1}
    assert measured["agreement"] < 1
    assert measured["top1"] == pytest.approx(pooled.fp32.card["head"]["fine_tuning"]["accuracy"]["after"], abs=0.003)
    assert card(repository, "tiny_vgg")["heldout"]["agreement"] == 1


def test_head_is_kept_and_used_again(pooled: Exported, weights: Weights, repository: Path, run: Path) -> None:
    """The fine-tuned weights lie beside the run; a second export neither trains nor publishes the original again."""
    best = run / "head-pool" / "best.pt"
    written = best.stat().st_mtime_ns
    again: list[str] = []
    second = heads.export(TINY, weights, repository, asked=Asked("pool"), report=again.append)
    assert best.stat().st_mtime_ns == written
    assert (second.fp32.name, second.fp32.version) == ("tiny_vgg.pool", 2)
    assert second.fp32.card["graph"]["files"] == pooled.fp32.card["graph"]["files"]
    assert not (repository / "tiny_vgg" / "2").exists()
    assert any("made before" in line for line in again)


def test_head_of_another_number_of_epochs_is_made_anew(pooled: Exported, run: Path, tmp_path: Path) -> None:
    """What is used again is the very head that was asked for."""
    copy = shutil.copytree(run, tmp_path / run.name)
    again = heads.export(TINY, parse(str(copy / "best.pt")), tmp_path / "models", asked=Asked("pool", epochs=1))
    assert len(again.fp32.card["head"]["fine_tuning"]["history"]) == 1
    assert content(copy / "head-pool" / "best.pt")["head"]["asked"]["epochs"] == 1


def test_kept_checkpoint_exports_by_itself(pooled: Exported, run: Path, tmp_path: Path) -> None:
    """The head's best.pt is an ordinary checkpoint: exported alone it gives the same file under the same name."""
    exported = pipeline.export(TINY, parse(str(run / "head-pool" / "best.pt")), tmp_path)
    assert exported.fp32.name == "tiny_vgg.pool"
    assert exported.fp32.card["graph"]["files"] == pooled.fp32.card["graph"]["files"]
    assert exported.fp32.card["heldout"]["top1"] == pooled.fp32.card["heldout"]["top1"]


def test_svd_without_fine_tuning(weights: Weights, repository: Path, run: Path) -> None:
    """Each layer becomes two with the rank that the energy asks for; the graph's parity is with the split network."""
    exported = heads.export(TINY, weights, repository, asked=SVD)
    head = exported.fp32.card["head"]
    ranks = {layer["name"]: layer["rank"] for layer in head["layers"]}
    assert exported.fp32.name == "tiny_vgg.svd"
    assert head["fine_tuning"] is None
    assert all(layer["energy"] >= 0.8 for layer in head["layers"])
    graph = {layer.name: layer for layer in weigh(exported.fp32.path / "model.onnx").layers}
    for name, rank in ranks.items():
        split = graph[name] if rank is None else graph[f"{name}.0"]
        assert split.output_shape[-1] == (rank or split.output_shape[-1])
    assert any(rank is not None for rank in ranks.values())
    assert exported.fp32.card["parity"]["within_tolerance"]
    assert exported.fp32.card["heldout"]["agreement"] > 0.5
    assert (run / "head-svd-energy0.8" / "best.pt").is_file()


def test_svd_is_fine_tuned_on_request(weights: Weights, repository: Path) -> None:
    """Cut hard it forgets; an epoch gives most of it back."""
    asked = Asked("svd", rank=3, epochs=1)
    tuning = heads.export(TINY, weights, repository, asked=asked).fp32.card["head"]["fine_tuning"]
    assert tuning["epochs"] == {"head": 1}
    assert tuning["accuracy"]["after"] > tuning["accuracy"]["before"]


def test_variants_are_made_of_the_lighter_network(pooled: Exported, weights: Weights, repository: Path) -> None:
    """NAME.pool.VARIANT comes from NAME.pool and is held against the original too."""
    exported = heads.export(TINY, weights, repository, asked=Asked("pool"), variants=("fp16-weights",))
    (variant,) = exported.variants
    assert (exported.reused, exported.failures) == (True, ())
    assert variant.name == "tiny_vgg.pool.fp16-weights"
    assert variant.card["reference"] == {"name": "tiny_vgg", "version": 1}
    assert variant.card["made_from"]["name"] == "tiny_vgg.pool"
    assert variant.card["head"]["kind"] == "pool"
    assert variant.card["heldout"]["agreement"] == pytest.approx(pooled.fp32.card["heldout"]["agreement"], abs=0.01)


def test_random_weights_say_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both heads go with random weights, to see what they would weigh; the cards say that nothing was trained."""
    monkeypatch.chdir(tmp_path)
    for asked in (Asked("pool"), Asked("svd", rank=4)):
        exported = heads.export(TINY, parse("random"), tmp_path / "models", asked=asked)
        assert exported.fp32.card["weights"]["trained"] is False
        assert exported.fp32.card["accuracy"] is None
        assert card(tmp_path / "models", "tiny_vgg")["weights"]["trained"] is False
    assert not (tmp_path / "models" / "tiny_vgg" / "2").exists()


def test_interrupted_fine_tuning_publishes_nothing(
    weights: Weights, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst of it leaves neither a model nor a checkpoint nor what it worked with."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("models.epochs.History.on_train_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        heads.export(TINY, weights, tmp_path / "models", asked=Asked("svd", rank=5, epochs=1))
    assert not list((tmp_path).rglob("*.onnx"))
    assert not list((run / "head-svd-rank5").rglob("*"))


def test_broken_kept_head_is_made_anew(weights: Weights, repository: Path, run: Path) -> None:
    """A checkpoint that cannot be read is replaced."""
    best = run / "head-svd-rank6" / "best.pt"
    best.parent.mkdir()
    best.write_bytes(b"no checkpoint")
    heads.export(TINY, weights, repository, asked=Asked("svd", rank=6))
    assert content(best)["head"]["rank"] == 6


def test_data_of_other_classes_is_refused(weights: Weights, repository: Path) -> None:
    """The names of the classes must be those that the network was trained on."""
    message = refusal(weights, repository, Asked("pool", data="digits:0-4"))
    assert "digits:0-4 has 5 classes (0, 1, 2, ...)" in message
    assert "--head-data" in message


def test_pool_without_data_is_refused(run: Path, repository: Path, tmp_path: Path) -> None:
    """A plain state dict does not say what it was trained on, so that the new layer cannot learn."""
    torch.save(content(run / "best.pt")["state_dict"], tmp_path / "plain.pt")
    message = refusal(parse(str(tmp_path / "plain.pt")), repository, Asked("pool"))
    assert "does not say what tiny_vgg was trained on" in message
    assert "--head-data" in message


def test_untrained_layers_are_refused(weights: Weights, repository: Path) -> None:
    """Pooling without fine-tuning would publish a head that knows nothing, and random features cannot be fine-tuned."""
    assert "--head-epochs 1" in refusal(weights, repository, Asked("pool", epochs=0))
    assert "train it first" in refusal(parse("random"), repository, Asked("pool", epochs=2))


def test_head_upon_head_is_refused(pooled: Exported, run: Path, repository: Path) -> None:
    """A checkpoint that has a lighter head does not get another."""
    message = refusal(parse(str(run / "head-pool" / "best.pt")), repository, SVD)
    assert "has a pool head already" in message


@pytest.mark.parametrize("options", [{"variants": ("int7",)}, {"input": "float32"}], ids=["variant", "signature"])
def test_what_cannot_be_published_is_refused_before_the_work(
    pooled: Exported, weights: Weights, repository: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown variant, or a name that another kind of model has, does not wait until the head was fine-tuned."""
    monkeypatch.setattr(finetune, "finetune", None)
    with pytest.raises(NetweightError, match=r"int7|tiny_vgg\.pool in .* has uint8 images"):
        heads.export(TINY, weights, repository, asked=Asked("pool", epochs=9), **options)


def test_networks_without_heavy_classifier_are_refused(repository: Path) -> None:
    """ResNet ends in one layer: nothing is published of it."""
    from models import catalog

    message = refusal(parse("random"), repository, Asked("pool"), catalog.get("resnet18"))
    assert "resnet18 has one linear layer already" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--energy", "0.9"], "--energy is for a lighter head"),
        (["--head-epochs", "2"], "--head-epochs is for a lighter head"),
        (["--head", "pool", "--energy", "0.9"], "--head pool takes no --energy"),
        (["--head", "svd"], "got neither"),
        (["--head", "svd", "--energy", "2"], "got 2"),
    ],
)
def test_command_refuses_options_that_do_not_go_together(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Before any work, in one line."""
    result = CliRunner().invoke(command, ["lenet5", "--repository", str(tmp_path / "models"), *arguments])
    assert isinstance(result.exception, NetweightError)
    assert words in str(result.exception)
    assert not (tmp_path / "models").exists()


def test_graph_of_a_pooled_head_is_clean(pooled: Exported) -> None:
    """One pooling operator, and no trace of the layers that were."""
    graph = onnx.load(pooled.fp32.path / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Gemm") == 1
    assert sum(operators.count(each) for each in ("GlobalAveragePool", "AveragePool", "ReduceMean")) == 1
    assert "Dropout" not in operators
    assert not any("classifier.3" in tensor.name for tensor in graph.initializer)


def test_other_networks_name_their_builder(weights: Weights, repository: Path) -> None:
    """A record of another name does not take this checkpoint."""
    assert "is a checkpoint of tiny_vgg" in refusal(weights, repository, SVD, replace(TINY, name="other"))


def test_stored_table_says_where_the_bytes_went(pooled: Exported, repository: Path) -> None:
    """Its parts are those of the cards and add up to the initializers; what a network has not is a dash."""
    rows = [lighter_heads.row(lighter_heads.read(repository, name)) for name in ("tiny_vgg", "tiny_vgg.pool")]
    for each in rows:
        assert sum(each.parts.values()) == each.initializer_bytes
        assert each.parts["other"] >= 0
    assert rows[0].parts["classifier.0"] == 4 * (64 * 96 + 96)
    assert rows[1].parts["classifier.0"] == 4 * (16 * 10 + 10)
    page = lighter_heads.page(rows, comparison())
    assert f"| classifier.3 | 0.04 | {DASH} |" in page
    assert f"| {100 * rows[1].top1:.2f} | {100 * rows[1].agreement:.2f} |" in page
    with pytest.raises(NetweightError, match="expected a model below"):
        lighter_heads._check([replace(rows[0], file_bytes=30_000_000), replace(rows[1], top1=0.0)])


def test_layers_of_a_part_are_counted_together() -> None:
    """All convolutions are one part, and so are both halves of a layer that was split."""
    names = ("features.0", "features.28", "classifier.3", "classifier.3.0", "classifier.3.1")
    assert [lighter_heads.part(name) for name in names] == ["features"] * 2 + ["classifier.3"] * 3

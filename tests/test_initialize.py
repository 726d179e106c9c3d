"""models/initialize.py and models/start.py: drawn weights, a start from a shallower network, transfer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import build, catalog, initialize, lookup
from models.nets import vgg
from models.spec import Architecture, NetweightError, Preprocessing, Recipe
from models.train import train
from tests.networks import TWO_HEADED
from tests.test_resume import weights
from tests.test_train import LENET, silent

SMALL = Preprocessing(32, 32, 3, (0.5,) * 3, (0.2,) * 3)
THIN = 1 / 64
"""A VGG's width: 1 channel instead of 64."""
ONCE = Recipe(epochs=1, learning_rate=0.001, batch_size=32, initialization="kaiming")


def thin(name: str) -> Architecture:
    """Return the record of a thin VGG."""
    return lookup.find(name, f"models.nets.vgg:{name}", {"width": THIN})


def test_kaiming_and_xavier_have_their_variance() -> None:
    """Kaiming's weights vary by 2 / inputs, Xavier's by 2 / (inputs + outputs); biases are 0."""
    for name, inputs_and_outputs in (("kaiming", 512), ("xavier", 512 + 4 * 64)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(128, 64, 2), nn.BatchNorm2d(64), nn.Linear(512, 256))
        initialize.draw(network, Recipe(1, 0.1, initialization=name))  # type: ignore[arg-type]  # one of its words
        for module in (network[0], network[2]):
            assert isinstance(module, nn.Conv2d | nn.Linear)
            assert module.bias is not None
            assert module.weight.var().item() == pytest.approx(2 / inputs_and_outputs, rel=0.03)
            assert not module.bias.any()


def test_default_leaves_weights_as_built() -> None:
    """Without a word about it nothing is drawn anew."""
    linear = nn.Linear(4, 4)
    before = linear.weight.clone()
    initialize.draw(linear, Recipe(1, 0.1))
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_shallower_vgg_starts_a_deeper_one(batch_norm: bool) -> None:
    """VGG-16 takes the first convolutions between VGG-11's poolings and all full layers, batch norm along with them."""
    shallow = vgg.VGG(vgg.A, 10, width=THIN, batch_norm=batch_norm)
    deep = vgg.VGG(vgg.D, 10, width=THIN, batch_norm=batch_norm)
    for module in shallow.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").fill_(7.0)
    source, target = initialize.layers(shallow, SMALL), initialize.layers(deep, SMALL)
    taken = initialize.take_matching(target, source)
    assert [here for _, here in taken.pairs] == [target[index].name for index in (0, 2, 4, 5, 7, 8, 10, 11, 13, 14, 15)]
    assert taken.fresh == tuple(target[index].name for index in (1, 3, 6, 9, 12))
    assert str(taken).startswith("11 of 16 layers taken (features.0, features.")
    for there, here in taken.pairs:
        ours, theirs = deep.get_submodule(here), shallow.get_submodule(there)
        assert torch.equal(ours.weight, theirs.weight)  # type: ignore[arg-type]  # both have weights
    followed = [
        module.get_buffer("running_mean").eq(7).all().item()
        for module in deep.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    assert followed == ([index in {0, 2, 4, 5, 7, 8, 10, 11} for index in range(13)] if batch_norm else [])


def test_resnet18_starts_resnet34() -> None:
    """The general rule: all of ResNet-18's layers fit ResNet-34, stage by stage, and the rest stays fresh."""
    shallow, deep = (build.build(lookup.find(name), 10) for name in ("resnet18", "resnet34"))
    taken = initialize.take_matching(initialize.layers(deep, SMALL), initialize.layers(shallow, SMALL))
    assert (len(taken.pairs), len(taken.fresh)) == (21, 16)
    assert ("layer2.1.conv1", "layer2.1.conv1") in taken.pairs
    assert {name.split(".")[0] for name in taken.fresh} == {"layer1", "layer2", "layer3", "layer4"}
    assert torch.equal(shallow.get_parameter("layer4.1.conv2.weight"), deep.get_parameter("layer4.1.conv2.weight"))


def test_layers_stand_in_the_order_of_the_image() -> None:
    """Layers come as an image meets them, with their norms; an auxiliary head comes last and is no head."""
    network = build.build(TWO_HEADED, 10)
    found = initialize.layers(network, replace(SMALL, channels=1, mean=(0.5,), std=(0.2,)))
    assert [layer.name for layer in found] == ["stem.0", "body.0", "head", "auxiliary"]
    assert [layer.place for layer in found] == [0, 1, initialize.VECTOR, initialize.ASIDE]
    assert [len(layer.norms) for layer in found] == [1, 1, 0, 0]
    assert initialize.head(found).name == "head"
    assert network.training


def test_freezing_leaves_the_head() -> None:
    """Frozen, only the head learns and batch norm keeps its statistics; thawed, everything does."""
    network = build.build(TWO_HEADED, 10)
    head = network.get_submodule("head")
    initialize.freeze(network, head, frozen=True)
    assert {name for name, own in network.named_parameters() if own.requires_grad} == {"head.weight", "head.bias"}
    assert not network.get_submodule("stem.1").training
    assert network.get_submodule("body.4").training
    initialize.freeze(network, head, frozen=False)
    assert all(own.requires_grad for own in network.parameters())
    assert network.get_submodule("stem.1").training


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best.pt of a thin VGG-11."""
    directory = tmp_path_factory.mktemp("vgg11")
    train(thin("vgg11"), recipe=ONCE, train_images=32, directory=directory, report=silent)
    return directory / "best.pt"


def test_run_says_what_it_took(shallow: Path, tmp_path: Path) -> None:
    """A run that starts from a shallower network's checkpoint says so, in a line and in run.json."""
    lines: list[str] = []
    recipe = replace(ONCE, learning_rate=0.0)
    asked: dict[str, Any] = {"recipe": recipe, "train_images": 32, "directory": tmp_path, "init_from": shallow}
    train(thin("vgg16"), **asked, report=lines.append)
    assert lines[1].startswith(f"vgg16: initialised from vgg11 ({shallow}): 11 of 16 layers taken (features.0, ")
    assert lines[1].endswith("; fresh: features.2, features.7, features.14, features.21, features.28")
    assert lines[1].removeprefix("vgg16: ") in (tmp_path / "run.json").read_text()
    ours, theirs = weights(tmp_path / "best.pt"), weights(shallow)
    assert torch.equal(ours["features.26.weight"], theirs["features.18.weight"])
    assert torch.load(tmp_path / "best.pt", weights_only=True)["options"] == {"width": THIN}
    assert train(thin("vgg16"), **asked, report=silent).reused
    with pytest.raises(NetweightError, match=r"holds a run with init from [0-9a-f]{64}, and init from None was asked"):
        train(thin("vgg16"), **{**asked, "init_from": None}, report=silent)


def test_transfer_takes_a_plain_state_dict(tmp_path: Path) -> None:
    """A state dict of another number of classes gives all but the head."""
    torch.manual_seed(1)
    torch.save(build.build(LENET, 7).state_dict(), tmp_path / "seven.pth")
    lines: list[str] = []
    recipe = Recipe(epochs=1, learning_rate=0.0, batch_size=32)
    asked: dict[str, Any] = {"recipe": recipe, "train_images": 32, "directory": tmp_path / "run"}
    train(LENET, **asked, transfer=tmp_path / "seven.pth", report=lines.append)
    assert lines[1].endswith("seven.pth: 4 layers taken, fresh: classifier.output")
    given = torch.load(tmp_path / "seven.pth", weights_only=True)
    ours = weights(tmp_path / "run" / "best.pt")
    assert all(torch.equal(ours[name], given[name]) for name in given if "output" not in name)
    assert ours["classifier.output.weight"].shape[0] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "SHALLOW", "architecture": LENET}, r"^no layer of .* \(vgg11\) fits lenet5, by place and shape"),
        (
            {"init_from": "plain.pth"},
            r"does not say what network it is of: --init-from takes a training run's best\.pt$",
        ),
        ({"init_from": "foreign.pt"}, r"of the builder os:system: a checkpoint does not choose what code is run$"),
        ({"init_from": "cut.pt"}, r"cut\.pt is not of the network vgg11 as it is built here: "),
        ({"init_from": "nowhere.pt"}, r"^cannot read .*nowhere\.pt \(No such file or directory\): give a checkpoint"),
        ({"init_from": "IMAGENET1K_V1"}, r"^--init-from takes a file, a training run's best\.pt, got 'IMAGENET1K_V1'$"),
        (
            {"transfer": "SHALLOW"},
            r"is a checkpoint of vgg11, not of vgg16: ask for vgg11, .*, or say --init-from, which takes the layers that match$",
        ),
        ({"transfer": "random:3"}, r"^weights 'random:3' were never trained: leave them out, or give a checkpoint$"),
        ({"transfer": "SHALLOW", "init_from": "SHALLOW"}, r"both give the first weights: leave one out$"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    shallow: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Weights of another network, of no network, of none that may be run: one line, and nothing is trained."""
    content = torch.load(shallow, weights_only=True)
    torch.save(content["state_dict"], tmp_path / "plain.pth")
    torch.save({**content, "builder": "os:system"}, tmp_path / "foreign.pt")
    torch.save({**content, "state_dict": dict(list(content["state_dict"].items())[:-1])}, tmp_path / "cut.pt")
    places = {name: str(tmp_path / name) for name in ("plain.pth", "foreign.pt", "cut.pt", "nowhere.pt")}
    asked = {
        key: {"SHALLOW": str(shallow), **places}.get(value, value)
        for key, value in changes.items()
        if key != "architecture"
    }
    network = changes.get("architecture", thin("vgg16"))
    with pytest.raises(NetweightError, match=message) as failure:
        train(network, recipe=ONCE, train_images=32, directory=tmp_path / "run", report=silent, **asked)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "run" / "best.pt").exists()


def test_transfer_from_another_shape_is_one_line() -> None:
    """A layer that is neither the head nor an auxiliary one and has another shape is named."""
    network, other = (build.build(replace(LENET, name="x"), 10) for _ in range(2))
    tensors = {**other.state_dict(), "features.c3.weight": torch.zeros(1, 2)}
    found = initialize.layers(network, catalog.get("lenet5").preprocessing)
    with pytest.raises(NetweightError, match=r"^f\.pth is of another architecture: features\.c3\.weight, here \(16, 6"):
        initialize.take_all_but_head(network, found, tensors, "f.pth")

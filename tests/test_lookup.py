"""models/lookup.py: a network by its name, from the catalogue, torchvision or the user."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import models.torchvision_on_cpu  # noqa: F401
import netweight
from models import build, catalog, lookup, records
from models.spec import Architecture, NetweightError

# isort: split
import torchvision


def refusal(name: str, builder: str | None = None, options: Mapping[str, object] | None = None) -> str:
    """Return the message that looking a network up ends with: one line."""
    with pytest.raises(NetweightError) as caught:
        lookup.find(name, builder, options or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write builders of a user into the working directory."""
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def grey(num_classes=7, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 5), nn.Flatten(), nn.Linear(width * 24 * 24, num_classes))\n"
        "def words(num_classes=5):\n"
        "    return nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, num_classes))\n"
        "def broken(num_classes):\n"
        "    raise RuntimeError('no weights\\nin two lines')\n"
        "def text(num_classes):\n"
        "    return 'not a module'\n"
        "def counted():\n"
        "    return nn.Identity()\n"
        "anything = dict\n"
        "number = 3\n"
    )
    (tmp_path / "own_broken.py").write_text("raise OSError('the disk\\nis gone')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_nets", "own_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["lenet5", "vgg16", "googlenet"])
def test_catalogue_comes_first(name: str) -> None:
    """A network of the catalogue is its very record."""
    assert lookup.find(name) is catalog.get(name)


def test_unknown_network_names_the_closest() -> None:
    """A name that nobody knows is answered as the catalogue does."""
    assert refusal("vgg-17").startswith("unknown network 'vgg-17' (did you mean vgg1")


def test_every_network_of_torchvision_is_known() -> None:
    """What `find` knows of torchvision by name is all that torchvision classifies with."""
    assert list(records.torchvision_names()) == torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize("name", ["efficientnet_b0", "shufflenet_v2_x0_5", "vit_b_32", "regnet_y_400mf"])
def test_other_networks_of_torchvision(name: str) -> None:
    """Any other network of torchvision gets a record whose measured facts are those of torchvision's weight record."""
    architecture = lookup.find(name)
    record = torchvision.models.get_model_weights(name).DEFAULT
    assert (architecture.name, architecture.family, architecture.year) == (name, "torchvision", None)
    assert architecture.parameters == record.meta["num_params"]
    assert architecture.multiply_accumulates / 1e9 == pytest.approx(record.meta["_ops"], abs=0.0006)
    assert architecture.preprocessing.height == record.transforms().crop_size[0]
    assert architecture.preprocessing.interpolation == record.transforms().interpolation.value
    figures = record.meta["_metrics"]["ImageNet-1K"]
    assert figures["acc@1"] in [each.top1_percent for each in architecture.published]
    assert build.on_meta(architecture, 3)(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 3)


def test_options_are_counted_and_kept() -> None:
    """With options a network of the catalogue is another: counted anew, without published figures, with its options."""
    half = lookup.find("mobilenet_v2", options={"width_mult": 0.5})
    full = catalog.get("mobilenet_v2")
    assert half.options == (("width_mult", 0.5),)
    assert half.published == ()
    assert half.parameters < full.parameters
    assert half.multiply_accumulates < full.multiply_accumulates
    assert half.small_image_edits == full.small_image_edits


def test_options_are_added_to_those_of_the_record() -> None:
    """GoogLeNet with an option keeps the options and heads of its record; what is deployed is counted."""
    architecture = lookup.find("googlenet", options={"dropout": 0.5})
    assert dict(architecture.options) == {**dict(catalog.get("googlenet").options), "dropout": 0.5}
    assert architecture.parameters == catalog.get("googlenet").parameters


def test_builder_of_ours_with_options() -> None:
    """The quarter-width VGG of the folklore table is a builder and an option."""
    architecture = lookup.find("quarter", "models.nets.vgg:vgg16", {"width": 0.25})
    assert (architecture.name, architecture.family, architecture.classes) == ("quarter", "own", 1000)
    network = build.on_meta(architecture, 10, small_images=True)
    assert network.get_submodule("classifier.0").weight.shape == (1024, 128 * 7 * 7)


@pytest.mark.usefixtures("own")
def test_own_builder() -> None:
    """A user's builder in the working directory: classes from its default, channels and size from what it takes."""
    architecture = lookup.find("mine", "own_nets:grey", {"width": 2})
    taken = architecture.preprocessing
    assert (taken.height, taken.width, taken.channels, taken.mean) == (28, 28, 1, (0.0,))
    assert architecture.classes == 7
    assert architecture.parameters == 2 * 25 + 2 + 2 * 24 * 24 * 7 + 7
    assert architecture.multiply_accumulates == 2 * 25 * 24 * 24 + 2 * 24 * 24 * 7
    assert build.build(architecture, 4)(torch.zeros(1, 1, 28, 28)).shape == (1, 4)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("own_nets.grey", "a builder is package.module:function, got 'own_nets.grey'"),
        (":grey", "a builder is package.module:function, got ':grey'"),
        ("nowhere.nets:grey", "the builder's module nowhere.nets cannot be imported: No module named 'nowhere'"),
        ("own_broken:grey", "the builder's module own_broken cannot be imported: the disk; mend it"),
        ("own_nets:gray", "the builder own_nets:gray cannot be called: no such function in own_nets"),
        ("own_nets:number", "the builder own_nets:number cannot be called: number is a int, not a function"),
        (
            "own_nets:counted",
            "the builder own_nets:counted does not take num_classes as they were given: counted() got",
        ),
        ("own_nets:broken", "the builder own_nets:broken failed: no weights"),
        ("own_nets:text", "the builder own_nets:text must return a torch.nn.Module, it returned a str"),
        ("own_nets:anything", "the builder own_nets:anything must return a torch.nn.Module, it returned a dict"),
        ("own_nets:words", "mine takes no image of 28x28x3: "),
    ],
)
def test_builder_that_builds_nothing(builder: str, message: str) -> None:
    """A builder that cannot be had, called or used is refused in one line that says which and why."""
    assert refusal("mine", builder).startswith(message)


@pytest.mark.usefixtures("own")
def test_models_show_takes_a_builder() -> None:
    """`netweight models show` looks a network up: the user's own with its options, a network with heads, any other."""
    arguments = ["models", "show", "mine", "--builder", "own_nets:grey", "--builder-option", "width=3", "--json"]
    (page,) = json.loads(CliRunner().invoke(netweight.main, arguments).stdout)
    assert page["options"] == [["width", 3]]
    assert page["parameters"] == 3 * 25 + 3 + 3 * 24 * 24 * 7 + 7
    page = CliRunner().invoke(netweight.main, ["models", "show", "mine", "--builder", "own_nets:grey"]).stdout
    assert page.startswith("mine (own)\n")
    assert "\nheads          aux1, aux2 " in CliRunner().invoke(netweight.main, ["models", "show", "googlenet"]).stdout


def test_option_that_the_builder_does_not_take() -> None:
    """An option that a builder does not know is refused with the builder's own words."""
    message = refusal("vgg16", options={"depth": 3})
    assert message.startswith(
        "the builder torchvision.models:vgg16 does not take num_classes, depth as they were given"
    )
    assert "unexpected keyword argument 'depth'" in message


def test_looking_up_the_catalogue_imports_no_torch() -> None:
    """A network of the catalogue is found without torch, so that commands answer at once."""
    code = "import sys; from models import lookup; lookup.find('vgg16'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_records_made_on_the_fly_are_plain_records() -> None:
    """Such a record is one like those of the catalogue, and compares as one: the same name gives the same record."""
    first, again = (lookup.find("shufflenet_v2_x0_5") for _ in range(2))
    assert isinstance(first, Architecture)
    assert first == again

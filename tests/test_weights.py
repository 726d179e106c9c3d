"""models.weights: the words of the command line, checkpoint files, torchvision's published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from models import catalog, checkpoint
from models.build import build
from models.spec import NetweightError, Weights
from models.weights import CHECKPOINT_FORMAT, parse, read

if TYPE_CHECKING:
    from pathlib import Path

LENET5 = catalog.get("lenet5")


def netweight_checkpoint(**changes: Any) -> dict[str, Any]:
    """Return what a training run of LeNet-5 writes, with changes."""
    return {
        "format": CHECKPOINT_FORMAT,
        "architecture": "lenet5",
        "classes": 3,
        "class_names": ["zero", "one", "two"],
        "preprocessing": {**LENET5.preprocessing.to_dict(), "mean": (0.3,), "std": (0.4,)},
        "adaptation": None,
        "data": "digits",
        "accuracy": {"data": "digits", "split": "held-out", "images": 360, "top1": 0.98},
        "state_dict": build(LENET5, 3).state_dict(),
        **changes,
    }


def saved(content: Any, path: Path) -> Weights:
    torch.save(content, path)
    return parse(str(path))


def refusal(weights: Weights, architecture: str = "lenet5") -> str:
    """Return the message that reading ends with: one line."""
    with pytest.raises(NetweightError) as caught:
        read(weights, catalog.get(architecture))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "kind", "source"),
    [
        ("random", "random", "seed 0"),
        ("random:7", "random", "seed 7"),
        ("runs/lenet5/best.pt", "checkpoint", "runs/lenet5/best.pt"),
        ("vgg16-397923af.pth", "checkpoint", "vgg16-397923af.pth"),
        ("IMAGENET1K_V1", "published", "IMAGENET1K_V1"),
        ("DEFAULT", "published", "DEFAULT"),
    ],
)
def test_words_name_one_of_three_kinds(text: str, kind: str, source: str) -> None:
    """Each way to name weights is told apart by its look."""
    assert parse(text) == Weights(kind, source)  # type: ignore[arg-type]


def test_seed_is_a_number() -> None:
    """A seed that is no number is refused with what was expected."""
    with pytest.raises(NetweightError, match="random:SEED"):
        parse("random:lucky")


def test_format_is_the_one_that_training_writes() -> None:
    """Stage 2 reads what stage 1 writes."""
    assert checkpoint.FORMAT == CHECKPOINT_FORMAT


def test_checkpoint_brings_all_that_the_network_needs(tmp_path: Path) -> None:
    """Class names, preprocessing and accuracy come out of a training run's checkpoint, beside its SHA-256 and bytes."""
    weights = saved(netweight_checkpoint(), tmp_path / "best.pt")
    state = read(weights, LENET5)
    assert state.class_names == ("zero", "one", "two")
    assert state.preprocessing is not None
    assert (state.preprocessing.mean, state.preprocessing.std) == ((0.3,), (0.4,))
    assert state.accuracy is not None
    assert state.accuracy["top1"] == 0.98
    assert state.weights.bytes == (tmp_path / "best.pt").stat().st_size
    assert len(state.weights.sha256 or "") == 64
    assert state.weights.trained


def test_source_on_the_card_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    """Of a checkpoint's path only the file and its directory are kept."""
    state = read(saved(netweight_checkpoint(), tmp_path / "best.pt"), LENET5)
    assert state.weights.source == f"{tmp_path.name}/best.pt"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_state_dict_tells_its_classes(tmp_path: Path, zipped: bool) -> None:
    """A state dict, in torch's present or former format, tells the class count by its last layer."""
    path = tmp_path / "plain.pth"
    torch.save(build(LENET5, 7).state_dict(), path, _use_new_zipfile_serialization=zipped)
    state = read(parse(str(path)), LENET5)
    assert state.classes == 7
    assert state.class_names is None


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path to nothing is said to be one."""
    assert f"no checkpoint at {tmp_path}/none.pt" in refusal(parse(f"{tmp_path}/none.pt"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x80\x02K\x01."])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    """An empty file, a text, a broken archive and a pickle of something else are refused in one line."""
    (tmp_path / "it.pt").write_bytes(content)
    assert f"{tmp_path}/it.pt is not a checkpoint" in refusal(parse(f"{tmp_path}/it.pt"))


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    """A checkpoint that was cut off while it was copied is not read."""
    path = tmp_path / "best.pt"
    saved(netweight_checkpoint(), path)
    path.write_bytes(path.read_bytes()[:100_000])
    assert "is not a checkpoint" in refusal(parse(str(path)))


def test_other_dictionaries_are_no_checkpoints(tmp_path: Path) -> None:
    """A file of another program's training state is refused, naming what it holds instead."""
    message = refusal(saved({"epoch": 3, "state_dict": {}, "optimizer": {}}, tmp_path / "last.pt"))
    assert "best.pt" in message
    assert "epoch, state_dict, optimizer" in message


def test_checkpoint_of_another_network_names_both(tmp_path: Path) -> None:
    """A checkpoint says whose it is, and the message how to export it."""
    message = refusal(saved(netweight_checkpoint(architecture="vgg11"), tmp_path / "best.pt"))
    assert "is a checkpoint of vgg11, not of lenet5: export it as vgg11" in message


def test_unknown_published_weights_list_those_that_exist() -> None:
    """A misspelt name is answered with torchvision's names."""
    message = refusal(parse("IMAGENET1K_V9"), "resnet50")
    assert "torchvision publishes DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2" in message


def test_networks_that_torchvision_has_not_have_no_published_weights() -> None:
    """LeNet-5 has none, and the message says what to give instead."""
    assert "torchvision publishes none for it" in refusal(parse("IMAGENET1K_V1"))


def test_without_a_network_the_message_tells_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails names the file, where it would be looked for, and the reason."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # the discard port: nothing listens
    message = refusal(parse("IMAGENET1K_V1"), "mobilenet_v2")
    assert "cannot get mobilenet_v2's published weights IMAGENET1K_V1 from http" in message
    assert f"put it at {tmp_path}/hub/checkpoints/mobilenet_v2-" in message


def test_published_weights_come_out_of_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in torch's cache is used without a network, with the names and the preprocessing that belong to it."""
    from torchvision.models import MobileNet_V2_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    mobilenet = catalog.get("mobilenet_v2")
    address = MobileNet_V2_Weights.IMAGENET1K_V2.url
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(build(mobilenet, 1000).state_dict(), cache / address.rpartition("/")[2])
    state = read(parse("DEFAULT"), mobilenet)
    assert state.weights.source == "torchvision IMAGENET1K_V2"
    assert state.class_names is not None
    assert (len(state.class_names), state.class_names[0]) == (1000, "tench")
    assert state.preprocessing is not None
    assert (state.preprocessing.height, state.preprocessing.resize) == (224, 232)
    assert state.preprocessing.interpolation == "bilinear"
    assert state.published is not None
    assert [(each.top1_percent, each.source) for each in state.published] == [(72.154, "torchvision IMAGENET1K_V2")]

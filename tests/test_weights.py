"""models.weights: the words of the command line, checkpoint files, torchvision's published weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from models import catalog, checkpoint, lookup, published_weights
from models.build import build
from models.spec import Architecture, NetweightError, Weights
from models.state_dict import WRAPPERS
from models.weights import CHECKPOINT_FORMAT, parse, read, rebuilt

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
    """A checkpoint says whose it is, and the message what to ask for, whether it is exported or trained on."""
    message = refusal(saved(netweight_checkpoint(architecture="vgg11"), tmp_path / "best.pt"))
    assert "is a checkpoint of vgg11, not of lenet5: ask for vgg11" in message


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


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address that a real HTTP server serves it at."""
    directory = tmp_path / "site"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SQUEEZENET = "squeezenet1_1"


def published_at(site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, digits: str | None = None) -> str:
    """Publish SqueezeNet's weights at the address in torchvision's record; return the file's name.

    It states the first digits of the file's SHA-256, or those given.
    """
    from torchvision.models import SqueezeNet1_1_Weights

    directory, address = site
    torch.save(build(catalog.get(SQUEEZENET), 1000).state_dict(), directory / "made.pth")
    name = f"{SQUEEZENET}-{digits or hashlib.sha256((directory / 'made.pth').read_bytes()).hexdigest()[:8]}.pth"
    (directory / "made.pth").rename(directory / name)
    monkeypatch.setattr(SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", f"{address}/{name}")
    monkeypatch.setenv("TORCH_HOME", str(directory.parent / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return name


def test_published_weights_are_fetched_once(site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes has the hash in its name and is kept in torch's cache; the next export needs no network."""
    name = published_at(site, monkeypatch)
    for _ in ("fetched", "found"):
        state = read(parse("IMAGENET1K_V1"), catalog.get(SQUEEZENET))
        assert state.weights.sha256 is not None
        assert f"-{state.weights.sha256[:8]}." in name
        assert (state.notes, state.classes) == ((), 1000)
        (site[0] / name).unlink(missing_ok=True)
    assert [each.name for each in (site[0].parent / "torch" / "hub" / "checkpoints").iterdir()] == [name]


def test_published_weights_of_another_hash_are_not_kept(
    site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose SHA-256 is not the one in its name is refused in one line, and nothing of it stays in the cache."""
    published_at(site, monkeypatch, digits="0123abcd")
    message = refusal(parse("IMAGENET1K_V1"), SQUEEZENET)
    assert 'invalid hash value (expected "0123abcd"' in message
    assert not list((site[0].parent / "torch" / "hub" / "checkpoints").iterdir())


def drawn(architecture: Architecture, classes: int = 1000, *, deployed: bool = False) -> dict[str, torch.Tensor]:
    """Return a state dict of the right names and shapes, drawn at once: builders' own initialisation takes seconds."""
    with torch.device("meta"):
        shapes = build(architecture, classes, deployed=deployed).state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, meta in shapes.items():
        one = name.endswith((".weight", "running_var")) and meta.dim() == 1
        tensors[name] = torch.full(meta.shape, int(one), dtype=meta.dtype)
        if meta.dim() > 1:
            tensors[name].normal_(0, (2 / meta[0].numel()) ** 0.5, generator=generator)
    return tensors


def cached(record: Any, architecture: Architecture, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put weights of the right shapes into torch's cache, under the name of a record's file."""
    monkeypatch.setenv("TORCH_HOME", str(home))
    path = home / "hub" / "checkpoints" / str(record.url).rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(drawn(architecture), path)
    return path


def test_a_cached_file_of_another_hash_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes what lies in its cache as it is; that it is not what was published is said."""
    from torchvision.models import SqueezeNet1_1_Weights

    path = cached(SqueezeNet1_1_Weights.DEFAULT, catalog.get(SQUEEZENET), tmp_path, monkeypatch)
    (note,) = read(parse("DEFAULT"), catalog.get(SQUEEZENET)).notes
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert f"begins with {digits}, expected b8a52dc0" in note


def test_a_cut_off_file_in_the_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken file in torch's cache is named."""
    from torchvision.models import SqueezeNet1_1_Weights

    path = cached(SqueezeNet1_1_Weights.DEFAULT, catalog.get(SQUEEZENET), tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:10_000])
    assert f"{path} is not a checkpoint" in refusal(parse("DEFAULT"), SQUEEZENET)


def test_a_published_file_is_recognised(site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that torchvision publishes, given by its path, brings names, preprocessing and accuracy as well."""
    path = site[0] / published_at(site, monkeypatch)
    state = read(parse(str(path)), catalog.get(SQUEEZENET))
    assert (state.weights.kind, state.weights.source) == ("published", "torchvision IMAGENET1K_V1")
    assert (state.class_names or ())[:2] == ("tench", "goldfish")
    changed = path.with_name(f"{SQUEEZENET}-0123abcd.pth")
    path.rename(changed)
    assert read(parse(str(changed)), catalog.get(SQUEEZENET)).weights.kind == "checkpoint"


def records() -> list[Any]:
    """Return all of torchvision's published weights for classification."""
    from torchvision import models as zoo

    return [record for name in zoo.list_models(module=zoo) for record in zoo.get_model_weights(name)]


def test_every_record_of_torchvision_is_read_as_it_states() -> None:
    """Size, crop, interpolation, mean and deviation, class names and accuracy are the record's, for each of over 100.

    GoogLeNet's and Inception v3's mean and deviation scale to -1..1: what torchvision's networks do inside themselves.
    """
    seen, inside = 0, {"GoogLeNet_Weights", "Inception_V3_Weights"}
    for record in records():
        if not record.meta.get("categories"):
            continue
        name = record.__class__.__name__
        builder = "googlenet" if name == "GoogLeNet_Weights" else "inception_v3" if name in inside else "other"
        facts = published_weights.facts(record, replace(LENET5, builder=f"torchvision.models:{builder}"))
        preset, ours = record.transforms(), facts.preprocessing
        assert ([ours.height, ours.width], [ours.resize]) == (preset.crop_size * 2, preset.resize_size)
        assert ours.interpolation == preset.interpolation.value
        scaled = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert (ours.mean, ours.std) == (scaled if name in inside else (tuple(preset.mean), tuple(preset.std)))
        assert list(facts.class_names) == record.meta["categories"]
        (published,) = facts.published
        assert (published.top1_percent, published.top5_percent) == tuple(
            record.meta["_metrics"]["ImageNet-1K"].values()
        )
        assert published.source == f"torchvision {record.name}"
        seen += 1
    assert seen > 100


def test_features_without_a_classifier_are_refused() -> None:
    """Weights that torchvision publishes for other tasks are told apart, and the others are named."""
    message = refusal(parse("IMAGENET1K_FEATURES"), "vgg16")
    assert "without a classifier" in message
    assert message.endswith("give --weights IMAGENET1K_V1, DEFAULT")


def test_any_other_network_of_torchvision_has_its_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is not in the catalogue is found by name, its weights in torch's cache."""
    from torchvision.models import MNASNet0_5_Weights

    network = lookup.find("mnasnet0_5")
    cached(MNASNet0_5_Weights.DEFAULT, network, tmp_path, monkeypatch)
    state = read(parse("IMAGENET1K_V1"), network)
    assert [each.top1_percent for each in state.published or ()] == [67.734]


@pytest.mark.parametrize("key", WRAPPERS)
def test_state_dicts_are_unwrapped(tmp_path: Path, key: str) -> None:
    """Training programs keep the weights under one key of several, beside the optimizer's state."""
    content = {"epoch": 3, key: build(LENET5, 7).state_dict(), "optimizer": {"lr": 0.1}}
    state = read(saved(content, tmp_path / "last.pt"), LENET5)
    assert (state.classes, state.notes) == (7, ())


@pytest.mark.parametrize("prefix", ["module.", "network.", "model.module.", "_orig_mod."])
def test_a_prefix_that_hides_the_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    """DataParallel, Lightning and torch.compile put one before each name; what lies outside it is told."""
    own = build(LENET5, 7).state_dict()
    tensors = {"loss.weight": torch.ones(7), **{f"{prefix}{name}": tensor for name, tensor in own.items()}}
    state = read(saved(tensors, tmp_path / "it.pth"), LENET5)
    assert set(state.tensors or {}) == set(own)
    assert state.classes == 7
    assert state.notes == (
        f"the prefix {prefix} was taken off the weights' names; 1 tensors outside it were left out (the first: loss.weight)",
    )


def test_two_networks_in_one_checkpoint_are_refused(tmp_path: Path) -> None:
    """A network beside its moving average: which one is meant, a person must say."""
    own = build(LENET5, 10).state_dict()
    tensors = {f"{prefix}{name}": tensor for prefix in ("model.", "ema.") for name, tensor in own.items()}
    assert "2 times, under ema. and model." in refusal(saved(tensors, tmp_path / "it.pth"))


def test_a_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    """What Lightning's trainer writes of a module that holds the network."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = build(LENET5, 4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
        module = Module()
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    state = read(parse(str(tmp_path / "theirs.ckpt")), LENET5)
    assert "pytorch-lightning_version" in torch.load(tmp_path / "theirs.ckpt", weights_only=True)
    assert state.classes == 4
    assert state.notes == ("the prefix network. was taken off the weights' names",)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal((state.tensors or {})[name], tensor)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    """An archive that holds a program is named as one, and the message says what to save instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        torch.jit.trace(  # type: ignore[no-untyped-call]
            build(LENET5, 10).eval(), torch.zeros(1, 1, 32, 32)
        ).save(str(tmp_path / "it.pt"))
    message = refusal(parse(str(tmp_path / "it.pt")))
    assert "is a TorchScript archive" in message
    assert "torch.save(module.state_dict(), path)" in message


def test_a_pickled_module_is_refused_without_running_it(tmp_path: Path) -> None:
    """A whole module is code; only tensors and plain values are unpickled."""
    message = refusal(saved(nn.Linear(2, 2), tmp_path / "module.pt"))
    assert "is not a checkpoint" in message
    assert "torch.save(module.state_dict(), path)" in message


def test_the_checkpoint_brings_the_builders_options(tmp_path: Path) -> None:
    """A network that was trained with an option of its builder is rebuilt with it, and nothing was published of that."""
    network = catalog.get("mobilenet_v2")
    content = netweight_checkpoint(
        architecture="mobilenet_v2",
        builder=network.builder,
        options={"width_mult": 0.25},
        preprocessing=network.preprocessing.to_dict(),
        state_dict={},
    )
    state = read(saved(content, tmp_path / "best.pt"), network)
    assert dict(rebuilt(network, state).options) == {"width_mult": 0.25}
    assert rebuilt(network, state).published == ()
    other = replace(network, options=(("width_mult", 0.5),))
    with pytest.raises(NetweightError, match=r"trained with the builder's option width_mult=0\.25, asked for was 0\.5"):
        read(parse(str(tmp_path / "best.pt")), other)


def test_a_checkpoint_does_not_choose_what_is_run(tmp_path: Path) -> None:
    """A builder in a checkpoint is not called unless the command line names it too."""
    content = netweight_checkpoint(builder="os:system", options={})
    message = refusal(saved(content, tmp_path / "best.pt"))
    assert "was trained with the builder os:system, not with models.nets.lenet5:lenet5: give --builder" in message

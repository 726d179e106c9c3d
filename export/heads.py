"""A network with a lighter head: made from trained weights, kept as a checkpoint of its own, exported like any other."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from export import heldout, reuse
from export.build import Built, build
from export.convert import OPSET
from export.pipeline import Exported, check_variants
from export.pipeline import export as export_network
from export.publish import Publication, Signature, check
from models import data, heads
from models.atomic import replacing
from models.spec import NetweightError, Weights
from models.weights import CHECKPOINT_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from models.data import DataSet
    from models.finetune import Tuned
    from models.heads import Head
    from models.spec import Architecture

    Report = Callable[[str], None]

POOL_EPOCHS = 4
"""Of fine-tuning, where none are asked for: pooling brings a layer that knows nothing. Its features were trained."""

BEST = "best.pt"

_UNFINISHED = "unfinished"
"""Where fine-tuning works, below the head's directory."""


@dataclass(frozen=True)
class Asked:
    """Which head is wanted; equal ones made from the same weights are made once."""

    kind: heads.Kind
    energy: float | None = None
    """Of svd: the share of the squared singular values to keep in each layer, 0..1."""
    rank: int | None = None
    """Of svd: how many singular values to keep in each layer."""
    epochs: int | None = None
    """Of fine-tuning; None: `POOL_EPOCHS` for pool with trained weights, else none."""
    data: str | None = None
    """To fine-tune on; None: what the weights were trained on."""
    seed: int = 0
    """Of the new layer and of fine-tuning."""

    @property
    def label(self) -> str:
        """Return a name for it that tells it from others."""
        if self.kind == "pool":
            return "pool"
        return f"svd-rank{self.rank}" if self.energy is None else f"svd-energy{self.energy:g}"


def asked(kind: heads.Kind | None, given: Mapping[str, Any]) -> Asked | None:
    """Read the command line's options of a head: energy, rank, head_epochs, head_data; None: none is wanted.

    Raises:
        NetweightError: they do not go together.
    """
    if kind is None:
        for name in (name for name, value in given.items() if value is not None):
            raise NetweightError(
                f"--{name.replace('_', '-')} is for a lighter head: add --head svd or --head pool, or leave it out"
            )
        return None
    heads.check(kind, energy=given["energy"], rank=given["rank"])
    return Asked(kind, given["energy"], given["rank"], given["head_epochs"], given["head_data"])


def export(
    architecture: Architecture,
    weights: Weights,
    repository: Path,
    *,
    asked: Asked,
    name: str | None = None,
    classes: int | None = None,
    report: Report = lambda _line: None,
    **options: Any,
) -> Exported:
    """Publish a network with a lighter head as NAME.KIND, its variants as NAME.KIND.VARIANT; and NAME, if it is missing.

    Args:
        architecture: The network's record.
        weights: Of the network as it is.
        repository: The model repository's directory.
        asked: Which head.
        name: The model's, without the head's; None: the architecture's.
        classes: With random weights.
        report: Told each step.
        options: Further ones of `export.pipeline.Options`; the network as it is gets no variants.

    Raises:
        NetweightError: the head or the data do not fit the network; nothing was published then.
    """
    check_variants(options.get("variants", ()))
    built = build(architecture, weights, classes=classes, input=options.get("input", "uint8"))
    _check(built, asked)
    check(
        repository,
        f"{name or architecture.name}.{asked.kind}",
        Signature(built.input, built.image_shape, len(built.class_names)),
    )
    checkpoint = _made(built, weights, asked, report)
    full = {key: each for key, each in options.items() if key not in {"variants", "calibration", "fresh"}}
    original = _original(built, weights, repository, {"name": name, "classes": classes, **full}, report)
    lighter = Weights("checkpoint", str(checkpoint))
    if options.get("heldout") is None:
        options["heldout"] = heldout.find(weights, None)
    return export_network(
        architecture,
        lighter,
        repository,
        name=f"{original.name}.{asked.kind}",
        reference=original,
        report=report,
        **options,
    )


def _check(built: Built, asked: Asked) -> None:
    """Refuse what cannot come to a trained network, before the work."""
    name, trained, epochs = built.architecture.name, built.weights.trained, _epochs(built, asked)
    if built.head:
        raise NetweightError(
            f"{built.weights.source} has a {built.head['kind']} head already: give the original's weights"
        )
    if epochs and not trained:
        raise NetweightError(
            f"{name} with random weights has no features to fine-tune on: train it first, or leave out --head-epochs"
        )
    if asked.kind == "pool" and trained and not epochs:
        raise NetweightError("--head pool brings an untrained layer: give at least --head-epochs 1")
    if epochs and not (asked.data or built.data):
        raise NetweightError(
            f"{built.weights.source} does not say what {name} was trained on, which fine-tuning needs: give --head-data, "
            "or weights that `netweight train` made"
        )


def _epochs(built: Built, asked: Asked) -> int:
    """Return how many epochs of fine-tuning there are to be."""
    if asked.epochs is not None:
        return asked.epochs
    return POOL_EPOCHS if asked.kind == "pool" and built.weights.trained else 0


def _original(built: Built, weights: Weights, repository: Path, options: dict[str, Any], report: Report) -> Publication:
    """Return the network as it is, in the repository: the newest version if it is of these weights, else a new one."""
    name = options["name"] or built.architecture.name
    opset = options.get("opset", OPSET)
    same = build(built.architecture, weights, classes=options["classes"], input=options.get("input", "uint8"))
    there = reuse.find(repository, name, same, opset)
    if there:
        report(f"{name}: version {there.version} is of these weights and is what the lighter one is held against")
        return there
    made = export_network(built.architecture, weights, repository, report=report, **options).fp32
    report(f"published {made.path}")
    return made


def _made(built: Built, weights: Weights, asked: Asked, report: Report) -> Path:
    """Return the checkpoint of the network with this head: the one that stands there, or a new one."""
    directory = _directory(built, weights, asked)
    best = directory / BEST
    wanted = {**asdict(asked), "epochs": _epochs(built, asked)}
    if _stands(best, built, wanted):
        report(f"{built.architecture.name}: the {asked.label} head was made before, {best}")
        return best
    content = _make(built, asked, directory, report)
    content["head"]["asked"] = wanted
    directory.mkdir(parents=True, exist_ok=True)
    beside = heldout.find(weights, None)
    if beside:
        shutil.copyfile(beside, directory / beside.name)
    with replacing(best) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return best


def _directory(built: Built, weights: Weights, asked: Asked) -> Path:
    """Return where a head's checkpoint is kept: beside the run that it was made from, if there is one."""
    if weights.kind == "checkpoint":
        return Path(weights.source).with_name(f"head-{asked.label}")
    return Path("out/heads") / f"{built.architecture.name}-{asked.label}"


def _stands(best: Path, built: Built, wanted: dict[str, Any]) -> bool:
    """Whether a checkpoint is of this very head, made from these very weights."""
    if not best.is_file():
        return False
    try:
        content = torch.load(best, weights_only=True, mmap=True)
        head, architecture = content["head"], content["architecture"]
    except Exception:  # noqa: BLE001 - broken in whatever way, it is made anew
        return False
    return bool((architecture, head["asked"], head["origin"]) == (built.architecture.name, wanted, _origin(built)))


def _origin(built: Built) -> dict[str, Any]:
    """Return which weights a head was made from."""
    return {"kind": built.weights.kind, "source": built.weights.source, "sha256": built.weights.sha256}


def _make(built: Built, asked: Asked, directory: Path, report: Report) -> dict[str, Any]:
    """Change the network, fine-tune it, and return what its checkpoint holds."""
    network, name = built.module.network, built.architecture.name
    before = _size(network)
    report(f"{name}: {asked.label} head ...")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        if asked.kind == "pool":
            head = heads.pool(network, name)
        else:
            head = heads.svd(network, name, energy=asked.energy, rank=asked.rank)
    after = _size(network)
    report(f"  {_said(head)}: {before['parameters']:,} parameters become {after['parameters']:,}")
    epochs = _epochs(built, asked)
    tuned = _finetune(built, asked, epochs, directory / _UNFINISHED, report) if epochs else None
    facts = {
        **head.to_dict(),
        "energy": asked.energy,
        "rank": asked.rank,
        "origin": _origin(built),
        "original_accuracy": built.accuracy,
        "parameters": {"before": before["parameters"], "after": after["parameters"]},
        "bytes": {"before": before["bytes"], "after": after["bytes"]},
        "fine_tuning": tuned.facts if tuned else None,
    }
    return {**(tuned.content if tuned else _content(built)), "head": facts}


def _finetune(built: Built, asked: Asked, epochs: int, directory: Path, report: Report) -> Tuned:
    """Let the network learn on its data."""
    try:
        from models import finetune
    except ImportError as error:
        raise NetweightError(f"fine-tuning needs {error.name}: install netweight with the extra [train]") from error
    images = _images(built, asked, report)
    return finetune.finetune(
        built.architecture,
        built.module.network,
        images,
        finetune.Plan.of(epochs, new_head=asked.kind == "pool"),
        adaptation=built.adaptation,
        seed=asked.seed,
        directory=directory,
        report=report,
    )


def _images(built: Built, asked: Asked, report: Report) -> DataSet:
    """Load the data as the network takes it, normalised as it was trained.

    Raises:
        NetweightError: it has other classes.
    """
    own = built.preprocessing
    loaded = data.load(asked.data or built.data or "", own.channels, size=own.height, like=own, report=report)
    if loaded.class_names != built.class_names:
        raise NetweightError(
            f"{loaded.name} has {len(loaded.class_names)} classes ({_few(loaded.class_names)}), {built.weights.source} "
            f"{len(built.class_names)} ({_few(built.class_names)}): give the data that it was trained on to --head-data"
        )
    return data.normalised_as(loaded, own)


def _content(built: Built) -> dict[str, Any]:
    """Return what the checkpoint of a network that was not fine-tuned holds; its accuracy is known once exported."""
    return {
        "format": CHECKPOINT_FORMAT,
        "architecture": built.architecture.name,
        "builder": built.architecture.builder,
        "options": dict(built.architecture.options),
        "classes": len(built.class_names),
        "class_names": list(built.class_names),
        "preprocessing": built.preprocessing.to_dict(),
        "adaptation": built.adaptation,
        "data": built.data,
        "accuracy": None,
        "state_dict": {key: tensor.contiguous() for key, tensor in built.module.network.state_dict().items()},
    }


def _size(network: nn.Module) -> dict[str, int]:
    """Return a network's parameters, and the bytes of its state dict."""
    return {
        "parameters": heads.parameters(network),
        "bytes": sum(tensor.nbytes for tensor in network.state_dict().values()),
    }


def _said(head: Head) -> str:
    """Say what became of the layers."""
    if head.kind == "pool":
        return f"pooling and one layer instead of {len(head.layers)}"
    return ", ".join(
        f"{each.name} {'kept' if each.rank is None else f'rank {each.rank} ({each.energy:.1%} of the energy)'}"
        for each in head.layers
    )


def _few(names: tuple[str, ...]) -> str:
    """Name the first few."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

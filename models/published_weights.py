"""torchvision's published weights: found by name, fetched once, described by torchvision's own record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import models.torchvision_on_cpu  # noqa: F401 - before torchvision, which is imported below when it is needed
from models.spec import NetweightError, Preprocessing, Published

if TYPE_CHECKING:
    from models.spec import Architecture

_TORCHVISION = "torchvision."

_TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Networks whose published weights were trained on pixels scaled to -1..1 (TensorFlow's). torchvision's builders turn
its usual normalisation into that inside the network (``transform_input=True``); here the preprocessing does it at once."""

_SCALED_TO_ONE = (0.5, 0.5, 0.5)
"""Mean and deviation that make -1..1 of 0..1."""


@dataclass(frozen=True)
class Facts:
    """What torchvision's record says of its weights."""

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    published: tuple[Published, ...]


def record(name: str, architecture: Architecture) -> Any:
    """Find torchvision's record of published weights by its name; ``DEFAULT`` is the best that there is.

    Raises:
        NetweightError: torchvision publishes none for this network, or none of this name, or features only.
    """
    records = {} if (found := _records(architecture)) is None else dict(found.__members__)
    if not records:
        raise NetweightError(
            f"no weights {name!r} for {architecture.name}: torchvision publishes none for it and no such file exists; give "
            "--weights a checkpoint or `random`"
        )
    if name not in records:
        there = ", ".join(sorted({*records, "DEFAULT"}))
        raise NetweightError(
            f"no weights {name!r} for {architecture.name}: no such file exists, and torchvision publishes {there}"
        )
    if not records[name].meta.get("categories"):
        raise NetweightError(
            f"{architecture.name}'s weights {name} are features for other tasks, without a classifier: expected weights "
            f"with classes; give --weights {', '.join(each for each in records if records[each].meta.get('categories'))}"
        )
    return records[name]


def of_file(path: Path, sha256: str, architecture: Architecture) -> Any:
    """Return the record whose file this is, by its name and the digits of its SHA-256 in it; None: it is another's."""
    for each in _records(architecture) or ():
        name = _file_name(each)
        if path.name == name and each.meta.get("categories") and sha256.startswith(_digits(name)):
            return each
    return None


def fetch(record: Any, architecture: Architecture) -> Path:
    """Return the file of published weights in torch's cache; torch fetches it where it is missing, and checks its hash.

    Raises:
        NetweightError: it cannot be fetched, or what came is not what torchvision published; nothing is kept then.
    """
    address = str(record.url)
    file = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(record)
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file), _digits(file.name))
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise NetweightError(
            f"cannot get {architecture.name}'s published weights {record.name} from {address}: {reason}; mend the network, "
            f"or fetch the file elsewhere and put it at {file}, or give its path to --weights"
        ) from error
    return file


def doubts(record: Any, sha256: str) -> tuple[str, ...]:
    """Say where a file in torch's cache is not the one that was published; torch itself checks only what it fetches."""
    digits = _digits(_file_name(record))
    if sha256.startswith(digits):
        return ()
    begins = f"its SHA-256 begins with {sha256[:8]}, expected {digits}"
    return (
        f"the file in torch's cache is not the one that torchvision published: {begins}; delete it to fetch it again",
    )


def facts(record: Any, architecture: Architecture) -> Facts:
    """Return class names, preprocessing and published accuracy, as torchvision's record states them."""
    crop = record.transforms()
    (size,) = crop.crop_size
    scaled = architecture.builder.partition(":")[2] in _TRANSFORM_INPUT and not dict(architecture.options).get(
        "transform_input"
    )
    return Facts(
        class_names=tuple(record.meta["categories"]),
        preprocessing=Preprocessing(
            height=size,
            width=size,
            channels=len(crop.mean),
            mean=_SCALED_TO_ONE if scaled else tuple(crop.mean),
            std=_SCALED_TO_ONE if scaled else tuple(crop.std),
            resize=crop.resize_size[0],
            interpolation=crop.interpolation.value,
        ),
        published=tuple(
            Published(figures["acc@1"], figures["acc@5"], data, f"torchvision {record.name}")
            for data, figures in record.meta["_metrics"].items()
        ),
    )


def _records(architecture: Architecture) -> Any:
    """Return torchvision's weights of a network, an enumeration; None where torchvision does not build it."""
    from torchvision.models import get_model_weights

    if not architecture.builder.startswith(_TORCHVISION):
        return None
    try:
        return get_model_weights(architecture.builder.partition(":")[2])
    except ValueError:
        return None


def _file_name(record: Any) -> str:
    """Return the name that torch's cache has for a record's file."""
    return str(record.url).rpartition("/")[2]


def _digits(file_name: str) -> str:
    """Return the first digits of the SHA-256 that a file's name states: ``resnet50-11ad3fa6.pth``."""
    return file_name.rpartition("-")[2].partition(".")[0]

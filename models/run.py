"""A training run on disk: what it was asked to do, how far it came, what it reached. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from models.atomic import replacing
from models.spec import NetweightError, Recipe

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "netweight-run/2"


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    directory: Path
    """Holds best.pt, run.json, history.csv, history.png and heldout.npz."""
    epochs: int
    """That were trained: fewer than the recipe's where it ended early."""
    accuracy: float
    """0..1: top-1 of the best epoch on the held-out images, or where none is held out, on the validation images."""
    seconds: float
    """Of training, over all sessions when it was cut off between."""
    parameters: int
    reused: bool
    """Whether it stood there already, so that nothing was trained."""
    split: str = "held-out"
    """What the accuracy is of; of the validation images it says that these also chose the epoch."""


@dataclass(frozen=True)
class Origin:
    """Weights that a run starts from."""

    source: str
    """A checkpoint's directory and name, or torchvision's name for published weights."""
    sha256: str | None
    """Of the checkpoint; None for published weights, whose name says which they are."""


@dataclass(frozen=True)
class Request:
    """What a run was asked to do; two runs of equal requests give equal weights on one machine."""

    network: str
    builder: str
    recipe: Recipe
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """Of the builder."""
    data: str = "digits"
    size: int | None = None
    """Pixels of an image's side; None: as the data or the network have it."""
    train_images: int | None = None
    """How many images to train on; None: all."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """What becomes of pictures that cannot be read."""
    init_from: Origin | None = None
    """A network, usually shallower, whose layers are taken where they match."""
    transfer: Origin | None = None
    """Weights of the same architecture, all taken but the head's."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON gives them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=repr))
        return plain


def best(directory: Path) -> Path:
    """Return where the weights of the best epoch stand."""
    return directory / "best.pt"


def last(directory: Path) -> Path:
    """Return where the state after the last whole epoch stands while the run is unfinished."""
    return directory / "last.ckpt"


def history(directory: Path) -> Path:
    """Return where the figures of each epoch stand."""
    return directory / "history.csv"


def plot(directory: Path) -> Path:
    """Return where the picture of those figures stands."""
    return directory / "history.png"


def epoch(directory: Path, number: int) -> Path:
    """Return where the weights of an epoch stand when all are kept."""
    return directory / f"epoch-{number:03d}.pt"


def pictures(directory: Path) -> Path:
    """Return where it stands what was found out about a folder's pictures, so that they are checked once."""
    return directory / "pictures.json"


def heldout(directory: Path) -> Path:
    """Return where the held-out images stand."""
    return directory / "heldout.npz"


def asked(directory: Path, request: Request) -> bool:
    """Return whether a run of this request stands in `directory`, finished or not.

    Raises:
        NetweightError: the directory holds a run of another request, or a run.json that cannot be read.
    """
    return _record(directory, request) is not None


def find(directory: Path, request: Request) -> Run | None:
    """Return the finished run of this request in `directory`, None where there is none or it is not finished.

    Raises:
        NetweightError: as `asked` does.
    """
    record = _record(directory, request)
    if record is None or not record["finished"] or not _whole(directory, record):
        return None
    return Run(
        directory=directory,
        epochs=record["epochs_trained"],
        accuracy=record["accuracy"]["top1"],
        seconds=record["seconds"],
        parameters=record["parameters"],
        reused=True,
        split=record["accuracy"]["split"],
    )


def write(directory: Path, request: Request, *, finished: bool, facts: dict[str, Any]) -> None:
    """Write run.json: the request, whether it is finished, and the facts beside them."""
    record = {"schema": SCHEMA, **request.to_dict(), "finished": finished, **facts}
    with replacing(directory / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _record(directory: Path, request: Request) -> dict[str, Any] | None:
    """Read run.json, None where there is none, and make sure that it is of this request."""
    record = _read(directory)
    if record is None:
        return None
    asked = request.to_dict()
    if not record.keys() >= asked.keys() or not isinstance(record["recipe"], dict):
        path = directory / "run.json"
        raise NetweightError(f"{path} does not say what was asked for: name another --output or remove it")
    differing = [name for name, value in _flat(asked).items() if _flat(record).get(name) != value]
    if differing and not best(directory).exists() and not last(directory).exists():
        return None  # it failed before its first epoch was over: there is nothing to lose
    if differing:
        if "network" in differing:
            differing = [name for name in differing if name != "builder"]  # it is another with another network
        wanted, there = (_words(_flat(each), differing) for each in (asked, record))
        raise NetweightError(
            f"{directory} holds a run with {there}, and {wanted} was asked for: name another --output or remove it"
        )
    return record


def _read(directory: Path) -> dict[str, Any] | None:
    """Read run.json, None where there is none."""
    path = directory / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as failure:
        raise NetweightError(f"{path} cannot be read ({failure}): name another --output or remove it") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise NetweightError(f"{path} is not a run of this netweight ({SCHEMA}): name another --output or remove it")
    return record


def _whole(directory: Path, record: dict[str, Any]) -> bool:
    """Return whether the files of a finished run are all there, the weights with as many bytes as were written."""
    weights = best(directory)
    return weights.is_file() and weights.stat().st_size == record["best"]["bytes"] and heldout(directory).is_file()


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for: the recipe's fields among the others, weights by their sum if they have one."""
    origins = {name: record[name] for name in ("init_from", "transfer") if record[name]}
    sums = {name: given["sha256"] or given["source"] for name, given in origins.items()}
    return {**{name: value for name, value in record.items() if name != "recipe"}, **record["recipe"], **sums}


def _words(record: dict[str, Any], names: list[str]) -> str:
    """Say a few of its fields."""
    return ", ".join(f"{name.replace('_', ' ')} {record.get(name)}" for name in names)

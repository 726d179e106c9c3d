"""A training run on disk: what it was asked to do, how far it came, what it reached. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from models.atomic import replacing
from models.spec import NetweightError, Recipe

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "netweight-run/1"


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    directory: Path
    """Holds best.pt, run.json, history.csv and heldout.npz."""
    epochs: int
    accuracy: float
    """0..1: top-1 of the best epoch on the held-out images."""
    seconds: float
    """Of training, over all sessions when it was cut off between."""
    parameters: int
    reused: bool
    """Whether it stood there already, so that nothing was trained."""


@dataclass(frozen=True)
class Request:
    """What a run was asked to do; two runs of equal requests give equal weights on one machine."""

    network: str
    recipe: Recipe
    seed: int
    data: str


def best(directory: Path) -> Path:
    """Return where the weights of the best epoch stand."""
    return directory / "best.pt"


def last(directory: Path) -> Path:
    """Return where the state after the last whole epoch stands while the run is unfinished."""
    return directory / "last.ckpt"


def history(directory: Path) -> Path:
    """Return where the figures of each epoch stand."""
    return directory / "history.csv"


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
        epochs=request.recipe.epochs,
        accuracy=record["accuracy"]["top1"],
        seconds=record["seconds"],
        parameters=record["parameters"],
        reused=True,
    )


def write(directory: Path, request: Request, *, finished: bool, facts: dict[str, Any]) -> None:
    """Write run.json: the request, whether it is finished, and the facts beside them."""
    record = {"schema": SCHEMA, **asdict(request), "finished": finished, **facts}
    with replacing(directory / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _record(directory: Path, request: Request) -> dict[str, Any] | None:
    """Read run.json, None where there is none, and make sure that it is of this request."""
    record = _read(directory)
    if record is None:
        return None
    found = _request(directory, record)
    if found != request:
        wanted, there = _difference(request, found)
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


def _request(directory: Path, record: dict[str, Any]) -> Request:
    """Return what run.json says was asked for."""
    try:
        return Request(record["network"], Recipe(**record["recipe"]), record["seed"], record["data"])
    except (KeyError, TypeError):
        path = directory / "run.json"
        raise NetweightError(f"{path} does not say what was asked for: name another --output or remove it") from None


def _whole(directory: Path, record: dict[str, Any]) -> bool:
    """Return whether the files of a finished run are all there, the weights with as many bytes as were written."""
    weights = best(directory)
    return weights.is_file() and weights.stat().st_size == record["best"]["bytes"] and heldout(directory).is_file()


def _difference(asked: Request, there: Request) -> tuple[str, str]:
    """Return what differs between two requests, each side in words."""
    left, right = (
        {"network": request.network, "seed": request.seed, "data": request.data, **asdict(request.recipe)}
        for request in (asked, there)
    )
    differing = [name for name in left if left[name] != right[name]]
    return (
        ", ".join(f"{name.replace('_', ' ')} {left[name]}" for name in differing),
        ", ".join(f"{name.replace('_', ' ')} {right[name]}" for name in differing),
    )

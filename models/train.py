"""Training: a network, a data set and a recipe become a directory with the best weights."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from models import catalog, run
from models.spec import Architecture, NetweightError, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.data import DataSet

Keep = Literal["best", "last", "all"]

_FREE_BYTES_FOR_EACH_PARAMETER = 32
"""best.pt (4 bytes), last.ckpt with Adam's two moments (12), and the same again while they are replaced."""
_BYTES_OF_A_PARAMETER = 4


def train(  # noqa: PLR0913  all that a run can be asked for, each with its default
    architecture: Architecture,
    *,
    data: str = "digits",
    size: int | None = None,
    train_images: int | None = None,
    unreadable: Literal["refuse", "skip"] = "refuse",
    recipe: Recipe | None = None,
    directory: Path,
    seed: int = 0,
    init_from: Path | str | None = None,
    transfer: Path | str | None = None,
    keep: Keep = "best",
    resume: bool = True,
    report: Callable[[str], None] = print,
) -> run.Run:
    """Train a network, or go on where a run was cut off, or take the finished run that stands there.

    The directory holds afterwards ``best.pt`` (the weights of the epoch with the lowest validation loss),
    ``heldout.npz`` (images that neither trained nor chose anything), ``history.csv`` (a row for each epoch),
    ``history.png`` (their picture) and ``run.json``; of a folder also ``pictures.json`` (which of its pictures can be
    read). While the run is unfinished it holds ``last.ckpt`` too.

    Args:
        architecture: The record of the network.
        data: The name of the data set, or a directory of class folders.
        size: The side of an image in pixels; None: as the data or the network have it.
        train_images: How many images to train on; None: all.
        unreadable: What becomes of pictures that cannot be read.
        recipe: How to train; None: as the network's record says.
        directory: Where to write; made if it is not there.
        seed: Of the first weights, the order of the images and dropout. The same seed on the same machine, with the
            same number of threads, gives the same weights to the last bit, whether or not the run was cut off; on a
            GPU nearly so.
        init_from: The best.pt of another network, usually a shallower one, whose layers are taken where they match.
        transfer: Weights of this architecture, a checkpoint or torchvision's name, all taken but the head's.
        keep: What stays at the end besides best.pt: nothing, last.ckpt, or every epoch's weights as epoch-NNN.pt.
        resume: False: train from the beginning, even if this very run stands there, finished or not.
        report: Takes a line of text for every epoch. With `print` and a terminal, a progress bar takes their place.

    Raises:
        NetweightError: unknown data, no recipe, weights that do not fit, a run of another request in the directory, a
            broken last.ckpt, no room, a directory that cannot be written, a loss that is no number.
    """
    request = run.Request(
        network=architecture.name,
        builder=architecture.builder,
        options=dict(architecture.options),
        recipe=recipe or _recipe(architecture),
        seed=seed,
        data=data,
        size=size,
        train_images=train_images,
        unreadable=unreadable,
        init_from=_origin(init_from),
        transfer=_origin(transfer),
    )
    _check(request)
    try:
        if resume and (finished := run.find(directory, request)):
            if keep != "last":
                run.last(directory).unlink(missing_ok=True)  # if it was killed between its last two steps
            report(f"{architecture.title}: trained before, {_reached(finished)}")
            return finished
        _begin(directory, request, resume=resume)
        return _train(architecture, request, directory, keep, report)
    except OSError as failure:
        where = failure.filename or directory
        reason = failure.strerror or failure
        raise NetweightError(f"cannot write {where} ({reason}): name another --output, or mend it there") from failure


def _train(
    architecture: Architecture, request: run.Request, directory: Path, keep: Keep, report: Callable[[str], None]
) -> run.Run:
    """Build, fit, and write what was reached."""
    # Read when torch loads OpenMP: threads that spin while they wait halve the speed where others share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from models import build, checkpoint, data, epochs, fit, progress, start, trainer

    trainer.precision(request.recipe)  # before any work, if this machine cannot
    title = architecture.title
    images = _images(architecture, request, directory, report)
    small = images.preprocessing.height < build.SMALL_IMAGE_PIXELS
    adaptation = build.adaptation(architecture, small)
    begun = start.begin(architecture, request, len(images.class_names), images.preprocessing, small_images=small)
    images = data.normalised_as(images, begun.normalisation)
    parameters = sum(parameter.numel() for parameter in begun.network.parameters())
    _check_room(directory, parameters, request.recipe.epochs if keep == "all" else 0)
    data.write_heldout(images, run.heldout(directory))

    history = epochs.History(directory, architecture.name, request.data)
    best = epochs.Best(
        directory,
        lambda: checkpoint.compose(architecture, begun.network, images, adaptation),
        all_kept=keep == "all",
    )
    report(f"{title}: {_plan(request, parameters, directory)}")
    if begun.said:
        report(f"{title}: {begun.said}")
    module = fit.Fit(begun.network, images, request.recipe, request.seed, begun.head)
    last = epochs.Last(directory, kept=keep == "last")
    trainer.fit(module, directory, [history, best, last, progress.progress(history, title, report)])
    history.draw()
    reached = run.Run(
        directory=directory,
        epochs=len(history.rows),
        accuracy=best.accuracy["top1"],
        seconds=round(history.seconds, 3),
        parameters=parameters,
        reused=False,
        split=best.accuracy["split"],
    )
    facts = {
        "adaptation": adaptation,
        "parameters": parameters,
        "start": begun.said,
        "epochs_trained": reached.epochs,
        "best_epoch": best.epoch,
        "accuracy": best.accuracy,
        "images": {part: len(getattr(images, part)) for part in ("training", "validation", "heldout")},
        "seconds": reached.seconds,
        "best": _weigh(run.best(directory)),
        "tools": _tools(),
    }
    run.write(directory, request, finished=True, facts=facts)
    if keep != "last":
        run.last(directory).unlink(missing_ok=True)
    early = f"; it ended early, after epoch {reached.epochs}" if reached.epochs < request.recipe.epochs else ""
    report(f"{title}: {_reached(reached)}; best was epoch {best.epoch}{early}")
    return reached


def _images(
    architecture: Architecture, request: run.Request, directory: Path, report: Callable[[str], None]
) -> DataSet:
    """Load the data as the request has it."""
    from models import data

    return data.load(
        request.data,
        architecture.preprocessing.channels,
        size=request.size,
        train_images=request.train_images,
        unreadable=request.unreadable,
        seed=request.seed,
        like=architecture.preprocessing,
        cache=run.pictures(directory),
        report=report,
    )


def _origin(given: Path | str | None) -> run.Origin | None:
    """Say which weights were given."""
    if given is None:
        return None
    from models import start

    return start.origin(str(given))


def _check(request: run.Request) -> None:
    """Make sure that what was asked for of the first weights goes together."""
    if request.init_from and request.transfer:
        raise NetweightError("--init-from and --transfer both give the first weights: leave one out")
    if request.init_from and not request.init_from.sha256:
        raise NetweightError(f"--init-from takes a file, a training run's best.pt, got {request.init_from.source!r}")
    if request.recipe.freeze_epochs and not request.transfer:
        raise NetweightError("--freeze-epochs keeps what --transfer took: give --transfer too, or leave it out")


def _recipe(architecture: Architecture) -> Recipe:
    """Return the record's recipe."""
    if architecture.recipe is None:
        trainable = ", ".join(other.name for other in catalog.architectures() if other.recipe)
        raise NetweightError(
            f"{architecture.name} has no recipe for training: give --epochs and --learning-rate, or train {trainable}"
        )
    return architecture.recipe


def _begin(directory: Path, request: run.Request, *, resume: bool) -> None:
    """Make the directory and say in it what will be trained; forget how far it had come, unless that is asked for."""
    directory.mkdir(parents=True, exist_ok=True)
    known = run.asked(directory, request)
    if not resume or not known:
        run.last(directory).unlink(missing_ok=True)
    run.write(directory, request, finished=False, facts={})


def _check_room(directory: Path, parameters: int, kept: int) -> None:
    """Make sure that the checkpoints will fit, and as many epochs' weights as are kept."""
    needed = parameters * (_FREE_BYTES_FOR_EACH_PARAMETER + kept * _BYTES_OF_A_PARAMETER)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise NetweightError(
            f"training needs {needed / 1e6:,.0f} MB of room in {directory}, there are {free / 1e6:,.0f} MB: "
            "free some, or name another --output"
        )


def _weigh(path: Path) -> dict[str, Any]:
    """Return a file's bytes and SHA-256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _tools() -> dict[str, str]:
    """Return the versions of what trained."""
    names = ("torch", "torchvision", "lightning", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _plan(request: run.Request, parameters: int, directory: Path) -> str:
    """Say what is about to be done."""
    resumed = ", going on where it was cut off" if run.last(directory).exists() else ""
    return f"training {parameters:,} parameters on {request.data}, {request.recipe.epochs} epochs{resumed}"


def _reached(reached: run.Run) -> str:
    """Say what came of it."""
    return f"{100 * reached.accuracy:.1f} % of the {_images_of(reached)} right, {reached.seconds:.0f} s of training"


def _images_of(reached: run.Run) -> str:
    """Say what the accuracy is of."""
    split, *warning = reached.split.split(", ", 1)
    return f"{split} images{''.join(f' ({each})' for each in warning)}"

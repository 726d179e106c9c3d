"""Training: a network of the catalogue, a data set and a recipe become a directory with the best weights."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import signal
import warnings
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from models import catalog, memory, run
from models.spec import Architecture, NetweightError, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from models.epochs import Best, History
    from models.fit import Fit

_FREE_BYTES_FOR_EACH_PARAMETER = 32
"""best.pt (4 bytes), last.ckpt with Adam's two moments (12), and the same again while they are replaced."""


def train(
    architecture: Architecture,
    *,
    data: str = "digits",
    recipe: Recipe | None = None,
    directory: Path,
    seed: int = 0,
    resume: bool = True,
    report: Callable[[str], None] = print,
) -> run.Run:
    """Train a network, or go on where a run was cut off, or take the finished run that stands there.

    The directory holds afterwards ``best.pt`` (the weights of the epoch with the lowest validation loss),
    ``heldout.npz`` (images that neither trained nor chose anything), ``history.csv`` (a row for each epoch) and
    ``run.json``. While the run is unfinished it holds ``last.ckpt`` too.

    Args:
        architecture: The record of the network.
        data: The name of the data set.
        recipe: How to train; None: as the network's record says.
        directory: Where to write; made if it is not there.
        seed: Of the first weights, the order of the images and dropout. The same seed on the same machine, with the
            same number of threads, gives the same weights to the last bit, whether or not the run was cut off; on a
            GPU nearly so.
        resume: False: train from the beginning, even if this very run stands there, finished or not.
        report: Takes a line of text for every epoch. With `print` and a terminal, a progress bar takes their place.

    Raises:
        NetweightError: unknown data, no recipe, a run of another request in the directory, a broken last.ckpt, no
            room, a directory that cannot be written.
    """
    request = run.Request(architecture.name, recipe or _recipe(architecture), seed, data)
    try:
        if resume and (finished := run.find(directory, request)):
            run.last(directory).unlink(missing_ok=True)  # if it was killed between its last two steps
            report(f"{architecture.title}: trained before, {_reached(finished)}")
            return finished
        _begin(directory, request, resume=resume)
        return _train(architecture, request, directory, report)
    except OSError as failure:
        where = failure.filename or directory
        reason = failure.strerror or failure
        raise NetweightError(f"cannot write {where} ({reason}): name another --output, or mend it there") from failure


def _train(architecture: Architecture, request: run.Request, directory: Path, report: Callable[[str], None]) -> run.Run:
    """Build, fit, and write what was reached."""
    # Read when torch loads OpenMP: threads that spin while they wait halve the speed where others share the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from models import build, checkpoint, data, epochs, fit

    images = data.load(request.data, architecture.preprocessing.channels)
    small = images.preprocessing.height < build.SMALL_IMAGE_PIXELS
    adaptation = build.adaptation(architecture, small)
    network = _network(architecture, request, len(images.class_names), small)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _check_room(directory, parameters)
    data.write_heldout(images, run.heldout(directory))

    history = epochs.History(directory)
    best = epochs.Best(directory, lambda: checkpoint.compose(architecture, network, images, adaptation))
    report(f"{architecture.title}: {_plan(request, parameters, directory)}")
    _fit(fit.Fit(network, images, request.recipe, request.seed), directory, history, best, architecture.title, report)
    if not best.epoch:
        raise NetweightError(
            f"{architecture.name} did not learn, its loss was not a number after any epoch: "
            f"train with a learning rate below {request.recipe.learning_rate}"
        )
    reached = run.Run(
        directory=directory,
        epochs=request.recipe.epochs,
        accuracy=best.accuracy["top1"],
        seconds=round(history.seconds, 3),
        parameters=parameters,
        reused=False,
    )
    facts = {
        "adaptation": adaptation,
        "parameters": parameters,
        "best_epoch": best.epoch,
        "accuracy": best.accuracy,
        "images": {part: len(getattr(images, part)) for part in ("training", "validation", "heldout")},
        "seconds": reached.seconds,
        "best": _weigh(run.best(directory)),
        "tools": _tools(),
    }
    run.write(directory, request, finished=True, facts=facts)
    run.last(directory).unlink(missing_ok=True)
    report(f"{architecture.title}: {_reached(reached)}")
    return reached


def _network(architecture: Architecture, request: run.Request, classes: int, small_images: bool) -> nn.Module:
    """Build the network with the seed's weights, laid out as convolutions on a CPU read them."""
    import torch

    from models import build, fit

    torch.manual_seed(request.seed)
    network = build.build(architecture, classes, small_images)
    if request.recipe.initialization == "kaiming":
        fit.initialize(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
    return network


def _fit(module: Fit, directory: Path, history: History, best: Best, title: str, report: Callable[[str], None]) -> None:
    """Run all epochs, or those that last.ckpt leaves."""
    from models import epochs, progress

    # isort: split
    from lightning.pytorch import Trainer

    last = run.last(directory)
    with _quiet():
        trainer = Trainer(
            max_epochs=module.recipe.epochs,
            accelerator="auto",
            devices=1,
            callbacks=[history, best, epochs.Last(directory), progress.progress(history, title, report)],
            plugins=[epochs.Files()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        with _interruptible(), memory.kept():
            trainer.fit(module, ckpt_path=last if last.exists() else None)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is elsewhere: Lightning exits the process instead, and ignores the next ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stopped:
        if not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice to developers from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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


def _check_room(directory: Path, parameters: int) -> None:
    """Make sure that the checkpoints will fit."""
    needed = parameters * _FREE_BYTES_FOR_EACH_PARAMETER
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
    return f"{100 * reached.accuracy:.1f} % of the held-out images right, {reached.seconds:.0f} s of training"

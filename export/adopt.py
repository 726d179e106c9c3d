"""An ONNX file from elsewhere becomes a model of the repository: checked, tried, weighed; what is not known is said."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from export import adopted_card, onnx_file, trial
from export.dynamic_batch import make_dynamic
from export.publish import (
    CARD,
    CONFIG,
    LABELS,
    MAX_BATCH_SIZE,
    MODEL,
    Publication,
    check_name,
    label_lines,
    newest,
    place,
    staging,
)
from export.upgrade import OLDEST_OPSET, upgrade
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.onnx_file import OnnxFile
    from export.trial import Arrays, Trial

    Report = Callable[[str], None]

_SEEDS = (0, 1)
"""Of the two random samples that a graph is tried with."""

_OTHERWISE = "it does not give for two samples at once what it gives for each alone"


@dataclass(frozen=True)
class Staged:
    """A graph in the staging directory, as far as it has got."""

    path: Path
    trial: Trial
    answers: tuple[Arrays, ...]
    """To each of the samples alone."""
    max_batch_size: int = 0
    changes: tuple[str, ...] = ()
    """What was done to the file as it came."""
    notes: tuple[str, ...] = ()
    """What could not be done, and why."""

    @property
    def samples(self) -> list[Arrays]:
        """The random inputs, a batch of one each."""
        return [self.trial.draw(seed) for seed in _SEEDS]


def adopt(
    source: Path,
    repository: Path,
    *,
    name: str | None = None,
    labels: Path | None = None,
    report: Report = lambda _line: None,
) -> Publication:
    """Publish an ONNX file as the next version of a model.

    Args:
        source: The file, or a directory with one in it.
        repository: The model repository's directory, made where it is missing.
        name: The model's; None: the file's, or its directory's where it is called ``model.onnx``.
        labels: A file with one class name in each line.
        report: Told what is done.

    Raises:
        NetweightError: it is no ONNX file, ONNX Runtime does not run it, its weights lie outside its directory, or the
            name is another model's; nothing was published then.
    """
    file = onnx_file.read(onnx_file.find(source))
    name = name or _own_name(file.path)
    check_name(name)
    class_names = _read_labels(labels) if labels else ()
    report(f"{name}: {file.path.name}, opset {file.opset}, passed ONNX's checker")
    with staging(repository) as directory:
        staged = _batch(_opset(_copy(file, directory), file))
        finite = "finite" if all(map(trial.finite, staged.answers)) else "NOT all finite"
        for line in (*staged.changes, *staged.notes, f"answers to random input are {finite}"):
            report(f"{name}: {line}")
        config = staged.trial.tensors.config(name, staged.max_batch_size, _labelled(staged, class_names))
        _check_same(repository, name, config)
        card = adopted_card.compose(file, staged, len(class_names) or None)
        texts = {CONFIG: config, **({LABELS: label_lines(class_names)} if class_names else {})}
        return place(directory, repository, name, texts, card)


def _own_name(path: Path) -> str:
    """Return the name that a file suggests."""
    return path.resolve().parent.name if path.name == MODEL else path.stem


def _copy(file: OnnxFile, directory: Path) -> Path:
    """Copy a graph and its weights as they are.

    Raises:
        NetweightError: its weights have the name of a file that the model's version has anyway.
    """
    for location in file.locations:
        if location in {MODEL, CARD}:
            raise NetweightError(
                f"{file.path} keeps weights in {location}, which a version has for itself; rename them"
            )
        target = directory / location
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path.parent / location, target)
    shutil.copyfile(file.path, directory / MODEL)
    return directory / MODEL


def _opset(path: Path, file: OnnxFile) -> Staged:
    """Run the graph; upgrade one of an old opset, where it then gives the same answers.

    Raises:
        NetweightError: it does not run, neither as it came nor upgraded.
    """
    if not 0 < file.opset < OLDEST_OPSET:
        return _run(path)
    before, failure = _try(path)
    into = path.parent.with_name("upgraded")
    into.mkdir()
    try:
        after = _run(upgrade(path, into)[0])
    except NetweightError as error:
        if before is None:
            raise NetweightError(f"{file.path}, opset {file.opset}: {failure}; and {error}") from error
        return replace(before, notes=(f"opset {file.opset} was kept: {error}",))
    if before is not None and not all(map(trial.same, before.answers, after.answers)):
        return replace(before, notes=(f"opset {file.opset} was kept: upgraded, it gives other answers",))
    shutil.rmtree(path.parent)
    into.rename(path.parent)
    return replace(after, path=path, changes=(f"opset {file.opset} became {OLDEST_OPSET}",))


def _try(path: Path) -> tuple[Staged | None, NetweightError | None]:
    """Run a graph; return the failure where it does not run."""
    try:
        return _run(path), None
    except NetweightError as error:
        return None, error


def _run(path: Path) -> Staged:
    """Open a graph and run each sample alone."""
    opened = trial.open_trial(path)
    staged = Staged(path, opened, ())
    return replace(staged, answers=tuple(opened.run(each) for each in staged.samples))


def _batch(staged: Staged) -> Staged:
    """Find out whether the graph takes batches; make a batch that is fixed at 1 dynamic, where that changes no answer."""
    if staged.trial.tensors.batches:
        if trial.batched(staged.trial, staged.samples, staged.answers):
            return replace(staged, max_batch_size=MAX_BATCH_SIZE)
        return _unbatched(staged, _OTHERWISE)
    model = onnx.load(staged.path, load_external_data=False)
    if not make_dynamic(model):
        return _unbatched(staged, "not every input and output begins with a batch of 1 or a dynamic one")
    changed = staged.path.with_name(f"dynamic-{MODEL}")  # beside its weights
    changed.write_bytes(model.SerializeToString())
    after, failure = _try(changed)
    changed.replace(changed.with_name(MODEL)) if _as_before(staged, after) else changed.unlink()
    if after is None or not _as_before(staged, after):
        return _unbatched(staged, f"with a dynamic one {failure or _OTHERWISE}")
    changes = (*staged.changes, "the batch, fixed at 1, became dynamic: two images at once gave what each gave alone")
    return replace(staged, trial=after.trial, max_batch_size=MAX_BATCH_SIZE, changes=changes)


def _as_before(before: Staged, after: Staged | None) -> bool:
    """Whether a graph whose batch became dynamic answers single samples, and both at once, as it did before."""
    return (
        after is not None
        and after.trial.tensors.batches
        and all(map(trial.same, before.answers, after.answers))
        and trial.batched(after.trial, after.samples, before.answers)
    )


def _unbatched(staged: Staged, why: str) -> Staged:
    """Return a graph that is served one request at a time."""
    return replace(staged, notes=(*staged.notes, f"no batching (max_batch_size 0): {why}"))


def _read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, one in each line.

    Raises:
        NetweightError: there is no such file, it is no text, or it is empty.
    """
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise NetweightError(f"{path}: expected a text file with one class name in each line, got {error}") from error
    if not names:
        raise NetweightError(f"{path} is empty: expected one class name in each line")
    return names


def _labelled(staged: Staged, class_names: tuple[str, ...]) -> dict[str, str]:
    """Return the labels' file for each output with as many values as there are classes.

    Raises:
        NetweightError: no output has as many.
    """
    if not class_names:
        return {}
    shapes = {name: each.shape for name, each in staged.answers[0].items()}
    found = {name: LABELS for name, shape in shapes.items() if shape[-1:] == (len(class_names),)}
    if not found:
        there = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise NetweightError(f"{len(class_names)} class names, but no output ends with as many values: {there}")
    return found


def _check_same(repository: Path, name: str, config: str) -> None:
    """Make sure that every version of a name looks the same to a client.

    Raises:
        NetweightError: the name is another model's.
    """
    path = repository / name / CONFIG
    if not newest(repository / name):
        return
    there = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _interface(there) != _interface(config):
        raise NetweightError(
            f"{name} in {repository} is a model with other inputs, outputs or batches (see its {CONFIG}): give this one a "
            "--name of its own"
        )


def _interface(config: str) -> str:
    """Return a configuration without its labels."""
    return config.replace(f' label_filename: "{LABELS}"', "")

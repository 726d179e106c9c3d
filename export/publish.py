"""An exported model becomes a version in the model repository: whole, or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from export.convert import IMAGE, LOGITS, PROBABILITIES
from models.atomic import replacing
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL, CARD, CONFIG, LABELS = "model.onnx", "card.json", "config.pbtxt", "labels.txt"
MAX_BATCH_SIZE = 32

_STAGE = ".export-"
"""Prefix of the directories that versions are made in; a server skips names that begin with a dot."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Signature:
    """What a client sees of a model: every version of a name has the same."""

    input: str
    """``uint8`` or ``float32``."""
    image_shape: tuple[int, ...]
    """Without the batch."""
    classes: int

    def __str__(self) -> str:
        """Return words for a message."""
        return f"{self.input} images {'x'.join(map(str, self.image_shape))} and {self.classes} classes"


@dataclass(frozen=True)
class Publication:
    """A version that stands in the model repository."""

    name: str
    version: int
    path: Path
    """The version's directory."""
    card: dict[str, Any]
    """What its card.json says."""


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Yield an empty directory to write a version's files in, inside the repository and hidden from servers.

    Whatever is left of it is removed at the end, and what killed exports have left is removed at the beginning: a live
    export holds a lock on its directory.

    Raises:
        NetweightError: the repository cannot be written to, or its disk is full.
    """
    with _writing(repository):
        repository.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            with _locked(repository):
                _remove_leftovers(repository)
                stage = Path(mkdtemp(prefix=_STAGE, dir=repository))
                held.enter_context(_locked(stage))
            held.callback(shutil.rmtree, stage, ignore_errors=True)
            files = stage / "files"
            files.mkdir()  # with the usual permissions, unlike the stage: it becomes the version's directory
            yield files


def check_name(name: str) -> None:
    """Make sure that `name` can be a model's.

    Raises:
        NetweightError: it cannot be a directory's name, or would hide.
    """
    if not _NAME.fullmatch(name):
        raise NetweightError(
            f"{name!r} cannot be a model's name: expected letters, digits and _ . + - only, beginning with a letter, a "
            "digit or _; give another --name"
        )


def check(repository: Path, name: str, signature: Signature) -> None:
    """Make sure that `name` can take another version with this signature.

    Raises:
        NetweightError: the name cannot be a model's, or its newest version has another signature.
    """
    check_name(name)
    version = newest(repository / name)
    graph = repository / name / str(version) / MODEL
    if not graph.is_file():
        return
    existing = _describe(graph)
    if existing not in {None, str(signature)}:
        raise NetweightError(
            f"{name} in {repository} has {existing} in version {version}, this export has {signature}: give it a --name of "
            "its own"
        )


def publish(
    files: Path, repository: Path, name: str, signature: Signature, labels: Sequence[str], card: dict[str, Any]
) -> Publication:
    """Move a staged version to its place, with the next free number.

    Args:
        files: What `staging` yielded, with the version's files but for its card.
        repository: The same as for `staging`.
        name: The model's.
        signature: Already checked.
        labels: One for each class.
        card: Without name and version, which are added.
    """
    return place(files, repository, name, {CONFIG: config(name, signature), LABELS: label_lines(labels)}, card)


def label_lines(labels: Sequence[str]) -> str:
    """Return labels.txt: one line for each class, whatever is in its name."""
    return "".join(f"{' '.join(each.split())}\n" for each in labels)


def place(files: Path, repository: Path, name: str, texts: dict[str, str], card: dict[str, Any]) -> Publication:
    """Do what `publish` does for a model with files of its own: `texts` by their names, such as config.pbtxt."""
    model = repository / name
    with _writing(repository), _locked(repository):
        version = newest(model) + 1
        card = {"schema": card["schema"], "name": name, "version": version, **card}
        (files / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        if model.is_dir():
            _rewrite(model, texts)
            files.rename(model / str(version))
        else:
            whole = files.with_name("model")
            whole.mkdir()
            _rewrite(whole, texts)
            files.rename(whole / str(version))
            whole.rename(model)
    return Publication(name, version, model / str(version), card)


def config(name: str, signature: Signature) -> str:
    """Return a model's config.pbtxt: Triton's ModelConfig in text format, dims without the batch."""
    datatype = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}[signature.input]
    outputs = ",\n".join(
        f'  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {signature.classes} ] label_filename: "{LABELS}" }}'
        for output in (LOGITS, PROBABILITIES)
    )
    return (
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {MAX_BATCH_SIZE}\n"
        f'input [\n  {{ name: "{IMAGE}" data_type: {datatype} dims: [ {", ".join(map(str, signature.image_shape))} ] }}\n]\n'
        f"output [\n{outputs}\n]\n"
        "dynamic_batching { }\n"
    )


def _rewrite(model: Path, texts: dict[str, str]) -> None:
    """Write a model's own files, each at once; one that already says the same is left alone."""
    for file, text in texts.items():
        path = model / file
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def newest(model: Path) -> int:
    """Return the highest version number of a model, 0 where it has none."""
    if not model.is_dir():
        return 0
    return max((int(each.name) for each in model.iterdir() if each.name.isdecimal()), default=0)


def _describe(path: Path) -> str | None:
    """Return a graph's signature in words; None where the file is broken, which is no reason against a new version."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError:
        return None
    inputs, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    if inputs != [IMAGE] or outputs != [LOGITS, PROBABILITIES]:
        return f"inputs {', '.join(inputs)} and outputs {', '.join(outputs)}"
    datatype = onnx.helper.tensor_dtype_to_np_dtype(graph.input[0].type.tensor_type.elem_type)
    (classes,) = _dims(graph.output[0])
    return str(Signature(str(datatype), _dims(graph.input[0]), classes))


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a tensor's shape without the batch."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])


@contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the only lock on a directory; it goes with the process.

    Raises:
        BlockingIOError: another holds it and we are not to wait.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(repository: Path) -> None:
    """Remove staging directories that no living process holds."""
    for stage in repository.glob(f"{_STAGE}*"):
        with suppress(BlockingIOError, FileNotFoundError), _locked(stage, wait=False):
            shutil.rmtree(stage)


@contextmanager
def _writing(repository: Path) -> Iterator[None]:
    """Turn what the operating system says about writing into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise NetweightError(
            f"cannot write to the model repository {repository}: {error.strerror}; choose another --repository, or mend its "
            "permissions or free space"
        ) from error

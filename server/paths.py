"""Names and file names that callers and models' files give: none of them leads out of its directory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from server.errors import InvalidArgumentError, ModelLoadError

LONGEST_NAME_BYTES = 255
"""Of a directory's or a file's name, as file systems have it."""
SHOWN = 80
"""Characters of a wrong name that are shown."""


def check_model_name(name: str) -> None:
    """See that a model's name is the name of a directory below the repository.

    Raises:
        InvalidArgumentError: it is empty, hidden, too long, or more than one step of a path.
    """
    if wrong := _wrong(name):
        raise InvalidArgumentError(f"model name {shown(name)} {wrong}; expected the name of a directory")


def inside(directory: Path, name: str, what: str) -> Path:
    """Return where a file lies that a model names, and see that no link on the way leads out.

    Args:
        directory: the only one that it may lie below.
        name: of the file, relative to it; with ``/`` between its steps.
        what: names the file in the message.

    Raises:
        ModelLoadError: the name is absolute or climbs, or a link leads out.
    """
    check_file_name(name, what)
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ModelLoadError(f"{what} {shown(name)} is a link that leads out of {directory.name}; put the file there")
    return path


def check_file_name(name: str, what: str) -> None:
    """See that a file's name is relative and goes down only, step by step.

    Raises:
        ModelLoadError: it is absolute, climbs, or has a step that no file system takes.
    """
    if PurePosixPath(name).is_absolute():
        raise ModelLoadError(f"{what} {shown(name)} is absolute; expected a path below the model's directory")
    for step in name.split("/"):
        if wrong := _wrong(step):
            raise ModelLoadError(f"{what} {shown(name)} {wrong}; expected a path below the model's directory")


def shown(name: str) -> str:
    """Return a name as messages show it: quoted, and not longer than a line."""
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")


def _wrong(step: str) -> str:
    """Say what is wrong with one step of a path; empty: nothing."""
    if not step:
        return "is empty, or has an empty step"
    if step.startswith("."):
        return "begins with a dot"
    if "/" in step or "\\" in step:
        return "has a separator"
    if not step.isprintable():
        return "has a character that cannot be printed"
    if len(step.encode(errors="surrogateescape")) > LONGEST_NAME_BYTES:
        return f"is longer than {LONGEST_NAME_BYTES} bytes"
    return ""


def stamps(*files: str) -> tuple[tuple[int, int, int], ...]:
    """Return what differs once one of these files was written anew or replaced; zeros for one that is not there."""
    found = []
    for file in files:
        try:
            status = Path(file).stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)

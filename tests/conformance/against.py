"""Run a program against our server with the suite's models: ``python -m tests.conformance.against PROGRAM {} ...``.

``{}`` becomes the server's address. The exit code is the program's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance import repository
from tests.servers import RunningServer, running_server

MODELS = "models"
"""Where they lie, in the server's directory."""
EVERYTHING_ON = ("--model-control", "explicit", "--shared-memory")


@contextmanager
def our_server(directory: Path, *options: str) -> Iterator[RunningServer]:
    """Start our server with every extension on, and all of the suite's models loaded but the broken one."""
    models = repository.write(directory / MODELS)
    loaded = [word for name in repository.at_start() for word in ("--model", name)]
    with running_server(models, directory, *EVERYTHING_ON, *loaded, *options) as started:
        yield started


def main(command: list[str]) -> int:
    """Run the command and return its exit code."""
    with tempfile.TemporaryDirectory() as directory, our_server(Path(directory)) as started:
        words = [started.address if word == "{}" else word for word in command]
        return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Whether a graph that a caller sent can be opened and run: tried in a process of its own.

ONNX Runtime ends its process at some graphs (docs/fuzzing.md names one). What an operator puts into the repository is
theirs to try; what comes with a Load call must not end the server. ``python -m server.trial FILE`` is that process.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server import external_data
from server.errors import ModelLoadError
from server.providers import SessionOptions
from server.session import open_session, run_zeros

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_SECONDS = 120.0
"""A graph that takes longer to open and to run once is refused."""
PROGRAM = (sys.executable, "-P", "-m", "server.trial")


def check(path: Path, program: Sequence[str] = PROGRAM, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Open a graph on the CPU and run zeros, in a process of its own; takes about half a second.

    That the graph cannot be opened is no failure here: the server finds that out by itself, and says why.

    Raises:
        ModelLoadError: the process was ended by it, or took too long.
    """
    try:
        ended = subprocess.run(
            [*program, str(path)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise ModelLoadError(f"{path.name} takes more than {timeout_seconds:g} s to open and to run once") from None
    if ended.returncode < 0:
        how = signal.Signals(-ended.returncode).name
        raise ModelLoadError(f"{path.name} ends the process that opens it ({how}); ONNX Runtime cannot run this graph")


def main(path: Path) -> None:
    """Open a graph and run zeros. What is raised ends this process in an orderly way, and is no answer to the question."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    external_data.check(path)
    session = open_session(path, SessionOptions("cpu", threads=1))
    batches = all(spec.shape[:1] == (-1,) for spec in session.inputs)
    run_zeros(session, 1, max_batch_size=int(batches))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Processes of the real command line that end when the one that started them does, and lines of progress among theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

NETWEIGHT = (sys.executable, "-P", "-m", "netweight")  # -P: a folder named server where the user stands is not ours

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 + SIGINT."""

# Runs in the child before the command takes its place: prctl(PR_SET_PDEATHSIG, SIGTERM) outlasts exec, and a parent
# that has ended already is noticed. A Popen preexec_fn would do the same inside a fork of a process with threads.
END_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
os.getppid() == int(sys.argv[1]) or sys.exit(143)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process; on Linux it gets SIGTERM when the thread that calls this ends, even by SIGKILL.

    So call it from the main thread. A server or a training that outlived a killed caller would go on holding memory,
    and write into a directory that the next run works in.
    """
    return subprocess.Popen([*_ending_with_parent(), *command], **options)


def say(line: str) -> None:
    """Print a line of progress at once, in order with what processes of ours print."""
    print(line, flush=True)


def _ending_with_parent() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", END_WITH_PARENT, str(os.getpid())]

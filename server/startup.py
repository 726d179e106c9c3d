"""How long the start took, cut into phases without a gap."""

from __future__ import annotations

import time
from dataclasses import dataclass

from server import first_line
from server.machine import process_age_seconds


@dataclass(frozen=True)
class Startup:
    """Seconds from the operating system's start of the process (known to 0.01 s) to the ready line.

    What is not in ``process``, ``imports`` and ``other`` is the loading of the models, which each of them tells.
    """

    process: float
    """Until the program's first line ran: the operating system and the interpreter."""
    imports: float
    """Until the server's modules were imported, and its settings read."""
    other: float
    """The rest: ports, front ends, the repository's scan, and loads that failed."""
    total: float


def startup(imported: float, load_seconds: float) -> Startup | None:
    """Return the phases of a start that ends now; None where the system does not tell when the process began.

    Args:
        imported: when the modules were imported, in `time.monotonic` seconds.
        load_seconds: that loading the models took altogether.
    """
    total = process_age_seconds()
    if not total:
        return None
    process = max(0.0, total - (time.monotonic() - first_line.RAN))
    imports = imported - first_line.RAN
    return Startup(process, imports, max(0.0, total - process - imports - load_seconds), total)

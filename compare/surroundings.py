"""What surrounds a measurement: the machine, the threads that the server may use, and what else ran meanwhile."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Any

from compare.busy import Watch
from compare.metrics_page import parse_process, read_page
from models.environment import environment, usable_cores

if TYPE_CHECKING:
    from compare.cost import Busy
    from compare.place import Places

THREADS = "NETWEIGHT_THREADS"


class Surroundings:
    """Looks at the machine from when it is made until `busy` is asked."""

    def __init__(self, places: Places) -> None:
        """Begin."""
        self._places = places
        self.environment: dict[str, Any] = {**environment(), "server_threads": threads(places.address)}
        self._server_cpu = self._server_cpu_seconds()
        self._watch = Watch()
        self._watch.start()

    def busy(self) -> Busy | None:
        """Return what else the machine did; None: the system does not tell, or not what is a running server's."""
        if self._places.address is None or not is_here(self._places.address):
            return self._watch.stop()
        now = self._server_cpu_seconds()
        if now is None or self._server_cpu is None:
            return None
        return self._watch.stop(now - self._server_cpu)

    def _server_cpu_seconds(self) -> float | None:
        url = self._places.metrics_url
        return None if url is None else parse_process(read_page(url)).cpu_seconds


def threads(address: str | None) -> str:
    """Return in words how many threads of ONNX Runtime run a batch."""
    if address is not None:
        return "not known: the server was running"
    wanted = os.environ.get(THREADS, "")
    if wanted.isdigit() and int(wanted):
        return f"{int(wanted)}, by {THREADS}"
    return f"chosen by the server for each model, on {usable_cores()} usable cores"


def is_here(address: str) -> bool:
    """Whether a server's address, HOST:PORT, is surely one of this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

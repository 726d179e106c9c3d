"""The caller's own ceiling: what it reaches against a server that does nothing but answer.

That server is `compare.instant`, in a process of its own, as a real one is.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compare.cost import Caller
from compare.load import Window, closed_loop, one_at_a_time
from compare.measure import nearest_rank
from compare.process import start
from models.spec import NetweightError
from server.pb import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMAND = (sys.executable, "-P", "-m", "compare.instant")
WARM_UP_SECONDS = 0.2


def ceilings(request_bytes: Sequence[int], *, callers: int, seconds: float) -> tuple[Caller, ...]:
    """Return the ceiling for each request size, each measured for `seconds` with one caller and with `callers`."""
    with instant_server() as address:
        return tuple(_ceiling(address, size, callers, Window(seconds)) for size in request_bytes)


@contextmanager
def instant_server() -> Iterator[str]:
    """Start the server that answers at once, and give its address."""
    process = start(COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    with process:
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise NetweightError(f"the server that answers at once ended with exit code {process.wait()}")
            yield f"127.0.0.1:{int(port)}"
        finally:
            process.terminate()


def request_of(size: int) -> bytes:
    """Return a serialised request of `size` bytes, or of as few as one has."""
    request = inference_pb2.ModelInferRequest(model_name="instant", raw_input_contents=[bytes(size)])
    request.inputs.add(name="image", datatype="UINT8", shape=(1, size))
    more = request.ByteSize() - size
    request.raw_input_contents[0] = bytes(max(0, size - more))
    return request.SerializeToString()


def _ceiling(address: str, size: int, callers: int, window: Window) -> Caller:
    request = [request_of(size)]
    one = one_at_a_time(address, request, window, warm_up_seconds=WARM_UP_SECONDS)
    many = closed_loop(address, request, callers, window, warm_up_seconds=WARM_UP_SECONDS)
    if not one.count or one.error_count or many.error_count:
        raise NetweightError(f"the caller's own ceiling: {one.first_error or many.first_error or 'no reply at all'}")
    return Caller(size, nearest_rank(one.latencies, 50), many.count / many.seconds)

"""Memory that is freed and soon wanted again stays with the process while it trains."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# From glibc's malloc.h, and the defaults that mallopt(3) tells.
_M_TRIM_THRESHOLD, _TRIM_THRESHOLD = -1, 128 * 1024
_M_MMAP_MAX, _MMAP_MAX = -4, 65536


@contextmanager
def kept() -> Iterator[None]:
    """Take large blocks from the heap and keep them there when they are freed; afterwards give all of it back.

    glibc maps each block above 32 MiB anew and unmaps it when it is freed. VGG-16's gradients are 0.5 GB, made and
    freed in every step, and the page faults cost a quarter of a second of CPU time in each. Without glibc this does
    nothing.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _MMAP_MAX)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        library.malloc_trim(0)

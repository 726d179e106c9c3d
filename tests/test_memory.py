"""models/memory.py: what is kept, and what is given back."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from models import memory

BLOCK = 64 * 1024 * 1024


def page_faults() -> int:
    """Make a large block, free it, and return how many pages had to be had for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(BLOCK, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is what is set")
def test_freed_memory_is_kept_for_a_while() -> None:
    """While memory is kept, a large block made again costs hardly a page fault; before and after, it costs them all."""
    page_faults()
    plain = page_faults()
    with memory.kept():
        page_faults()
        kept = page_faults()
    page_faults()
    after = page_faults()
    assert kept < plain / 10
    assert kept < after / 10

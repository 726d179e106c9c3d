"""What glibc is told about blocks of memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from server import machine
from server.machine import M_MMAP_THRESHOLD, MAPPED_BYTES, Blocks

KEPT = 32 * 2**20


class Libc:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.told.append((parameter, value))


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    """A libc of the test's own."""
    made = Libc()
    monkeypatch.setattr(machine, "_libc", lambda: made)
    return made


def in_a_thread(work: Callable[[], None]) -> None:
    """Do something in another thread than the main one, and fail as it does."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def test_weights_come_from_the_system(libc: Libc) -> None:
    """While anything is loaded large blocks are mapped, as long as the last load takes; then messages have the heap."""
    blocks = Blocks()
    blocks.keep(KEPT)

    def load() -> None:
        with blocks.mapped():
            with blocks.mapped():
                pass
            assert libc.told[-1] == (M_MMAP_THRESHOLD, MAPPED_BYTES)
        with pytest.raises(ZeroDivisionError), blocks.mapped():
            raise ZeroDivisionError

    in_a_thread(load)
    assert {parameter for parameter, _ in libc.told} == {M_MMAP_THRESHOLD}
    assert [value for _, value in libc.told] == [KEPT, MAPPED_BYTES, MAPPED_BYTES, KEPT, MAPPED_BYTES, KEPT]


def test_the_main_thread_has_the_heap(libc: Libc) -> None:
    """All of its heap can be given back, and a start is quicker without the faults."""
    blocks = Blocks()
    blocks.keep(KEPT)
    with blocks.mapped():
        assert [value for _, value in libc.told] == [KEPT]


def test_nothing_is_told_where_nothing_was(libc: Libc) -> None:
    """A process that leaves glibc its own ways keeps them."""

    def load() -> None:
        with Blocks().mapped():
            pass

    in_a_thread(load)
    assert libc.told == []

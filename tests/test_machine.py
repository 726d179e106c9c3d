"""What glibc is told about blocks of memory."""

from __future__ import annotations

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


def test_weights_come_from_the_system(libc: Libc) -> None:
    """While anything is loaded large blocks are mapped, as long as the last load takes; then messages have the heap."""
    blocks = Blocks()
    blocks.keep(KEPT)
    with blocks.mapped():
        with blocks.mapped():
            pass
        assert libc.told[-1] == (M_MMAP_THRESHOLD, MAPPED_BYTES)
    with pytest.raises(ZeroDivisionError), blocks.mapped():
        raise ZeroDivisionError
    assert {parameter for parameter, _ in libc.told} == {M_MMAP_THRESHOLD}
    assert [value for _, value in libc.told] == [KEPT, MAPPED_BYTES, MAPPED_BYTES, KEPT, MAPPED_BYTES, KEPT]


def test_nothing_is_told_where_nothing_was(libc: Libc) -> None:
    """A process that leaves glibc its own ways keeps them."""
    with Blocks().mapped():
        pass
    assert libc.told == []

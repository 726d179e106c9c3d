"""The channel between two processes: frames, space, and what happens without any."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from server import channel
from server.channel import Arena, Channel, Ring

SMALL = 256
ARENA = 2**20
NUMBERS = np.arange(SMALL, dtype=np.float32).reshape(2, -1)


class Pair:
    """Both ends of a channel in one process."""

    def __init__(self, arena_size: int = ARENA) -> None:
        self.lost: list[channel.Record] = []
        self.wakes = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        memory = channel.create_memory(arena_size)
        self.near, self.far = (
            Channel(
                memory,
                arena_size,
                first=first,
                wake_other=self.wakes[not first],
                wake_self=self.wakes[first],
                lost=self.lost.append,
            )
            for first in (True, False)
        )
        os.close(memory)

    def notified(self) -> bool:
        """Whether the far end was notified since the last time."""
        try:
            return os.eventfd_read(self.wakes[0]) > 0
        except BlockingIOError:
            return False


@pytest.fixture
def pair() -> Pair:
    return Pair()


def ring_ends(size: int) -> tuple[Ring, Ring]:
    memory = memoryview(bytearray(channel._HEADER + size))
    return Ring(memory), Ring(memory)


def frames(ring: Ring) -> list[tuple[int, bytes]]:
    return [(kind, bytes(frame)) for kind, frame in ring.take()]


def test_frames_come_in_order_around_the_end() -> None:
    """Frames of every length come out as they went in, however often the ring wraps around."""
    writer, reader = ring_ends(SMALL)
    chosen = random.Random(0)
    for turn in range(2000):
        written = []
        while True:
            frame = chosen.randbytes(chosen.randrange(SMALL // 4))
            if not writer.put(turn % 3, frame):
                break
            written.append((turn % 3, frame))
        assert written
        assert frames(reader) == written


def test_a_full_ring_refuses() -> None:
    """What does not fit is refused and leaves the ring as it was; it fits once the reader has read."""
    writer, reader = ring_ends(SMALL)
    assert writer.put(0, bytes(SMALL - 16))
    assert not writer.put(0, b"")
    assert frames(reader) == [(0, bytes(SMALL - 16))]
    assert frames(reader) == []
    assert writer.put(0, b"again")
    assert frames(reader) == [(0, b"again")]


def test_an_arena_gives_space_once_and_joins_what_returns() -> None:
    """Blocks never overlap, whatever the order of taking and giving; once all are back the space is one piece again."""
    arena = Arena(2**16)
    chosen = random.Random(0)
    taken: dict[int, int] = {}
    refused = 0
    for _ in range(5000):
        size = chosen.randrange(4000)
        start = arena.take(size)
        if start is None:
            refused += 1
            for block in chosen.sample(sorted(taken), chosen.randrange(1, len(taken))):
                del taken[block]
                arena.give(block)
        else:
            assert start % channel.ALIGNMENT == 0
            assert all(start + size <= other or other + length <= start for other, length in taken.items())
            taken[start] = size
    assert refused
    for start in taken:
        arena.give(start)
    assert arena.used == 0
    assert arena.take(2**16) == 0


def test_records_arrive_with_one_notification(pair: Pair) -> None:
    """What was gathered until the flush arrives as it was, in order, and the other end is notified once."""
    records = [(0, 1, 0.5, "caf\u00e9", b"\0", (("a", 2),)), (3, 2**60, -1.0, "", b"", ())]
    for record in records:
        pair.near.send(record)
    assert pair.far.receive() == []
    assert not pair.notified()
    pair.near.flush()
    assert pair.far.receive() == records
    assert os.eventfd_read(pair.wakes[0]) == 1
    pair.near.flush()  # nothing was gathered
    assert not pair.notified()


ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "small": NUMBERS,
    "large": np.random.default_rng(0).normal(size=(3, 7, 2000)),
    "not contiguous": np.arange(60000, dtype=np.int16).reshape(200, 300)[::2, ::3].T,
    "half": np.ones((9, 4000), np.float16),
    "truth": np.arange(40000) % 3 == 0,
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(7, np.uint64),
    "text": np.array([["caf\u00e9".encode(), b""], [b"a" * 40000, b"b"]], np.object_),
}


def test_tensors_arrive_as_they_were(pair: Pair) -> None:
    """Each datatype and shape, small and large, contiguous or not, is equal at the other end."""
    pair.near.send_arrays((0, 1), ARRAYS)
    pair.near.flush()
    ((kind, number, packed),) = pair.far.receive()
    got = pair.far.arrays(packed)
    assert (kind, number) == (0, 1)
    assert list(got) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got[name], array)


def large(fill: int, size: int = ARENA // 2) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.full(size, fill, np.uint8)}


def read(end: Channel) -> list[tuple[int, np.ndarray[Any, Any]]]:
    return [(number, end.arrays(packed)["x"]) for _, number, packed in end.receive()]


def test_space_is_held_as_long_as_it_is_viewed(pair: Pair) -> None:
    """A large tensor's space comes back when the last array that views it is gone, and not before."""
    pair.near.send_arrays((0, 1), large(7))
    pair.near.flush()
    ((_, array),) = read(pair.far)
    part = array[5:10].reshape(5, 1)
    del array
    pair.far.flush()
    assert pair.near.receive() == []
    assert pair.near.lent_bytes == ARENA // 2
    np.testing.assert_array_equal(part, 7)
    del part
    assert os.eventfd_read(pair.wakes[0]) > 0  # the far end is told to flush
    pair.far.flush()
    assert pair.near.receive() == []
    assert pair.near.lent_bytes == 0


def test_what_finds_no_space_goes_when_there_is_some(pair: Pair) -> None:
    """Without room large tensors wait, in order, and small ones pass them; nothing is lost or mixed up."""
    for number in range(6):
        pair.near.send_arrays((0, number), large(number))
    pair.near.send_arrays((0, 6), large(6, SMALL))
    pair.near.flush()
    assert pair.near.waiting == 4
    order = []
    for _ in range(6):
        for number, array in read(pair.far):
            np.testing.assert_array_equal(array, number)
            order.append(number)
            del array
        pair.far.flush()
        pair.near.receive()
        pair.near.flush()
    assert order == [0, 1, 6, 2, 3, 4, 5]
    assert not pair.near.waiting


def test_what_waits_for_space_can_be_withdrawn(pair: Pair) -> None:
    """A record that waits for room is forgotten when it is withdrawn; one that was sent is not."""
    for number in range(3):
        pair.near.send_arrays((0, number), large(number))
    assert pair.near.withdraw(2)
    assert not pair.near.withdraw(2)
    assert not pair.near.withdraw(0)
    pair.near.flush()
    assert [number for number, _ in read(pair.far)] == [0, 1]
    pair.far.flush()
    pair.near.receive()
    assert not pair.near.gathered


def test_a_full_ring_is_tried_again(pair: Pair) -> None:
    """Frames that find the ring full are kept in order and go once the other end has read."""
    blob = bytes(channel.FRAME_BYTES - 100)
    for number in range(12):
        pair.near.send((0, number, blob))
        pair.near.flush()
    got: list[int] = []
    before = pair.near.stuck
    while pair.near.stuck:
        got += [number for _, number, _ in pair.far.receive()]
        pair.near.flush()
    got += [number for _, number, _ in pair.far.receive()]
    assert before
    assert got == list(range(12))


def test_who_waits_is_told_of_a_full_ring(pair: Pair) -> None:
    """An end that finds the ring full wakes its own waiter, once: nothing else would have it try again."""
    pair.far.send((0, 1, bytes(3 * channel.RING_BYTES)))
    pair.far.flush()
    assert pair.far.stuck
    assert pair.notified()
    pair.far.flush()
    assert not pair.notified()


def test_long_records_go_in_parts(pair: Pair) -> None:
    """Records longer than a frame, and than the whole ring, arrive whole and in order, though the arena is full."""
    pair.near.send_arrays((0, 0), large(0, ARENA))
    records = [(0, 1, "x" * (channel.FRAME_BYTES + 1)), (0, 2, bytes(3 * channel.RING_BYTES)), (0, 3, b"short")]
    for record in records:
        pair.near.send(record)
    pair.near.flush()
    got = pair.far.receive()
    while pair.near.stuck:
        pair.near.flush()
        got += pair.far.receive()
    assert got[1:] == records


def test_tensors_larger_than_the_arena_are_refused(pair: Pair) -> None:
    """Tensors that can never fit are not waited for, and take no space."""
    pair.near.send_arrays((0, 1), {"a": np.zeros(ARENA // 2, np.uint8), "b": np.zeros(ARENA // 2 + 1, np.uint8)})
    assert pair.lost == [(0, 1)]
    assert (pair.near.waiting, pair.near.lent_bytes) == (0, 0)


def test_both_full_is_no_deadlock(pair: Pair) -> None:
    """With both arenas full and both ends waiting for room, everything arrives."""
    ends = pair.near, pair.far
    for end in ends:
        for number in range(10):
            end.send_arrays((0, number), large(number))
        end.send((0, 10, bytes(channel.FRAME_BYTES + 1)))
    got: dict[Channel, list[int]] = {end: [] for end in ends}
    for _ in range(40):
        for end in ends:
            for _, number, content in end.receive():
                if isinstance(content, tuple):
                    np.testing.assert_array_equal(end.arrays(content)["x"], number)
                got[end].append(number)
            end.flush()
    assert all(sorted(numbers) == list(range(11)) for numbers in got.values())


def test_a_closed_channel_notifies_nobody(pair: Pair) -> None:
    """Once closed, an end writes the other's eventfd no more, whose number may be another file's by then."""
    pair.near.send((0, 1))
    pair.near.close()
    pair.near.flush()
    assert not pair.notified()
    assert not pair.near.stuck


ECHO = """
import os, sys
import numpy as np
from server import channel
memory, wake_near, wake_far, arena = map(int, sys.argv[1:])
end = channel.Channel(memory, arena, first=False, wake_other=wake_near, wake_self=wake_far, lost=print)
left = True
while left:
    channel.wait(wake_far, stuck=end.stuck)
    for record in end.receive():
        if record[0] == 0:
            left = False
        else:
            end.send_arrays((1, record[1]), {name: array + 1 for name, array in end.arrays(record[2]).items()})
    end.flush()
"""


def test_many_threads_and_another_process() -> None:
    """Tensors of random sizes, sent by several threads, all come back from another process with their own contents."""
    arena = 2**22
    memory = channel.create_memory(arena)
    near, far = os.eventfd(0), os.eventfd(0)
    end = Channel(memory, arena, first=True, wake_other=far, wake_self=near, lost=lambda _: None)
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO, *map(str, (memory, near, far, arena))], pass_fds=(memory, near, far)
    )
    threads, each = 6, 150
    expected: dict[int, tuple[int, int]] = {}

    def send(thread: int) -> None:
        chosen = random.Random(thread)
        for turn in range(each):
            size = int(10 ** chosen.uniform(0, 6))
            number = thread * each + turn
            expected[number] = (size, number % 250)
            end.send_arrays((1, number), large(number % 250, size))
            if chosen.random() < 0.5:
                end.flush()
        end.flush()

    senders = [threading.Thread(target=send, args=(index,)) for index in range(threads)]
    for sender in senders:
        sender.start()
    answered: set[int] = set()
    while len(answered) < threads * each:
        channel.wait(near, stuck=end.stuck)
        for _, number, packed in end.receive():
            size, fill = expected[number]
            array = end.arrays(packed)["x"]
            assert array.shape == (size,)
            assert (array == fill + 1).all()
            assert number not in answered
            answered.add(number)
            del array  # its space is given back by the next flush
        end.flush()
    for sender in senders:
        sender.join()
    end.send((0, 0))
    end.flush()
    assert process.wait(20) == 0
    end.receive()
    assert end.lent_bytes == 0
    for each_fd in (memory, near, far):
        os.close(each_fd)

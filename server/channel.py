"""Records and tensors between two processes: shared memory, and an eventfd that says that there is something to read.

Each direction has a ring and an arena. The ring carries frames: whatever one side gathered until it flushed, in one
piece, so that a busy side pays a copy and one notification for many requests. Tensors that are too large to be copied
twice lie in the arena, where the reader views them; the writer gets the space back when no view is left. Only the
writer allots its arena: no lock spans the processes, and a process that dies holds nothing that the other needs.
"""

from __future__ import annotations

import bisect
import marshal
import mmap
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from server import wire
from server.heads import Spec
from server.tensors import DATATYPES, NUMPY, Array

Record: TypeAlias = "tuple[Any, ...]"
"""Numbers, text, bytes and tuples of them: what `marshal` writes (its fast, private format is the same at both ends,
which are one interpreter; nothing that a caller sent is ever read by it)."""
Contents: TypeAlias = "bytes | tuple[int, int]"
"""A tensor's bytes, or where they begin in the arena and how many they are."""
Packed: TypeAlias = "tuple[tuple[Spec, ...], tuple[Contents, ...]]"
"""Tensors: what they are, and their contents."""

Origin: TypeAlias = "tuple[str, str, str] | None"
"""Where a request comes from, for tracing: its id, traceparent and tracestate."""

RING_BYTES = 2**21
FRAME_BYTES = RING_BYTES // 4
"""The longest frame; what is longer goes in several, which the other end joins."""
LARGE_BYTES = 2**14
"""From here on the tensors of a record go through the arena: two copies of less cost under 2 us."""
ALIGNMENT = 64
"""Of what lies in an arena, in bytes: a cache line, and what ONNX Runtime's kernels like best."""
RETRY_SECONDS = 0.001
"""How often a full ring is tried again; its reader empties it each time that it wakes."""
RETURNS = 4096
"""The most blocks that one frame gives back."""
_HEADER = 128
"""Of a ring: two counters, each on a cache line of its own."""
_RECORDS, _BEGINNING, _RETURNS, _WRAP = range(4)
"""What a frame holds: records, a part of them that goes on in the next frame, blocks of an arena that are given back;
or nothing, and the next frame is at the ring's beginning."""


def arena_bytes(max_message_bytes: int) -> int:
    """Return the size of each arena: room for several of the largest messages; pages take memory once they are used."""
    return max(2**26, 4 * max_message_bytes)


INFER, CANCEL, REFUSE, CALL, LISTENING = range(5)
"""From a front end: (INFER, number, arrived, origin, model, version, (timeout, priority, outputs), tensors),
(CANCEL, number, code), (REFUSE, number, arrived, origin, model, version, code, details),
(CALL, number, method, message), (LISTENING, 0)."""
ANSWER, REPLY, HEALTH, STOP, LOG = range(5, 10)
"""From the engine: (ANSWER, number, code, details, version, inline, tensors), (REPLY, number, code, details, message),
(HEALTH, 0, service, status), (STOP, 0, grace), (LOG, 0, settings by name)."""
MESSAGE, WRITTEN = 10, 11
"""ModelInfer in one piece, where tensors are in the callers' shared memory, which only the engine knows: (MESSAGE, number,
arrived, trace context, message, raw contents) and (WRITTEN, number, code, details, message)."""


class Ring:
    """Frames from one process to another, in order: one writes, one reads, each from one thread at a time.

    Args:
        memory: shared by both; zeros at first.
    """

    def __init__(self, memory: memoryview) -> None:
        self._counters = memory[:_HEADER].cast("Q")  # a store or load of one of them is one instruction
        self._data = memory[_HEADER:]
        self._size = len(self._data)
        self._written = int(self._counters[0])
        self._read = int(self._counters[8])
        self._fence = threading.Lock()
        self._fence.acquire()

    def put(self, kind: int, frame: bytes) -> bool:
        """Write one frame; return whether there was room."""
        need = 16 + -(-len(frame) // 8) * 8
        at = self._written % self._size
        skip = self._size - at if at + need > self._size else 0
        if self._written + skip + need - self._counters[8] > self._size:
            return False
        if skip:
            self._data[at : at + 8] = _WRAP.to_bytes(8, "little")
            self._written += skip
            at = 0
        self._data[at : at + 16] = kind.to_bytes(8, "little") + len(frame).to_bytes(8, "little")
        self._data[at + 16 : at + 16 + len(frame)] = frame
        self._written += need
        self._order()  # the frame is there before the counter says so
        self._counters[0] = self._written
        return True

    def take(self) -> Iterator[tuple[int, memoryview]]:
        """Read what is there now; each frame is valid until the next one is asked for."""
        written = int(self._counters[0])
        self._order()  # the frame is read after the counter
        while self._read < written:
            at = self._read % self._size
            kind = int.from_bytes(self._data[at : at + 8], "little")
            if kind == _WRAP:
                self._read += self._size - at
                continue
            length = int.from_bytes(self._data[at + 8 : at + 16], "little")
            yield kind, self._data[at + 16 : at + 16 + length]
            self._read += 16 + -(-length // 8) * 8
            self._order()  # the frame was read before its room is given away
            self._counters[8] = self._read

    def _order(self) -> None:
        """Order the stores and loads before this against those after it, on x86 and on ARM.

        Releasing a lock and taking it again is the full barrier that Python has: what came before stays before the
        release, what comes after stays after the acquisition, and those two are ordered, being of one lock.
        """
        self._fence.release()
        self._fence.acquire()


class Arena:
    """The free space of some memory; the lowest that fits is taken, so that few pages are touched."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)]
        self._taken: dict[int, int] = {}
        self._lock = threading.Lock()

    def take(self, size: int) -> int | None:
        """Return where so many bytes may be written; None: there is no room now."""
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        with self._lock:
            for index, (start, length) in enumerate(self._free):
                if length >= size:
                    self._free[index : index + 1] = [(start + size, length - size)] if length > size else []
                    self._taken[start] = size
                    return start
        return None

    def give(self, start: int) -> None:
        """Take back what `take` gave."""
        with self._lock:
            end = start + self._taken.pop(start)
            index = bisect.bisect(self._free, (start, 0))
            if index < len(self._free) and self._free[index][0] == end:
                end += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == start:
                index -= 1
                start = self._free.pop(index)[0]
            self._free.insert(index, (start, end - start))

    @property
    def used(self) -> int:
        """How many bytes are taken."""
        return sum(self._taken.values())


class Borrowed:
    """A stretch of the other side's arena, as numpy takes it; given back when no array views it any more."""

    def __init__(self, memory: Array, start: int, size: int, give_back: Callable[[int], None]) -> None:
        self._memory = memory  # what the mapping lives by
        self._start = start
        self._give_back = give_back
        address = memory.__array_interface__["data"][0] + start
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}

    def __del__(self) -> None:
        self._give_back(self._start)


class Channel:
    """One end of a pair: what one end sends is received at the other.

    Any thread may `send` and `flush`; one thread at a time may `receive`, and it calls `flush` afterwards: space is
    given back, and what waited for some is sent, by that.

    Args:
        memory: a file descriptor of `memory_bytes`, zeros at first; the same for both ends.
        arena_size: of each direction; the same for both ends.
        first: which end this is; a pair has one of each.
        wake_other: the eventfd at which the other end waits.
        wake_self: the eventfd at which this end waits; written when views have ended, so that a `flush` follows.
        lost: told, instead of the other end, of a record whose arrays are larger than the whole arena.
    """

    def __init__(
        self,
        memory: int,
        arena_size: int,
        *,
        first: bool,
        wake_other: int,
        wake_self: int,
        lost: Callable[[Record], None],
    ) -> None:
        mapped = memoryview(mmap.mmap(memory, memory_bytes(arena_size)))
        rings = mapped[:RING_BYTES], mapped[RING_BYTES : 2 * RING_BYTES]
        arenas = mapped[2 * RING_BYTES : -arena_size], mapped[-arena_size:]
        mine, theirs = (0, 1) if first else (1, 0)
        self._out, self._in = Ring(rings[mine]), Ring(rings[theirs])
        self._lent, self._borrowed = np.frombuffer(arenas[mine], np.uint8), np.frombuffer(arenas[theirs], np.uint8)
        self._arena = Arena(arena_size)
        self._arena_size = arena_size
        self._wake_other = wake_other
        self._wake_self = wake_self
        self._lost = lost
        self._lock = threading.Lock()
        self._gathered: list[Record] = []
        self._waiting: deque[tuple[Record, Mapping[str, Array]]] = deque()
        self._frames: deque[tuple[int, bytes]] = deque()
        self._beginnings: list[bytes] = []
        self._closed = False
        self._full = False
        """The ring was full at the last `flush`, and this end's waiter knows."""
        self._ended: deque[int] = deque()

    @property
    def waiting(self) -> int:
        """How many records wait for room in the arena."""
        return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether something is left to `flush` again a little later, since the ring was full."""
        return bool(self._frames or self._ended) and not self._closed

    @property
    def lent_bytes(self) -> int:
        """How much of its arena the other end still uses."""
        return self._arena.used

    @property
    def gathered(self) -> bool:
        """Whether something waits for `flush`."""
        return bool(self._gathered)

    def send(self, record: Record) -> None:
        """Gather a record for the next `flush`."""
        with self._lock:
            self._gathered.append(record)

    def send_arrays(self, record: Record, arrays: Mapping[str, Array]) -> None:
        """Gather a record and these arrays, as `pack` returns them, behind it; without room it goes once there is some.

        Args:
            record: its second element is its number, by which it can be withdrawn.
            arrays: must not change while the record waits for room.
        """
        packed = self.pack(arrays)
        if packed is not None:
            self.send((*record, packed))
        elif sum(array.nbytes + ALIGNMENT for array in arrays.values()) > self._arena_size:
            self._lost(record)
        else:
            with self._lock:
                self._waiting.append((record, arrays))
            self._retry()  # there may be room since; the other end tells but once

    def pack(self, arrays: Mapping[str, Array]) -> Packed | None:
        """Copy arrays into a form for a record, large ones into the arena; None: there is no room, or others wait."""
        return self._pack(arrays, behind=bool(self._waiting))

    def withdraw(self, number: int) -> bool:
        """Forget the record of this number if it waits for room; return whether it did."""
        with self._lock:
            for index, (record, _) in enumerate(self._waiting):
                if record[1] == number:
                    del self._waiting[index]
                    return True
        return False

    def flush(self) -> None:
        """Write what was gathered, and notify the other end, once."""
        if not (self._gathered or self._ended or self._frames):
            return
        with self._lock:
            records, self._gathered = self._gathered, []
            if self._ended:
                self._give_back()
            if records:
                self._frames += _frames(marshal.dumps(records))
            while self._frames and self._out.put(*self._frames[0]):
                self._frames.popleft()
            if not self._closed:
                os.eventfd_write(self._wake_other, 1)
                if self._frames and not self._full:  # the other end does not tell when there is room
                    os.eventfd_write(self._wake_self, 1)
                self._full = bool(self._frames)

    def close(self) -> None:
        """Notify the other end no more: it is gone, and the number of its eventfd may soon be another file's."""
        with self._lock:
            self._closed = True

    def receive(self) -> list[Record]:
        """Return the records that are there."""
        records: list[Record] = []
        given = False
        for kind, frame in self._in.take():
            if kind == _BEGINNING:
                self._beginnings.append(bytes(frame))
            elif kind == _RETURNS:
                for start in marshal.loads(frame):  # noqa: S302  see Record
                    self._arena.give(start)
                given = True
            elif self._beginnings:
                records += marshal.loads(b"".join((*self._beginnings, frame)))  # noqa: S302
                self._beginnings.clear()
            else:
                records += marshal.loads(frame)  # noqa: S302
        if given and self._waiting:
            self._retry()
        return records

    def contents(self, contents: Contents) -> bytes | Array:
        """Return a tensor's bytes; large ones as a UINT8 view that holds their space in the other end's arena."""
        return contents if isinstance(contents, bytes) else self._borrow(contents)

    def arrays(self, packed: Packed) -> dict[str, Array]:
        """Return the tensors that a record carries, views of what `contents` returns but for BYTES."""
        return {
            name: wire.from_raw(name, datatype, shape, contents)
            if datatype == "BYTES" and isinstance(contents, bytes)
            else np.frombuffer(self.contents(contents), NUMPY[datatype]).reshape(shape)
            for (name, datatype, shape), contents in zip(*packed, strict=True)
        }

    def _pack(self, arrays: Mapping[str, Array], *, behind: bool) -> Packed | None:
        packed: list[Contents] = []
        for array in arrays.values():
            contents: Contents | None
            if array.nbytes < LARGE_BYTES or array.dtype.hasobject:
                contents = wire.to_raw(array)
            elif behind or (contents := self._lend(array)) is None:
                for taken in packed:
                    if isinstance(taken, tuple):
                        self._arena.give(taken[0])
                return None
            packed.append(contents)
        specs = tuple([(name, DATATYPES[array.dtype], array.shape) for name, array in arrays.items()])
        return specs, tuple(packed)

    def _lend(self, array: Array) -> tuple[int, int] | None:
        """Copy an array into the arena."""
        start = self._arena.take(array.nbytes)
        if start is None:
            return None
        room = self._lent[start : start + array.nbytes]
        np.copyto(room.view(array.dtype).reshape(array.shape), array)
        return start, array.nbytes

    def _borrow(self, where: tuple[int, int]) -> Array:
        return np.asarray(Borrowed(self._borrowed, *where, self._end))

    def _end(self, start: int) -> None:
        """Note that a view has ended. The interpreter calls this at any point of any thread: no lock is taken here."""
        self._ended.append(start)
        os.eventfd_write(self._wake_self, 1)

    def _retry(self) -> None:
        """Send what waits for room, in order, as far as there is some."""
        with self._lock:
            while self._waiting:
                record, arrays = self._waiting[0]
                packed = self._pack(arrays, behind=False)
                if packed is None:
                    return
                self._waiting.popleft()
                self._gathered.append((*record, packed))

    def _give_back(self) -> None:
        """Tell the other end which of its blocks are free. Frames wait for no arena, so this always gets through."""
        ended = [self._ended.popleft() for _ in range(min(len(self._ended), RETURNS))]
        if not self._out.put(_RETURNS, marshal.dumps(ended)):
            self._ended.extend(ended)


def _frames(written: bytes) -> list[tuple[int, bytes]]:
    """Cut records into frames."""
    if len(written) <= FRAME_BYTES:
        return [(_RECORDS, written)]
    parts = [written[at : at + FRAME_BYTES] for at in range(0, len(written), FRAME_BYTES)]
    return [*((_BEGINNING, part) for part in parts[:-1]), (_RECORDS, parts[-1])]


def memory_bytes(arena_size: int) -> int:
    """Return the size of the memory that a pair shares."""
    return 2 * RING_BYTES + 2 * arena_size


def create_memory(arena_size: int) -> int:
    """Return the file descriptor of new memory for a pair; its pages exist once they are used."""
    memory = os.memfd_create("netweight")
    os.ftruncate(memory, memory_bytes(arena_size))
    return memory


def wait(wake: int, *, stuck: bool) -> None:
    """Block until another process writes this eventfd; if a channel is stuck, no longer than a retry is away."""
    if not stuck or select.select([wake], [], [], RETRY_SECONDS)[0]:
        os.eventfd_read(wake)

"""System shared memory: regions of it that callers have made known, from which tensors are read and to which they go.

Nothing is mapped: tensors are copied by pread and pwrite, so that a caller who shrinks or changes the memory meanwhile
gets an error or other numbers, and never kills the server (touching a mapped page that is gone raises SIGBUS). Tensors
are read when their request comes, in one copy.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from server.pb import inference_pb2 as pb

log = logging.getLogger(__name__)
DIRECTORY = "/dev/shm"  # noqa: S108  where Linux keeps what shm_open opens
LONGEST_NAME = 255
"""Characters of a region's name, and of a key."""
REGION, BYTE_SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
"""Parameters of a tensor that is, or goes, there."""
OFF = "shared memory is off: the server must be started with --shared-memory"
NO_CUDA = "CUDA shared memory is not there: register system shared memory, or send tensors in the request"


class Memory:
    """A shared memory object; open as long as somebody holds it."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @property
    def byte_size(self) -> int:
        """How large the object is now; its owner may change that at any time."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        """Return these bytes; fewer if the object is shorter."""
        return os.pread(self._descriptor, size, start)

    def write(self, start: int, contents: bytes | memoryview) -> int:
        """Write these bytes and return how many were written."""
        return os.pwrite(self._descriptor, contents, start)


@dataclass(frozen=True)
class Region:
    """A stretch of shared memory that has a name here. Sizes and offsets are bytes."""

    name: str
    key: str
    """As shm_open takes it: ``/name``."""
    offset: int
    """Where it begins in the object."""
    byte_size: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a region: where one tensor is, or goes. It keeps the region's memory open."""

    region: Region
    byte_size: int
    offset: int
    """From the region's beginning."""

    def read(self, where: str) -> bytes:
        """Return a copy of what is there.

        Raises:
            InvalidArgumentError: the object has been shortened since it was registered.
        """
        contents = self.region.memory.read(self._start, self.byte_size)
        if len(contents) < self.byte_size:
            raise InvalidArgumentError(f"{where}: {self._shortened()}")
        return contents

    def write(self, where: str, contents: bytes | memoryview) -> int:
        """Put a tensor's bytes there and return how many they are.

        Raises:
            InvalidArgumentError: they need more room than there is, or the object has been shortened.
            UnavailableError: the system has no memory left for it.
        """
        size = len(contents)
        if size > self.byte_size:
            raise InvalidArgumentError(
                f"{where} needs {size} bytes; the request gives it {self.byte_size} in region {self.region.name!r}"
            )
        if self.region.memory.byte_size < self._start + size:  # writing would lengthen it
            raise InvalidArgumentError(f"{where}: {self._shortened()}")
        try:
            written = self.region.memory.write(self._start, contents)
        except OSError as error:
            raise UnavailableError(
                f"{where}: region {self.region.name!r} cannot be written: {error.strerror}"
            ) from error
        if written < size:
            raise UnavailableError(f"{where}: region {self.region.name!r} took {written} of {size} bytes")
        return size

    @property
    def _start(self) -> int:
        return self.region.offset + self.offset

    def _shortened(self) -> str:
        return (
            f"region {self.region.name!r}: {self.region.key} has been shortened to {self.region.memory.byte_size} bytes; "
            f"needed are {self._start + self.byte_size}"
        )


class SharedMemory:
    """The regions that are registered.

    Args:
        max_regions: how many there may be at a time; 0: shared memory is off.
        max_bytes: how many bytes they may have altogether.
        max_request_bytes: how many bytes one request may take from them.
    """

    def __init__(self, max_regions: int = 0, max_bytes: int = 0, max_request_bytes: int = 0) -> None:
        self.enabled = max_regions > 0
        self._max_request_bytes = max_request_bytes
        self._max_regions = max_regions
        self._max_bytes = max_bytes
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a region known.

        Raises:
            UnimplementedError: shared memory is off.
            InvalidArgumentError: the key names no shared memory, or less of it than that; or a limit is reached.
            AlreadyExistsError: the name is taken.
        """
        self._insist()
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidArgumentError(f"a region's name has {len(name)} characters; expected 1 to {LONGEST_NAME}")
        if byte_size < 1:
            raise InvalidArgumentError(f"region {name!r}: byte_size is {byte_size}; expected 1 or more")
        with self._lock:
            if name in self._regions:
                raise AlreadyExistsError(f"region {name!r} is registered already; unregister it first")
            self._check_room(name, byte_size)
            memory = open_memory(name, key)
            if memory.byte_size < offset + byte_size:
                raise InvalidArgumentError(
                    f"region {name!r}: {key} has {memory.byte_size} bytes; "
                    f"expected at least offset {offset} and byte_size {byte_size} together"
                )
            self._regions[name] = Region(name, key, offset, byte_size, memory)
        log.info("shared memory region %r: %d bytes from %d of %s", name, byte_size, offset, key)

    def unregister(self, name: str = "") -> None:
        """Forget a region; without a name, all. Requests that use it go on, and it is closed after them.

        Raises:
            UnimplementedError: shared memory is off.
            NotFoundError: there is none of this name.
        """
        self._insist()
        with self._lock:
            if name:
                self._find(name)
                del self._regions[name]
            else:
                self._regions.clear()

    def status(self, name: str = "") -> list[Region]:
        """Return a region; without a name, all.

        Raises:
            UnimplementedError: shared memory is off.
            NotFoundError: there is none of this name.
        """
        self._insist()
        with self._lock:
            return [self._find(name)] if name else list(self._regions.values())

    def inputs(self, where: str, tensors: Iterable[tuple[str, Mapping[str, pb.InferParameter]]]) -> dict[str, bytes]:
        """Return the contents of those of a request's inputs that are here; of them alone.

        Args:
            where: the request.
            tensors: the name and the parameters of each input.

        Raises:
            InvalidArgumentError: parameters contradict, or name more than there is, or than one request may take.
            NotFoundError: there is no such region.
            UnimplementedError: shared memory is off.
        """
        parts = {name: self.named(f"{where}: input {name!r}", parameters) for name, parameters in tensors}
        here = {name: part for name, part in parts.items() if part is not None}
        taken = sum(part.byte_size for part in here.values())
        if taken > self._max_request_bytes:
            raise InvalidArgumentError(
                f"{where}: its inputs take {taken} bytes from shared memory; "
                f"the limit is {self._max_request_bytes} (--max-message-bytes)"
            )
        return {name: part.read(f"{where}: input {name!r}") for name, part in here.items()}

    def named(self, where: str, parameters: Mapping[str, pb.InferParameter]) -> Part | None:
        """Return what a tensor's parameters name; None: nothing here. Raises as `inputs` does."""
        if REGION not in parameters:
            if BYTE_SIZE in parameters or OFFSET in parameters:
                raise InvalidArgumentError(f"{where}: {BYTE_SIZE} and {OFFSET} need {REGION} beside them")
            return None
        if (kind := parameters[REGION].WhichOneof("parameter_choice")) != "string_param":
            raise InvalidArgumentError(f"{where}: {REGION} came as {kind}; expected string_param")
        if BYTE_SIZE not in parameters:
            raise InvalidArgumentError(f"{where}: {REGION} needs {BYTE_SIZE} beside it")
        byte_size = _bytes(where, BYTE_SIZE, parameters[BYTE_SIZE])
        offset = _bytes(where, OFFSET, parameters[OFFSET]) if OFFSET in parameters else 0
        return self.part(where, parameters[REGION].string_param, byte_size, offset)

    def part(self, where: str, name: str, byte_size: int, offset: int) -> Part:
        """Return a stretch of a region.

        Raises:
            UnimplementedError: shared memory is off.
            NotFoundError: there is no such region.
            InvalidArgumentError: the stretch goes beyond the region.
        """
        self._insist(f"{where}: ")
        region = self._find(name, f"{where}: ")
        if offset + byte_size > region.byte_size:
            raise InvalidArgumentError(
                f"{where}: {byte_size} bytes from {offset} go beyond region {name!r}, which has {region.byte_size}"
            )
        return Part(region, byte_size, offset)

    def _find(self, name: str, where: str = "") -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"{where}shared memory region {name!r} is not registered")
        return region

    def _insist(self, where: str = "") -> None:
        if not self.enabled:
            raise UnimplementedError(where + OFF)

    def _check_room(self, name: str, byte_size: int) -> None:
        if len(self._regions) >= self._max_regions:
            raise InvalidArgumentError(
                f"region {name!r}: {self._max_regions} regions are registered already, "
                "the limit (--max-shared-memory-regions); unregister one"
            )
        taken = sum(region.byte_size for region in self._regions.values())
        if taken + byte_size > self._max_bytes:
            raise InvalidArgumentError(
                f"region {name!r}: {byte_size} bytes beside {taken} that are registered are more than the limit, "
                f"{self._max_bytes} (--max-shared-memory-bytes)"
            )


def _bytes(where: str, name: str, parameter: pb.InferParameter) -> int:
    """Return a parameter that is a number of bytes."""
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidArgumentError(f"{where}: {name} came as {kind}; expected int64_param")
    value: int = getattr(parameter, kind)
    if value < 0:
        raise InvalidArgumentError(f"{where}: {name} is {value}; expected 0 or more")
    return value


def open_memory(name: str, key: str) -> Memory:
    """Open what a key stands for, as shm_open does, for the region of this name.

    Raises:
        InvalidArgumentError: the key is none, or there is no shared memory of it that this process may read and write.
    """
    file = key.removeprefix("/")  # shm_open takes a name without it just as well
    if not 0 < len(file) < LONGEST_NAME or "/" in file or "\0" in file:
        raise InvalidArgumentError(f"region {name!r}: key is {key!r}; expected /NAME, without further slashes")
    try:
        descriptor = os.open(f"{DIRECTORY}/{file}", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"region {name!r}: {key!r} cannot be opened: {error}") from error
    memory = Memory(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InvalidArgumentError(f"region {name!r}: {key!r} is no shared memory")
    return memory

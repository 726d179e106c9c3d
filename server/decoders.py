"""Threads that decode images: what a caller sends as files becomes arrays before its request is queued for a batch.

There are as many as CPUs, for all models together, and they start when the first file comes. Pillow releases Python's
lock while it decodes and resizes, so they work side by side, and beside the thread that reads every call. How many
requests wait is bounded, and so is how many pixels are in memory at once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias
from weakref import WeakSet

import numpy as np

from server.errors import ClosedError, InvalidArgumentError, UnavailableError
from server.machine import BLOCKS

if TYPE_CHECKING:
    from server.card import Preprocessing
    from server.tensors import Array

log = logging.getLogger(__name__)
LARGE_PIXELS = 1_000_000
"""From here on an image's memory comes from the system and goes back to it: each thread would keep its own otherwise."""
Tensors: TypeAlias = "dict[str, Array]"


class Owner(Protocol):
    """A model, as far as it matters here."""

    def flush(self) -> None:
        """Run what was queued, if the model has no thread that does."""


@dataclass(slots=True, eq=False)
class Decoding:
    """One request whose files become arrays. It is done once: queued, refused, or withdrawn.

    What is done needs neither the inputs nor whoever waits, and lets go of them.
    """

    owner: Owner
    where: str
    """Begins each message: ``model resnet50 version 1``."""
    inputs: Tensors
    files: tuple[str, ...]
    """The names of the inputs that are files."""
    how: Preprocessing
    """What becomes of them."""
    queue: Callable[[Tensors], None]
    """Called with the inputs when all of them are arrays; what it raises refuses the request."""
    refuse: Callable[[Exception], None]
    """Called with what is wrong, in place of it."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False
    queued: bool = False

    def finish(self, tensors: Tensors) -> None:
        """Queue the request, unless it was withdrawn."""
        with self.lock:  # who withdraws it finds it either here or in the queue
            if not self.done:
                self.queue(tensors)
                self.done = self.queued = True
                self._let_go()

    def fail(self, error: Exception) -> None:
        """Refuse the request, unless it was withdrawn."""
        with self.lock:
            refuse = self.refuse
            self.done = True
            self._let_go()
        refuse(error)

    def withdraw(self) -> bool:
        """Forget it, unless it was queued or refused; return whether it is forgotten."""
        with self.lock:
            if self.done:
                return False
            self.done = True
            self._let_go()
            return True

    def _let_go(self) -> None:
        self.inputs = {}
        self.queue = lambda _: None
        self.refuse = lambda _: None


class Decoders:
    """The threads, and the requests that wait for one.

    Args:
        threads: how many at most.
        max_waiting: requests that may wait; more are refused.
        max_pixels: of an image, and of all that are decoded at once, together.
    """

    def __init__(self, threads: int, max_waiting: int, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._most_threads = threads
        self._max_waiting = max_waiting
        self._waiting: deque[Decoding] = deque()
        self._unfinished: Counter[Owner] = Counter()
        """Requests of each model that wait here or are decoded."""
        self._finishing: WeakSet[Owner] = WeakSet()
        """Models that are being unloaded."""
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._pixels = 0
        self._room = threading.Condition()
        self._turn = threading.Lock()

    def submit(self, decoding: Decoding) -> None:
        """Let a request wait for its turn: first come, first served.

        Raises:
            UnavailableError: too many wait, or the server stops.
            ClosedError: its model finishes.
        """
        with self._changed:
            if decoding.owner in self._finishing:
                decoding.withdraw()
                raise ClosedError(f"{decoding.where}: it is being unloaded: try again")
            if self._closed or len(self._waiting) >= self._max_waiting:
                decoding.withdraw()
                raise UnavailableError(
                    f"{decoding.where}: {len(self._waiting)} requests wait for their images to be decoded: try again later"
                )
            self._waiting.append(decoding)
            self._unfinished[decoding.owner] += 1
            if len(self._threads) < self._most_threads:
                thread = threading.Thread(target=self._serve, name=f"images-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def withdraw(self, decoding: Decoding) -> bool:
        """Forget a request, unless it was queued or refused; return whether it is forgotten."""
        if not decoding.withdraw():
            return False
        with self._changed:
            if decoding in self._waiting:
                self._waiting.remove(decoding)
                self._end(decoding)
        return True

    def unfinished(self, owner: Owner) -> int:
        """How many of a model's requests are here."""
        return self._unfinished[owner]

    def finish(self, owner: Owner) -> None:
        """Take no more of a model's requests, and wait until none is here."""
        with self._changed:
            self._finishing.add(owner)
            self._changed.wait_for(lambda: not self._unfinished[owner])

    def close(self) -> None:
        """Take nothing new, decode what waits, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def room(self, pixels: int) -> Iterator[None]:
        """Hold room for so many pixels, at most `max_pixels`: wait until what others hold leaves it."""
        with self._turn, self._room:  # in turn: a large image is not overtaken for ever
            self._room.wait_for(lambda: self._pixels + pixels <= self.max_pixels)
            self._pixels += pixels
        try:
            with BLOCKS.mapped() if pixels >= LARGE_PIXELS else nullcontext():
                yield
        finally:
            with self._room:
                self._pixels -= pixels
                self._room.notify_all()

    def _serve(self) -> None:
        while (decoding := self._next()) is not None:
            try:
                decoding.finish(self._decode(decoding))
            except Exception as error:  # noqa: BLE001  whoever waits must hear of it, and the thread lives on
                decoding.fail(error)
            try:
                decoding.owner.flush()
            except Exception:
                log.exception("a batch failed")
            with self._changed:
                self._end(decoding)
            del decoding

    def _next(self) -> Decoding | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None

    def _end(self, decoding: Decoding) -> None:
        """Count a request out; the lock is held."""
        self._unfinished[decoding.owner] -= 1
        if not self._unfinished[decoding.owner]:
            del self._unfinished[decoding.owner]
            self._changed.notify_all()

    def _decode(self, decoding: Decoding) -> Tensors:
        """Return the inputs with pixels in place of files; the files are decoded in order."""
        inputs = decoding.inputs
        return {**inputs, **{name: self._decode_input(decoding, name, inputs[name]) for name in decoding.files}}

    def _decode_input(self, decoding: Decoding, name: str, files: Array) -> Array:
        """Return UINT8 [batch, height, width, channels] of an input's files; those of a withdrawn request are left."""
        from server.images import ImageError, decode  # Pillow takes 30 ms to import, which a start need not wait for

        how = decoding.how
        pixels = np.zeros((files.size, *how.shape), np.uint8)
        for index, file in enumerate(files.ravel()):
            if decoding.done:
                break
            try:
                pixels[index] = decode(file, how, self.max_pixels, self.room)
            except ImageError as error:
                raise InvalidArgumentError(f"{decoding.where}: input {name!r}: image {index} {error}") from error
        return pixels


@dataclass(frozen=True)
class ImageFiles:
    """Whether a model takes images as files too."""

    how: Preprocessing | str
    """How they become pixels; in words, why they cannot."""
    decoders: Decoders

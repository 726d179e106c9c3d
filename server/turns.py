"""Whose turn it is: loads of one model go one after the other, and an unload makes vain those asked for before it."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.errors import UnavailableError

if TYPE_CHECKING:
    from server.source import Source


@dataclass(eq=False)
class Turn:
    """Of one model."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by the load whose turn it is."""
    unloads: int = 0


@dataclass(frozen=True)
class Attempt:
    """One try to serve what a source holds."""

    source: Source
    needed: bool
    """Whether the server is not ready until the versions are, if they are not served yet."""
    turn: Turn
    unloads: int
    """So many came before it."""

    @property
    def name(self) -> str:
        """The model's."""
        return self.source.name


class Turns:
    """The turns of all models, each as long as somebody tries to load it. Whoever calls holds one lock for all of it.

    Args:
        stopping: set when the server stops: every attempt is vain then.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._turns: weakref.WeakValueDictionary[str, Turn] = weakref.WeakValueDictionary()

    def attempt(self, source: Source, *, needed: bool) -> Attempt:
        """Begin an attempt."""
        turn = self._turns.setdefault(source.name, Turn())
        return Attempt(source, needed, turn, turn.unloads)

    def cancel(self, name: str) -> None:
        """Make vain every attempt at this model that was begun so far."""
        if (turn := self._turns.get(name)) is not None:
            turn.unloads += 1

    def check(self, attempt: Attempt) -> None:
        """See that what was asked for is still wanted.

        Raises:
            UnavailableError: it is not.
        """
        if self._stopping.is_set():
            raise UnavailableError(f"model {attempt.name}: nothing is loaded any more, the server stops")
        if attempt.turn.unloads != attempt.unloads:
            raise UnavailableError(f"model {attempt.name} was unloaded before it was loaded")

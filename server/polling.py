"""Model control by the files: looks at the repository again and again, and serves what has changed."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from server import source
from server.source import Source

if TYPE_CHECKING:
    from server.config import Settings
    from server.control import Control
    from server.source import Files

log = logging.getLogger(__name__)
SETTLE_SECONDS = 1.0
"""What has changed is looked at again so soon; it is acted on if it is the same then: nobody writes to it any more."""


class Polling:
    """A thread that looks at the repository.

    Args:
        settings: where that is, and how often to look.
        control: told of each model that has changed, come or gone.
        stopping: ends the thread.
    """

    def __init__(self, settings: Settings, control: Control, stopping: threading.Event) -> None:
        self._settings = settings
        self._control = control
        self._stopping = stopping
        self._followed: dict[str, Files] = {}
        self._followed = self._look()
        self._seen = self._followed
        self._thread = threading.Thread(target=self._run, name="polling", daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, once what it loads is loaded; ``stopping`` is set."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = self._settings.poll_seconds
        while not self._stopping.wait(pause):
            try:
                settled = self.step()
            except OSError as error:
                log.warning("the repository cannot be looked at, what is served stays: %s", error)
                settled = True
            except Exception:  # a defect of ours must not end the looking
                log.exception("a look at the repository failed")
                settled = True
            pause = self._settings.poll_seconds if settled else min(SETTLE_SECONDS, self._settings.poll_seconds)

    def step(self) -> bool:
        """Act on what has changed and has not changed since the last look; return whether nothing else has changed.

        Raises:
            OSError: the repository cannot be read.
        """
        now = self._look()
        changed = [name for name in {**self._followed, **now} if now.get(name) != self._followed.get(name)]
        settled = [name for name in changed if now.get(name) == self._seen.get(name)]
        self._seen = now
        for name in settled:
            if self._stopping.is_set():
                break
            self._followed = {**self._followed, name: now[name]} if name in now else _without(self._followed, name)
            self._control.follow(name)
        return settled == changed

    def _look(self) -> dict[str, Files]:
        found: dict[str, Files] = {}
        wanted = self._settings.models
        for name in source.models(self._settings.repository):
            if wanted and name not in wanted:
                continue
            try:
                found[name] = Source(self._settings.repository / name).look()
            except OSError as error:
                log.warning("model %s cannot be looked at, what is served of it stays: %s", name, error)
                found[name] = self._followed.get(name, frozenset())
        return found


def _without(followed: dict[str, Files], name: str) -> dict[str, Files]:
    return {key: files for key, files in followed.items() if key != name}

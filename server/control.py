"""Model control: who decides what is served - the start, the files, or Load and Unload calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from server import paths, source
from server.errors import InvalidArgumentError, ModelLoadError, StartError, UnavailableError
from server.repository import Repository, VersionStatus
from server.served import Served
from server.source import Source

if TYPE_CHECKING:
    from server.config import Settings
    from server.metrics import Metrics
    from server.overrides import Overrides


class Control:
    """Carries out what the start, the files or calls ask for.

    Args:
        settings: where the repository is, who decides, and how models run.
        metrics: told what loads took.
        repository: told every version's state.
        stopping: set when the server stops: nothing is loaded any more.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, repository: Repository, stopping: threading.Event | None = None
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._stopping = stopping or threading.Event()
        self._served = Served(settings, metrics, repository, self._stopping)

    def scan(self) -> None:
        """Find the models to serve from the start; every version to load is LOADING from here on.

        Raises:
            StartError: the repository is no directory, or lacks a model that the settings name.
        """
        root = self._settings.repository
        if not root.is_dir():
            raise StartError(
                f"the model repository {str(root)!r} is no directory; "
                "export a model into it (netweight export NETWORK --repository DIR) or name another (--repository DIR)"
            )
        found = source.models(root)
        if unknown := [name for name in self._settings.models if name not in found]:
            raise StartError(f"model {unknown[0]!r} is not in {str(root)!r}; it has {', '.join(found) or 'no model'}")
        everything = [] if self._settings.model_control == "explicit" else found
        for name in self._settings.models or everything:
            try:
                self._served.plan(self._served.attempt(Source(root / name), needed=True))
            except (
                ModelLoadError,
                UnavailableError,
            ):  # the index has the first's reason; the second is the server's end
                continue

    def load_all(self) -> None:
        """Load what `scan` found, one after the other (so that each one's memory can be told)."""
        for name in dict.fromkeys(status.name for status in self._repository.index() if status.state == "LOADING"):
            if not self._stopping.is_set():
                self.follow(name)

    def follow(self, name: str) -> None:
        """Serve a model as it lies in the repository now, and not at all if it has gone. The index has what fails."""
        here = Source(self._settings.repository / name)
        if not here.versions():
            self._served.keep_only(name, ())
        if not here.directory.is_dir():
            return
        needed = not self._repository.ready_versions(name)
        try:
            self._served.bring(self._served.attempt(here, needed=needed))
        except (ModelLoadError, UnavailableError):  # the first is logged, the second is the server's end
            return

    def load(self, name: str, overrides: Overrides) -> None:
        """Serve a model as it lies in the repository now, or as the overrides say; return when it is READY.

        Raises:
            InvalidArgumentError: it cannot be served, the message says why; what was served of it stays.
            UnavailableError: calls do not decide here; the model was unloaded meanwhile; the server stops.
        """
        self._require_explicit()
        paths.check_model_name(name)
        directory = self._settings.repository / name
        if not overrides.files and not directory.is_dir():
            on_disk = ", ".join(self._on_disk()) or "no model"
            raise InvalidArgumentError(f"model {name!r} is not in the repository; it has {on_disk}")
        try:
            self._served.bring(self._served.attempt(overrides.source(directory), needed=False))
        except ModelLoadError as error:
            raise InvalidArgumentError(f"model {name} cannot be loaded: {error}") from error

    def unload(self, name: str) -> None:
        """Serve a model no more; requests that it has are finished. Returns at once.

        Raises:
            UnavailableError: calls do not decide here.
        """
        self._require_explicit()
        self._served.unload(name)

    def index(self) -> list[VersionStatus]:
        """Return every version's status; where calls decide, also of the models that none has asked for."""
        known = self._repository.index()
        if self._settings.model_control != "explicit":
            return known
        names = {status.name for status in known}
        others = [name for name in self._on_disk() if name not in names]
        return [*known, *(VersionStatus(name, "", "UNAVAILABLE", "not loaded", needed=False) for name in others)]

    def close(self) -> None:
        """Finish and unload every model."""
        self._served.close()

    def _require_explicit(self) -> None:
        mode = self._settings.model_control
        if mode != "explicit":
            raise UnavailableError(f"calls load and unload nothing here: --model-control is {mode}; expected explicit")

    def _on_disk(self) -> list[str]:
        try:
            return source.models(self._settings.repository)
        except OSError:
            return []

"""The model repository: which versions are served, and in which state each of them is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from server.errors import InvalidArgumentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from server.metrics import Metrics
    from server.model import Model

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class VersionStatus:
    """One version and the state that it is in."""

    name: str
    version: str
    state: State
    reason: str = ""
    """Why it is UNAVAILABLE; or why a READY one was not replaced by what lies on disk now."""
    model: Model | None = None
    """Of a READY version."""
    needed: bool = True
    """Whether the server is not ready as long as this version is not."""


class Repository:
    """The versions' states. They change under a lock; whoever reads them, without one, sees those of a moment.

    Args:
        metrics: told of every state.
        on_change: called with each new status, or with one that is forgotten, in the thread that changed it.
    """

    def __init__(self, metrics: Metrics, on_change: Callable[[VersionStatus], None]) -> None:
        self._metrics = metrics
        self._on_change = on_change
        self._lock = threading.Lock()
        self._models: dict[str, dict[str, VersionStatus]] = {}
        """By name and version. Neither these dicts nor those in them are changed: others take their place."""
        self._newest: dict[str, Model] = {}
        """The newest READY version of each model that has one: what nearly every request asks for."""

    def get(self, name: str, version: str = "") -> Model:
        """Return a READY version; the newest one where none is named.

        Raises:
            NotFoundError: unknown model or version.
            InvalidArgumentError: the version is no positive integer.
            UnavailableError: the version is not READY.
        """
        if not version and (newest := self._newest.get(name)) is not None:
            return newest
        status = self.status(name, version)
        if status.model is None or status.state != "READY":
            reason = f": {status.reason}" if status.reason else ""
            raise UnavailableError(f"model {name} version {status.version} is {status.state}{reason}")
        return status.model

    def status(self, name: str, version: str = "") -> VersionStatus:
        """Return a version's status; without a version, of the newest READY one, or else of the newest.

        Raises:
            NotFoundError: unknown model or version.
            InvalidArgumentError: the version is no positive integer.
        """
        versions = self.versions(name)
        if not versions:
            raise NotFoundError(f"model {name!r} is unknown; this server has {', '.join(self._models) or 'no model'}")
        if version:
            if not (version.isascii() and version.isdecimal() and len(version) < 20 and int(version) > 0):
                raise InvalidArgumentError(f"model {name}: got version {version!r}; expected a positive integer")
            found = versions.get(str(int(version)))
            if found is None:
                raise NotFoundError(f"model {name} has no version {version}; it has {', '.join(versions)}")
            return found
        return _newest(versions)

    def versions(self, name: str) -> dict[str, VersionStatus]:
        """Return the status of each version of a model; none where the model is unknown."""
        return self._models.get(name, {})

    def ready_versions(self, name: str) -> list[str]:
        """Return the versions of a model that are READY, oldest first."""
        ready = [each.version for each in self.versions(name).values() if each.state == "READY"]
        return sorted(ready, key=int)

    def index(self) -> list[VersionStatus]:
        """Return every version's status."""
        return [status for versions in self._models.values() for status in versions.values()]

    def ready(self) -> bool:
        """Whether every version that is needed is READY."""
        return all(status.state == "READY" for status in self.index() if status.needed)

    def set(self, status: VersionStatus) -> None:
        """Take a version's new status in place of what it was."""
        with self._lock:
            self._put(status.name, {**self.versions(status.name), status.version: status})
            self._metrics.set_state(status.name, status.version, status.state)
        self._on_change(status)

    def forget(self, status: VersionStatus) -> None:
        """Forget a version: it is unknown from here on, and its figures go."""
        with self._lock:
            others = {key: each for key, each in self.versions(status.name).items() if key != status.version}
            self._put(status.name, others)
            self._metrics.forget(status.name, status.version)
        self._on_change(status)

    def _put(self, name: str, versions: dict[str, VersionStatus]) -> None:
        self._models = {**self._models, name: versions}
        if not versions:
            self._models = {key: value for key, value in self._models.items() if key != name}
        model = _newest(versions).model if versions else None
        if model is not None:
            self._newest[name] = model
        else:
            self._newest.pop(name, None)


def _newest(versions: dict[str, VersionStatus]) -> VersionStatus:
    """Return the newest that is READY, or else the newest."""
    return max(versions.values(), key=lambda status: (status.state == "READY", int(status.version)))

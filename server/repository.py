"""The model repository: what lies on disk, which versions are served, and in which state each of them is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from server import model_config
from server.errors import InvalidArgumentError, ModelLoadError, NotFoundError, StartError, UnavailableError
from server.loading import load, model_file_bytes
from server.machine import resident_bytes
from server.timeouts import Timeouts

if TYPE_CHECKING:
    from pathlib import Path

    from server.config import Settings
    from server.metrics import Metrics
    from server.model import Model
    from server.pb import model_config_pb2 as pb

log = logging.getLogger(__name__)
State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class VersionStatus:
    """One version and the state that it is in."""

    name: str
    version: str
    state: State
    reason: str = ""
    model: Model | None = None


class Repository:
    """The versions of the models below one directory.

    Args:
        settings: where the repository is, and how models run.
        metrics: told of every state, size and load.
        on_change: called with each new status, in the thread that changed it.
    """

    def __init__(self, settings: Settings, metrics: Metrics, on_change: Callable[[VersionStatus], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._models: dict[str, dict[str, VersionStatus]] = {}
        self._newest: dict[str, Model] = {}
        """The newest READY version of each model that has one: what nearly every request asks for."""
        self._timeouts = Timeouts()

    def scan(self) -> None:
        """Find the models to serve; every version to load is LOADING from here on.

        Raises:
            StartError: the repository is no directory, or lacks a model that the settings name.
        """
        root = self._settings.repository
        if not root.is_dir():
            raise StartError(
                f"the model repository {str(root)!r} is no directory; "
                "export a model into it (netweight export NETWORK --repository DIR) or name another (--repository DIR)"
            )
        found = sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
        if unknown := [name for name in self._settings.models if name not in found]:
            raise StartError(f"model {unknown[0]!r} is not in {str(root)!r}; it has {', '.join(found) or 'no model'}")
        for name in self._settings.models or found:
            self._plan(name, root / name)

    def load_all(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Load what `scan` found, one after the other (so that each one's memory can be told), until ``stopping``."""
        for status in self.index():
            if status.state == "LOADING" and not stopping():
                self._load(status.name, status.version)

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
        versions = self._models.get(name)
        if versions is None:
            raise NotFoundError(f"model {name!r} is unknown; this server has {', '.join(self._models) or 'no model'}")
        if version:
            if not (version.isascii() and version.isdecimal() and int(version) > 0):
                raise InvalidArgumentError(f"model {name}: got version {version!r}; expected a positive integer")
            found = versions.get(str(int(version)))
            if found is None:
                raise NotFoundError(f"model {name} has no version {version}; it has {', '.join(versions)}")
            return found
        newest = sorted(versions.values(), key=lambda status: (status.state == "READY", int(status.version)))
        return newest[-1]

    def ready_versions(self, name: str) -> list[str]:
        """Return the versions of a model that are READY, oldest first."""
        return [each.version for each in self._models[name].values() if each.state == "READY"]

    def index(self) -> list[VersionStatus]:
        """Return every version's status."""
        return [status for versions in self._models.values() for status in versions.values()]

    def ready(self) -> bool:
        """Whether every version that should be loaded is READY."""
        return all(status.state == "READY" for status in self.index())

    def close(self) -> None:
        """Finish and close every model."""
        for status in self.index():
            if status.model is not None:
                self._set(VersionStatus(status.name, status.version, "UNLOADING"))
                status.model.close()
                self._set(VersionStatus(status.name, status.version, "UNAVAILABLE", "unloaded"))
        self._timeouts.close()

    def _plan(self, name: str, directory: Path) -> None:
        present = sorted(int(each.name) for each in directory.iterdir() if _is_version(each.name) and each.is_dir())
        try:
            config = model_config.read(directory)
            chosen = choose_versions(present, config.version_policy)
        except ModelLoadError as error:
            self._set(self._failed(name, str(present[-1] if present else 0), str(error)))
            return
        for version in chosen:
            self._set(VersionStatus(name, str(version), "LOADING"))

    def _load(self, name: str, version: str) -> None:
        before, began = resident_bytes(), time.perf_counter()
        directory = self._settings.repository / name
        try:
            model = load(directory, int(version), self._settings, self._metrics, self._timeouts)
        except ModelLoadError as error:
            self._set(self._failed(name, version, str(error)))
            return
        except Exception as error:  # whatever it is, the other models go on
            log.exception("model %s version %s: loading failed", name, version)
            self._set(self._failed(name, version, f"loading failed: {type(error).__name__}"))
            return
        seconds = time.perf_counter() - began
        labels = (name, version)
        self._metrics.load_seconds.labels(*labels).set(seconds)
        self._metrics.resident_bytes.labels(*labels).set(max(0, resident_bytes() - before))
        self._metrics.file_bytes.labels(*labels).set(model_file_bytes(directory / version))
        self._metrics.provider.labels(*labels, model.session.provider).set(1)
        if model.session.fell_back:
            self._metrics.fallbacks.inc()
        log.info("model %s version %s: ready on %s in %.3f s", name, version, model.session.provider, seconds)
        self._set(VersionStatus(name, version, "READY", model=model))

    def _failed(self, name: str, version: str, reason: str) -> VersionStatus:
        log.error("model %s version %s cannot be served: %s", name, version, reason)
        return VersionStatus(name, version, "UNAVAILABLE", reason)

    def _set(self, status: VersionStatus) -> None:
        self._models.setdefault(status.name, {})[status.version] = status
        newest = self.status(status.name)
        if newest.state == "READY" and newest.model is not None:
            self._newest[status.name] = newest.model
        else:
            self._newest.pop(status.name, None)
        self._metrics.set_state(status.name, status.version, status.state)
        self._on_change(status)


def choose_versions(present: list[int], policy: pb.ModelVersionPolicy) -> list[int]:
    """Return the versions to serve, oldest first, of those present (sorted); nothing said: the newest.

    Raises:
        ModelLoadError: there is no version, or the policy names one that is not there.
    """
    if not present:
        raise ModelLoadError("there is no version directory (1, 2, ...) with a model.onnx")
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return present
    if choice == "specific":
        wanted = sorted(policy.specific.versions)
        if missing := [version for version in wanted if version not in present]:
            raise ModelLoadError(f"version_policy names version {missing[0]}; on disk are {present}")
        return wanted
    return present[-max(1, policy.latest.num_versions) :]


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and int(name) > 0 and not name.startswith("0")

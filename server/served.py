"""The versions in memory: brought up to what a source holds, swapped, drained, unloaded.

A version that takes another's place is loaded and warmed beside it. From one moment on it gets the requests; those that
the other one has are finished there, in a thread of their own, and then the other one's memory is given back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from server import card_facts, gpu, trial
from server.decoders import Decoders
from server.errors import ModelLoadError, UnavailableError
from server.loading import load, model_file, model_file_bytes
from server.machine import BLOCKS, give_back_memory, resident_bytes, usable_cpus
from server.metrics import Load, Spent
from server.providers import CPU
from server.repository import Repository, VersionStatus
from server.timeouts import Timeouts
from server.turns import Attempt, Turns

if TYPE_CHECKING:
    from collections.abc import Collection

    from server.config import Settings
    from server.metrics import Metrics
    from server.model import Model
    from server.pb import model_config_pb2 as pb
    from server.source import Mark, Source

log = logging.getLogger(__name__)
UNLOADED = "unloaded"
"""The reason of a version that was served and is no more."""
MOST_UNLOADED = 256
"""Versions that are told as unloaded, and whose counts are kept; the one that was unloaded first is forgotten first."""


@dataclass(frozen=True)
class Held:
    """A version in memory, and what it was loaded from. A source's private files live as long as it is held."""

    model: Model
    source: Source
    mark: Mark


class Served:
    """What is in memory. Any thread may call.

    Args:
        settings: how models run.
        metrics: told what loads took.
        repository: told every version's state.
        stopping: set when the server stops: nothing is loaded any more.
    """

    def __init__(self, settings: Settings, metrics: Metrics, repository: Repository, stopping: threading.Event) -> None:
        self._settings = settings
        self._metrics = metrics
        self._repository = repository
        self._stopping = stopping
        self._timeouts = Timeouts()
        self._decoders = Decoders(usable_cpus(), settings.max_queue_size, settings.max_image_pixels)
        self._lock = threading.RLock()
        """Held while states change, never while a version is loaded or drained."""
        self._held: dict[str, dict[str, Held]] = {}
        self._turns = Turns(stopping)
        self._unloaded: dict[tuple[str, str], VersionStatus] = {}
        self._drains: set[threading.Thread] = set()

    def attempt(self, source: Source, *, needed: bool) -> Attempt:
        """Take note that a source's model is to be served; an `unload` from here on makes it vain."""
        with self._lock:
            return self._turns.attempt(source, needed=needed)

    def plan(self, attempt: Attempt) -> tuple[pb.ModelConfig, list[str]]:
        """Return what a source wants; versions that are not served yet are LOADING from here on.

        Raises:
            ModelLoadError: that cannot be told, or is not there.
            UnavailableError: the attempt is vain.
        """
        name, held = attempt.name, list(self._held.get(attempt.name, ()))
        try:
            config, wanted = attempt.source.chosen()
        except ModelLoadError as error:
            for version in held or [attempt.source.newest()]:
                self._failed(attempt, version, str(error))
            raise
        with self._lock:
            self._turns.check(attempt)
            for version in wanted:
                if version not in held:
                    self._unloaded.pop((name, version), None)
                    needed = self._needed(attempt, version)
                    self._tell(VersionStatus(name, version, "LOADING", needed=needed))
        return config, wanted

    def bring(self, attempt: Attempt) -> None:
        """Serve the versions that a source wants, and then no others; return when they are READY.

        Raises:
            ModelLoadError: one of them cannot be served; what was served before stays.
            UnavailableError: the model was unloaded meanwhile, or the server stops.
        """
        with attempt.turn.lock:
            config, wanted = self.plan(attempt)
            failures = []
            for version in wanted:
                try:
                    self._renew(attempt, version, config)
                except ModelLoadError as error:
                    failures.append(str(error))  # the error itself would keep alive what was loaded
            if failures:
                raise ModelLoadError(failures[0])
            with self._lock:
                self._turns.check(attempt)
                self.keep_only(attempt.name, wanted)

    def unload(self, name: str) -> None:
        """Serve a model no more; requests that it has are finished. Returns at once."""
        with self._lock:
            self._turns.cancel(name)
            self.keep_only(name, ())

    def keep_only(self, name: str, versions: Collection[str]) -> None:
        """Drain a model's other versions; forget those that were not served."""
        with self._lock:
            held = self._held.get(name, {})
            for status in self._repository.versions(name).values():
                if status.version in versions:
                    continue
                if status.version in held:
                    going = VersionStatus(name, status.version, "UNLOADING", needed=False)
                    self._repository.set(going)
                    self._retire(held.pop(status.version), going)
                elif status.state == "LOADING" or (status.state == "UNAVAILABLE" and status.reason != UNLOADED):
                    self._repository.forget(status)
            if not held:
                self._held.pop(name, None)

    def close(self) -> None:
        """Finish and unload every model."""
        self._stopping.set()
        with self._lock:
            for name in list(self._held):
                self.keep_only(name, ())
            drains = list(self._drains)
        for drain in drains:
            drain.join()
        self._timeouts.close()
        self._decoders.close()

    def _renew(self, attempt: Attempt, version: str, config: pb.ModelConfig) -> None:
        """Load a version and swap it in, unless it is served as it is now."""
        try:
            mark = attempt.source.mark(version, config)
            if self._serves(attempt, version, mark):
                return
            model, took = self._open(attempt.source, version, config, mark)
        except ModelLoadError as error:
            self._metrics.loads.labels("failed").inc()
            self._failed(attempt, version, str(error))
            raise
        self._metrics.loads.labels("ready").inc()
        try:
            self._swap(attempt, Held(model, attempt.source, mark), took)
        except UnavailableError:
            _end(model)
            raise

    def _serves(self, attempt: Attempt, version: str, mark: Mark) -> bool:
        """Return whether a version is served as it is now; then nothing is wrong with it any more."""
        with self._lock:
            self._turns.check(attempt)
            held = self._held.get(attempt.name, {}).get(version)
            if held is None or held.mark != mark:
                return False
            self._tell(VersionStatus(attempt.name, version, "READY", model=held.model))
            return True

    def _open(self, source: Source, version: str, config: pb.ModelConfig, mark: Mark) -> tuple[Model, Load]:
        """Load a version beside what is served.

        Raises:
            ModelLoadError: it cannot be served, or its files changed meanwhile.
        """
        if source.carried:
            trial.check(model_file(source.directory / version, config))
        gpus, spent = gpu.find(), Spent()
        gpu_before = gpus.process_bytes() if gpus else None
        before, began = resident_bytes(), time.perf_counter()
        try:
            with BLOCKS.mapped():
                model = load(
                    source.directory,
                    int(version),
                    self._settings,
                    self._metrics,
                    self._timeouts,
                    self._decoders,
                    config,
                    spent=spent,
                )
        except ModelLoadError:
            raise
        except Exception as error:  # whatever it is, the other models go on
            log.exception("model %s version %s: loading failed", source.name, version)
            raise ModelLoadError(f"loading failed: {type(error).__name__}") from error
        with contextlib.suppress(ModelLoadError, OSError):
            took = Load(
                time.perf_counter() - began,
                spent,
                max(0, resident_bytes() - before),
                model_file_bytes(source.directory / version),
                model.session.provider,
                model.session.fell_back,
                None if gpus is None or model.session.provider == CPU else _added(gpu_before, gpus.process_bytes()),
                card_facts.read(source.directory / version),
            )
            if source.mark(version, config) == mark:
                return model, took
        _end(model)
        raise ModelLoadError("its files changed while they were loaded; publish a version by renaming its directory")

    def _swap(self, attempt: Attempt, new: Held, took: Load) -> None:
        """Have a loaded version get the requests, and drain the one whose place it takes."""
        name, version, model = attempt.name, new.model.version, new.model
        with self._lock:
            self._turns.check(attempt)
            versions = self._held.setdefault(name, {})
            old = versions.get(version)
            versions[version] = new
            self._metrics.loaded(name, version, took)
            self._metrics.set_pending(name, version, lambda: model.pending)
            self._repository.set(VersionStatus(name, version, "READY", model=model))
            if old is not None:
                self._retire(old)
        log.info("model %s version %s: ready on %s in %.3f s", name, version, took.provider, took.seconds)

    def _failed(self, attempt: Attempt, version: str, reason: str) -> None:
        """Tell why a version cannot be served, or not as it is now: then what was served of it stays."""
        name = attempt.name
        log.error("model %s version %s cannot be served: %s", name, version, reason)
        with self._lock:
            self._turns.check(attempt)
            held = self._held.get(name, {}).get(version)
            if held is None:
                needed = self._needed(attempt, version)
                status = VersionStatus(name, version, "UNAVAILABLE", reason, needed=needed)
            else:
                status = VersionStatus(name, version, "READY", f"not replaced: {reason}", held.model)
            self._repository.set(status)

    def _tell(self, status: VersionStatus) -> None:
        """Set a version's status if it is another than it was."""
        if self._repository.versions(status.name).get(status.version) != status:
            self._repository.set(status)

    def _needed(self, attempt: Attempt, version: str) -> bool:
        before = self._repository.versions(attempt.name).get(version)
        return attempt.needed or (before is not None and before.needed)

    def _retire(self, held: Held, going: VersionStatus | None = None) -> None:
        """Have a version that gets no more requests finish those that it has, in a thread of its own."""
        drain = threading.Thread(target=self._drain, args=(held, going), name=f"drain-{held.model.name}", daemon=True)
        self._drains.add(drain)
        drain.start()

    def _drain(self, held: Held, going: VersionStatus | None) -> None:
        """Finish what a version has, and give its memory back; ``going`` is its status if nothing took its place."""
        _end(held.model)
        with self._lock:
            if going is not None and self._repository.versions(going.name).get(going.version) is going:
                self._tell_unloaded(going)
            self._drains.discard(threading.current_thread())

    def _tell_unloaded(self, going: VersionStatus) -> None:
        self._metrics.unloaded(going.name, going.version)
        gone = replace(going, state="UNAVAILABLE", reason=UNLOADED)
        self._repository.set(gone)
        self._unloaded[going.name, going.version] = gone
        if len(self._unloaded) > MOST_UNLOADED:
            self._repository.forget(self._unloaded.pop(next(iter(self._unloaded))))


def _added(before: int | None, after: int | None) -> int | None:
    """Return the bytes that a load added on GPUs; None where NVML does not list this process after it."""
    return None if after is None else max(0, after - (before or 0))


def _end(model: Model) -> None:
    """Finish what a model has and give its memory back."""
    try:
        model.close()
        model.release()
    except Exception:  # a defect of ours; nobody asks this version any more
        log.exception("model %s version %s: closing failed", model.name, model.version)
    give_back_memory()
    log.info("model %s version %s: drained, its memory is given back", model.name, model.version)

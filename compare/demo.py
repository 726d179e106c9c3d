"""The main job: train, export, serve and compare, each stage as a process of the real command line.

Every step leaves files that appear whole or not at all, so that typing the command again goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from compare.card import read_card, versions
from compare.plan import DEMO, Plan
from compare.process import INTERRUPTED, NETWEIGHT, say, start
from compare.results import write_all
from compare.run import UnfinishedError, compare
from compare.table import show
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from compare.comparison import Comparison

NETWORKS = ("lenet5", "resnet18", "mobilenet_v2", "vgg16_bn")
DATA = "digits"
STOP_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps what it makes, all of it below one directory."""

    directory: Path

    @property
    def repository(self) -> Path:
        """The model repository."""
        return self.directory / "model_repository"

    def run(self, network: str) -> Path:
        """Return the training run of a network."""
        return self.directory / "runs" / network

    def weights(self, network: str) -> Path:
        """Return the checkpoint of its best epoch."""
        return self.run(network) / "best.pt"

    @property
    def heldout(self) -> str:
        """The path template of the held-out images."""
        return str(self.run("{model}") / "heldout.npz")


def demo(
    directory: Path = Path("out/demo"),
    *,
    networks: Sequence[str] = NETWORKS,
    plan: Plan = DEMO,
    report: Callable[[str], None] = say,
    console: Console | None = None,
    command: Sequence[str] = NETWEIGHT,
) -> Comparison:
    """Train, export, serve and compare networks on the built-in digits; print the table, write the results.

    What an earlier call finished is used again. `comparison.json`, .csv, .md, .html (the page) and .svg (the table as a
    picture) are written into `directory`.

    Args:
        directory: where everything is kept.
        networks: names in the catalogue that have a recipe.
        plan: how long what is measured.
        report: is told what runs, line by line.
        console: where the table goes; None: the terminal.
        command: how netweight is called.

    Raises:
        NetweightError: a step failed (its own message stands above), a model could not be measured (what was is written),
            or another demo works in `directory`.
        SystemExit: 130 after Ctrl-C.
    """
    layout = Layout(directory)
    began = time.monotonic()
    report(
        f"netweight demo in {directory}: minutes the first time, under one afterwards; Ctrl-C stops it and loses little"
    )
    try:
        with _alone(directory):
            comparison = _Steps(layout, networks, command, report).run(plan)
    except KeyboardInterrupt:
        _interrupted(report)
    except UnfinishedError as unfinished:
        if unfinished.interrupted:
            _interrupted(report)
        write_all(directory, unfinished.comparison)
        raise
    paths = write_all(directory, comparison)
    report("")
    show(comparison, console or Console())
    report("")
    report(f"{time.monotonic() - began:.0f} s in all; the figures: {', '.join(str(path) for path in paths)}")
    return comparison


class _Steps:
    """The numbered steps of one demo."""

    def __init__(
        self, layout: Layout, networks: Sequence[str], command: Sequence[str], report: Callable[[str], None]
    ) -> None:
        self.layout = layout
        self.networks = networks
        self.command = command
        self.report = report
        self.done = 0

    def run(self, plan: Plan) -> Comparison:
        """Do what is not done yet, then measure."""
        for network in self.networks:
            self._train(network)
        for network in self.networks:
            self._export(network)
        with self._step(f"serve and compare {', '.join(self.networks)}"):
            return compare(
                self.networks,
                repository=self.layout.repository,
                heldout=self.layout.heldout,
                plan=plan,
                report=lambda line: self.report(f"      {line}"),
                command=self.command,
            )

    def _train(self, network: str) -> None:
        run, what = self.layout.run(network), f"train {network} on the {DATA}"
        if finished_weights(run):
            self._skip(what, self.layout.weights(network))
            return
        with self._step(what):
            self._netweight("train", network, "--data", DATA, "--output", str(run))
            if not finished_weights(run):
                raise NetweightError(f"{run}: netweight train ended well but left no finished run; remove it and go on")

    def _export(self, network: str) -> None:
        weights, repository, what = self.layout.weights(network), self.layout.repository, f"export {network} to ONNX"
        version = exported_version(repository, network, finished_weights(self.layout.run(network)))
        if version:
            self._skip(what, repository / network / str(version))
            return
        with self._step(what):
            self._netweight("export", network, "--weights", str(weights), "--repository", str(repository))

    def _number(self) -> str:
        """Count one more step."""
        self.done += 1
        return f"[{self.done}/{2 * len(self.networks) + 1}]"

    def _skip(self, what: str, where: Path) -> None:
        """Say that a step was done by an earlier call."""
        self.report(f"{self._number()} {what}: done before, {where}")

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """Say what runs, and then how long it took."""
        number = self._number()
        self.report(f"{number} {what} ...")
        began = time.monotonic()
        yield
        self.report(f"{number} {what}: {time.monotonic() - began:.1f} s")

    def _netweight(self, *words: str) -> None:
        """Run a subcommand with our own terminal; what it shows passes through."""
        code = run_to_end([*self.command, *words])
        if code:
            raise NetweightError(
                f"netweight {' '.join(words)} failed with exit code {code}; mend what it says above,"
                " then the same command goes on from here"
            )


def _interrupted(report: Callable[[str], None]) -> NoReturn:
    """End after Ctrl-C."""
    report("interrupted: type the command again, and it goes on from here")
    raise SystemExit(INTERRUPTED) from None


def run_to_end(command: Sequence[str]) -> int:
    """Run a process and return its exit code; on Ctrl-C (which the process gets too) wait for it, then go on raising."""
    process = start(command, stdin=subprocess.DEVNULL, env={**os.environ, "NETWEIGHT_HINTS": "off"})
    try:
        return process.wait()
    except BaseException:
        _end(process)
        raise


def finished_weights(run: Path) -> str | None:
    """Return the SHA-256 of a finished run's checkpoint; None where it is not finished or its files are not whole."""
    record = _read_json(run / "run.json")
    best, weights = record.get("best") or {}, run / "best.pt"
    if not record.get("finished") or not weights.is_file() or not (run / "heldout.npz").is_file():
        return None
    return best.get("sha256") if weights.stat().st_size == best.get("bytes") else None


def exported_version(repository: Path, network: str, sha256: str | None) -> int | None:
    """Return the newest version of a network if it was made of the checkpoint with this SHA-256 and is whole."""
    known = versions(repository, network)
    if sha256 is None or not known:
        return None
    folder = repository / network / str(known[-1])
    files = (_read_json(folder / "card.json").get("graph") or {}).get("files") or {}
    whole = files and all(
        (folder / name).is_file() and (folder / name).stat().st_size == facts["bytes"] for name, facts in files.items()
    )
    return known[-1] if whole and read_card(repository, network).checkpoint_sha256 == sha256 else None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep a second demo out of the directory while this one works; the lock ends with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NetweightError(f"{directory}: another netweight demo is at work there; wait for it") from None
        yield


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give a process that got our interrupt too the time to end, then insist."""
    for signal in (None, SIGTERM, SIGKILL):
        if signal:
            process.send_signal(signal)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return

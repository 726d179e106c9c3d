"""The steps of a comparison, and what they have measured so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from compare import assemble
from compare.agreement import Agreement
from compare.caller import ceilings
from compare.disk import disk
from compare.round import measure, order
from compare.subject import prepare
from models.spec import NetweightError
from server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from compare.cost import Caller, CostCard, Disk
    from compare.place import Places
    from compare.round import Conditions, Measured
    from compare.subject import Subject

MOST_CEILINGS = 4
FAILURES = (NetweightError, ServerError, grpc.RpcError, OSError)
"""That end the measuring of one model, and leave the others'."""


@dataclass
class Work:
    """One comparison at work.

    Attributes:
        places: where models are served.
        conditions: that hold for all of them.
        held_out: the file of held-out images by model; None: there is none.
        report: is told what is being measured.
        failed: why, by model.
        callers: the caller's own ceilings.
    """

    places: Places
    conditions: Conditions
    held_out: dict[str, Path | None]
    report: Callable[[str], None]
    failed: dict[str, str] = field(default_factory=dict)
    callers: tuple[Caller, ...] = ()

    def __post_init__(self) -> None:
        self._agreement = Agreement(self.places)
        self._disks: dict[str, Disk] = {}
        self._subjects: dict[str, Subject] = {}
        self._measured: dict[str, list[Measured]] = {}

    def do(self, names: Sequence[str]) -> None:
        """Measure everything; a model that fails is left out from then on."""
        for name in self._able(names):
            self._attempt(name, self._prepare)
        for name in self._able(names):
            self._attempt(name, self._agree)
        self._measure_callers()
        for number in range(self.conditions.plan.rounds):
            for name in self._able(order(names, number)):
                self._attempt(name, self._round)

    def cards(self, names: Sequence[str], hourly_price: float | None) -> tuple[CostCard, ...]:
        """Return the cards of the models of which at least one round was measured."""
        return tuple(
            assemble.card(
                self._subjects[name],
                self._measured[name],
                disk=self._disks[name],
                accuracy=self._agreement.of(self._subjects[name]),
                bound_seconds=self.conditions.bound_seconds,
                hourly_price=hourly_price,
            )
            for name in names
            if self._measured.get(name)
        )

    def _able(self, names: Sequence[str]) -> Iterator[str]:
        return (name for name in names if name not in self.failed)

    def _attempt(self, name: str, step: Callable[[str], None]) -> None:
        try:
            step(name)
        except FAILURES as error:
            self.failed[name] = " ".join(str(error).split()) or type(error).__name__
            self.report(f"{name}: FAILED: {self.failed[name]}")

    def _prepare(self, name: str) -> None:
        """Weigh the files, have the model answer the held-out images, and choose what it will be sent."""
        repository, path = self.places.repository, self.held_out[name]
        held_out = self._agreement.files.of(path) if path else None
        with self.places.serve(name) as place:
            subject = prepare(place, name, repository, held_out, self.conditions.plan)
        self._disks[name] = disk(subject.card, repository)
        self._subjects[name] = subject
        accuracy = self._agreement.keep(subject, path) if path else None
        right = (
            f"{accuracy.correct} of {accuracy.images} held-out images right ({accuracy.top1:.1%})"
            if accuracy
            else "no held-out images, random ones are sent"
        )
        self.report(f"{name}: {right}; {subject.callers} callers, batches up to {subject.largest_batch}")

    def _agree(self, name: str) -> None:
        path = self.held_out[name]
        try:
            held = self._agreement.hold_against_reference(self._subjects[name], path) if path else None
        except FAILURES as error:
            self.report(f"{name}: agreement is not known: {error}")
            return
        if held and held.agreed is not None:
            self.report(f"{name}: {held.agreed} of {held.images} answers are those of {held.reference}")

    def _measure_callers(self) -> None:
        """Measure the caller against a server that answers at once; without it the comparison goes on."""
        plan = self.conditions.plan
        if not plan.caller_seconds:
            return
        sizes = request_sizes([len(each.single[0]) for each in self._subjects.values()])
        try:
            self.callers = ceilings(sizes, callers=plan.callers, seconds=plan.caller_seconds)
        except FAILURES as error:
            self.report(f"the caller's own ceiling is not known: {error}")
        for caller in self.callers:
            self.report(
                f"the caller itself reaches {caller.requests_per_second:,.0f} requests/s of {caller.request_bytes:,} bytes,"
                f" p50 {caller.latency_p50_seconds * 1000:.2f} ms alone"
            )

    def _round(self, name: str) -> None:
        rounds = self._measured.setdefault(name, [])
        with self.places.serve(name) as place:
            measured = measure(place, self._subjects[name], self.conditions, rounds)
        rounds.append(measured)  # only once the server has stopped in order
        of = f"round {len(rounds)} of {self.conditions.plan.rounds}"
        failed = f"; {measured.errors} requests FAILED" if measured.errors else ""
        self.report(f"{of}: {name}: {told(measured, self.conditions.bound_seconds)}{failed}")


def request_sizes(sizes: Sequence[int]) -> list[int]:
    """Return a few sizes that stand for all: the largest of each power of two, at most `MOST_CEILINGS`, ascending."""
    largest: dict[int, int] = {}
    for size in sizes:
        power = size.bit_length()
        largest[power] = max(size, largest.get(power, 0))
    chosen = sorted(largest.values())
    return chosen if len(chosen) <= MOST_CEILINGS else [*chosen[: MOST_CEILINGS - 1], chosen[-1]]


def told(measured: Measured, bound_seconds: float) -> str:
    """Return one round in a line."""
    parts = [f"first answer after {measured.start.total:.2f} s"] if measured.start else []
    p50, _ = measured.batches[1]
    parts += [
        f"p50 {p50 * 1000:.2f} ms",
        f"{measured.per_second:,.1f} inferences/s at saturation",
        f"{measured.highest_per_second:,.1f}/s with p99 under {bound_seconds * 1000:g} ms",
    ]
    return ", ".join(parts)

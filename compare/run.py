"""The comparison itself: every model measured through a server that really serves it, round after round."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from compare import energy, notes
from compare.answers import held_out_path
from compare.card import model_names, read_card, versions
from compare.comparison import Comparison
from compare.cost import Settings
from compare.place import Places, index
from compare.plan import PLANS, Plan
from compare.process import NETWEIGHT, say
from compare.round import Conditions
from compare.surroundings import Surroundings
from compare.work import Work
from models.spec import NetweightError
from server.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SEED = 0
"""Of random images and of the moments when Poisson requests are due."""
BOUND_SECONDS = 0.1
"""A tenth of a second: what a person takes for at once."""


class UnfinishedError(NetweightError):
    """Models failed, or the user interrupted; what was measured is in `comparison`.

    Attributes:
        comparison: of the models and rounds that were measured.
        interrupted: whether by the user.
    """

    def __init__(self, message: str, comparison: Comparison, *, interrupted: bool) -> None:
        """Store what was measured."""
        super().__init__(message)
        self.comparison = comparison
        self.interrupted = interrupted


def compare(  # noqa: PLR0913 - each is one option of the command line
    models: Sequence[str] = (),
    *,
    repository: Path,
    plan: Plan = PLANS["standard"],
    address: str | None = None,
    metrics_url: str | None = None,
    heldout: str | None = None,
    bound_seconds: float = BOUND_SECONDS,
    hourly_price: float | None = None,
    report: Callable[[str], None] = say,
    command: Sequence[str] = NETWEIGHT,
) -> Comparison:
    """Measure models of a repository through a server; the cards stand in the order of the names given.

    First each model in turn answers the held-out images, and what it will be sent is chosen. Then follow the plan's
    rounds, each through all models. Without a running server each model gets one of its own each time, started for it
    alone: resident memory that one model gained would otherwise hold what another had left free.

    Args:
        models: names, or patterns such as ``vgg*``; none: every model of the repository that has a card.
        repository: where the cards are, and what servers that are started serve.
        plan: how long what is measured.
        address: HOST:PORT of a running server; None: one is started for each model.
        metrics_url: the running server's metrics page; without it memory stays unknown.
        heldout: path with ``{model}`` in it to each model's ``heldout.npz``; where there is none, accuracy stays unknown
            and random images are sent.
        bound_seconds: the p99 that the highest Poisson rate must keep.
        hourly_price: of the machine, in any money, for the price of a million inferences.
        report: is told what is being measured, line by line.
        command: how netweight is called to start a server.

    Raises:
        NetweightError: an unknown model, no server that answers, held-out images of another shape: nothing was measured.
        UnfinishedError: some models failed, or Ctrl-C ended it; it holds what was measured.
    """
    names = choose(models, repository, address)
    references = {name: _reference(repository, name) for name in names}
    held_out = {name: held_out_path(heldout, name, references[name]) for name in names}
    if heldout and not any(held_out.values()):
        raise NetweightError(
            f"--heldout {heldout}: expected a file of at least one of {', '.join(names)}, found none;"
            " write {model} where a model's name stands in the path"
        )
    conditions = Conditions(plan, bound_seconds, SEED, energy.meter())
    if conditions.meter.reason:
        report(conditions.meter.reason)
    places = Places(repository, address, metrics_url, command)
    work, surroundings = Work(places, conditions, held_out, report), Surroundings(places)
    interrupted = False
    try:
        work.do(names)
    except KeyboardInterrupt:
        interrupted = True
    busy = surroundings.busy()
    settings = Settings(
        plan.name, plan.rounds, plan.seconds, plan.callers, bound_seconds, hourly_price, SEED, address is None
    )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    cards = work.cards(names, hourly_price)
    comparison = Comparison(created, surroundings.environment, busy, settings, work.callers, cards)
    if busy and busy.is_busy:
        report(notes.warnings(comparison)[0])
    _raise_unfinished(work.failed, comparison, len(names), interrupted=interrupted)
    return comparison


def choose(models: Sequence[str], repository: Path, address: str | None = None) -> list[str]:
    """Return the names that are meant, each once, those of a pattern in alphabetical order.

    They are those of the repository's cards; of a running server those that are ready there.

    Raises:
        NetweightError: a name or a pattern that no model has, or no server that answers.
    """
    known = model_names(repository) if address is None else _ready(address, repository)
    if not known and address is not None:
        raise NetweightError(f"server at {address}: no model is ready; load one")
    if not known:
        raise NetweightError(f"repository {repository}: no model with a card.json; make one with netweight export")
    chosen: dict[str, None] = {}
    for model in models or ["*"]:
        matching = [model] if model in known else fnmatch.filter(known, model)
        if not matching:
            raise NetweightError(
                f"{model}: no card.json for a model of that name or pattern in repository {repository},"
                f" which has {', '.join(known)}; export it first"
                if address is None
                else f"{model}: no model of that name or pattern is ready at {address}, which has {', '.join(known)}"
            )
        chosen.update(dict.fromkeys(matching))
    return list(chosen)


def _ready(address: str, repository: Path) -> list[str]:
    """Return the models that a running server has ready, in alphabetical order; the repository's if it does not tell."""
    try:
        return sorted({name for name, _, state in index(address) if state == "READY"})
    except ClientError as error:
        if error.code == grpc.StatusCode.UNIMPLEMENTED:  # a server of the Open Inference Protocol alone
            return model_names(repository)
        raise NetweightError(str(error)) from error


def _reference(repository: Path, model: str) -> str | None:
    """Return the name of the model that this one was made from, as far as the repository tells."""
    if not versions(repository, model):
        return None
    reference = read_card(repository, model).reference
    return reference.name if reference else None


def _raise_unfinished(failed: dict[str, str], comparison: Comparison, count: int, *, interrupted: bool) -> None:
    """Raise if not everything was measured."""
    why = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    if interrupted:
        rounds = sum(len(card.single_stream.latency.rounds) for card in comparison.cards if card.single_stream)
        told = f"interrupted: {rounds} of {count * comparison.settings.rounds} rounds of a model were measured"
        raise UnfinishedError(told, comparison, interrupted=True)
    if failed and not comparison.cards:
        raise NetweightError(why)
    if failed:
        raise UnfinishedError(f"{len(failed)} of {count} models failed: {why}", comparison, interrupted=False)

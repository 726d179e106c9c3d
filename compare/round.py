"""One model in one round: a server of its own, and everything measured there in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare import server_scenario
from compare.cold_start import Start, cut, first_answer_seconds
from compare.held_memory import Held, Memories
from compare.metrics_page import ModelFigures, ProcessFigures, parse_figures, parse_process, read_page
from compare.windows import Windows, offline_callers, percentile, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.cost import Probe
    from compare.energy import EnergyMeter
    from compare.place import Place
    from compare.plan import Plan
    from compare.subject import Subject
    from compare.windows import Taken


LATER_STEP = 1.25
"""Of the search of the highest rate where an earlier round has found one: near it, finer than by doubling."""


@dataclass(frozen=True)
class Measured:
    """What one round measured of one model; latencies in seconds, None: not known."""

    figures: ModelFigures
    start: Start | None
    memory: Held | None
    gpu_memory: Held | None
    latencies: tuple[float, ...]
    single: Taken
    batches: dict[int, tuple[float, float]]
    """Batch size: p50 in seconds, inferences for each second."""
    per_second: float
    p50_seconds: float
    p99_seconds: float
    saturated: Taken
    offline_per_second: float
    offline_callers: int
    highest_per_second: float
    probes: tuple[Probe, ...]
    errors: int


@dataclass(frozen=True)
class Conditions:
    """What stays the same from model to model."""

    plan: Plan
    bound_seconds: float
    seed: int
    meter: EnergyMeter


def order(models: Sequence[str], number: int) -> list[str]:
    """Return the models in the order of a round: as named, then from the last to the first, and so on.

    So a drift that goes on evenly, such as a machine that warms up, changes the mean of each model by as much.
    """
    return list(models) if number % 2 == 0 else list(reversed(models))


def measure(place: Place, subject: Subject, conditions: Conditions, earlier: Sequence[Measured]) -> Measured:
    """Measure a model at a server; `earlier` are its rounds before this one."""
    plan = conditions.plan
    memories = Memories(place) if place.server else None
    first_answer = first_answer_seconds(place.address, subject.single[0])
    figures, process = _page(place, subject)
    start = cut(place.server.ready_seconds, first_answer, process, figures) if place.server else None
    windows = Windows(place, subject, plan, conditions.meter)
    one, single = windows.one_caller()
    curve = {1: (percentile(one, 50), rate(one))}
    for batch in sorted(set(subject.requests) - {1}):
        load = windows.batches(batch)
        curve[batch] = percentile(load, 50), rate(load, batch)
    many, saturated = windows.saturation()
    offline = windows.offline()
    if memories:
        memories.look()
    capacity = max(rate(many), rate(offline, subject.largest_batch))
    highest, probes = _search(place, subject, conditions, earlier, (rate(many), capacity), percentile(one, 50))
    memory, gpu_memory = memories.end(subject.name, figures) if memories else _told(figures)
    return Measured(
        figures=figures,
        start=start,
        memory=memory,
        gpu_memory=gpu_memory,
        latencies=tuple(one.latencies.tolist()),
        single=single,
        batches=curve,
        per_second=rate(many),
        p50_seconds=percentile(many, 50),
        p99_seconds=percentile(many, 99),
        saturated=saturated,
        offline_per_second=rate(offline, subject.largest_batch),
        offline_callers=offline_callers(),
        highest_per_second=highest,
        probes=probes,
        errors=windows.errors,
    )


def _search(
    place: Place,
    subject: Subject,
    conditions: Conditions,
    earlier: Sequence[Measured],
    reached: tuple[float, float],
    p50_seconds: float,
) -> tuple[float, tuple[Probe, ...]]:
    """Find the highest Poisson rate; a later round begins where the last one ended.

    `reached` are inferences for each second, at saturation and at most.
    """
    plan, bound = conditions.plan, conditions.bound_seconds
    hopeless = p50_seconds > bound
    known = earlier[-1].highest_per_second if earlier and not hopeless else 0.0
    first = known or server_scenario.begin_with(reached[0], p50_seconds, bound, plan.try_seconds)
    return server_scenario.search(
        place.address,
        subject.single,
        bound_seconds=bound,
        start=server_scenario.Start(first, reached[1], LATER_STEP if known else 2.0),
        tries=1 if hopeless else plan.later_tries if known else plan.tries,
        seconds=plan.try_seconds,
        number=len(earlier),
        seed=conditions.seed,
    )


def _page(place: Place, subject: Subject) -> tuple[ModelFigures, ProcessFigures]:
    if place.metrics_url is None:
        return ModelFigures(), ProcessFigures()
    text = read_page(place.metrics_url)
    return parse_figures(text).get((subject.name, subject.version), ModelFigures()), parse_process(text)


def _told(figures: ModelFigures) -> tuple[Held | None, Held | None]:
    """Return the memory of a running server's model, as far as its metrics page tells."""
    host = None if figures.resident_bytes is None else Held(figures.resident_bytes)
    return host, None if figures.gpu_memory_bytes is None else Held(figures.gpu_memory_bytes)

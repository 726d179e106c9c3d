"""What became better or worse from one comparison to another, beyond the noise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from compare.columns import in_title, in_words
from compare.comparison import Comparison, read
from compare.cost import CostCard
from compare.figures import FIGURES, batch_figures, plain
from compare.noise import Change, change

SCHEMA = "netweight-diff/1"
MACHINE = ("cpu", "cores", "usable_cores", "cpu_quota_cores", "memory_limit_bytes", "gpus", "system", "python")
UNJUDGED = ("memory_given_back_bytes", "gpu_memory_given_back_bytes")
"""More given back is better of the same model; of one that became lighter it is less, and no loss."""
MEASURED_BY = ("plan", "rounds", "seconds", "callers", "bound_seconds", "hourly_price", "own_server")
ERRORS = plain("errors", "errors")


@dataclass(frozen=True)
class Difference:
    """Two comparisons set side by side.

    Attributes:
        warnings: why the two may not be alike, one line each: machine, versions, settings, a busy machine.
        only_old: models that only the old comparison has.
        only_new: models that only the new one has.
        changes: every figure that both have, model by model.
    """

    warnings: tuple[str, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    changes: tuple[Change, ...]

    def worse(self, than_percent: float = 0.0) -> list[Change]:
        """Return what is worse beyond the noise, by more than so many percent of the old value; the worst first."""
        found = [each for each in self.changes if each.verdict == "worse" and each.worse_percent > than_percent]
        return sorted(found, key=lambda each: -each.worse_percent)


def differences(old: Comparison, new: Comparison) -> Difference:
    """Compare every figure of every model that both comparisons have."""
    before, after = ({card.model: card for card in each.cards} for each in (old, new))
    changes = tuple(
        each for model in after if model in before for each in _changes(before[model], after[model], old, new)
    )
    return Difference(
        warnings=tuple(_warnings(old, new, before, after)),
        only_old=tuple(model for model in before if model not in after),
        only_new=tuple(model for model in after if model not in before),
        changes=changes,
    )


def run(
    old: Path,
    new: Path,
    fail_over: float | None = None,
    *,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Print how two stored comparisons differ, and return the exit code.

    Args:
        old: the JSON file to start from.
        new: the JSON file to judge.
        fail_over: percent; 1 is returned when a figure is worse beyond the noise and by more than this; None: never.
        as_json: print JSON instead of a table.
        console: where it goes; None: the terminal.
    """
    found = differences(read(old), read(new))
    failed = [] if fail_over is None else found.worse(fail_over)
    console = console or Console()
    if as_json:
        console.out(as_text(found, failed, fail_over), highlight=False)
    else:
        show(found, console)
        for line in _failures(failed):
            console.print(f"FAILED: more than {fail_over:g} % worse: {line}", style="bold red", highlight=False)
    return 1 if failed else 0


def show(found: Difference, console: Console) -> None:
    """Print warnings, a line for each figure that became better or worse, and what was left out."""
    for line in found.warnings:
        console.print(f"NOTE: {line}", style="yellow", highlight=False, markup=False)
    shown = [each for each in found.changes if each.verdict in ("better", "worse")]
    if shown:
        console.print(_table(shown))
    for line in _summary(found):
        console.print(line, highlight=False, markup=False)


def as_text(found: Difference, failed: list[Change], fail_over: float | None) -> str:
    """Return the difference as JSON text."""
    values = {
        "schema": SCHEMA,
        "fail_over_percent": fail_over,
        "failed": [_plain(each) for each in failed],
        "warnings": found.warnings,
        "only_old": found.only_old,
        "only_new": found.only_new,
        "changes": [_plain(each) for each in found.changes],
    }
    return json.dumps(values, indent=1, allow_nan=False)


def was_busy(comparison: Comparison) -> bool:
    """Whether it was measured on a busy machine."""
    return comparison.busy is not None and comparison.busy.is_busy


def _changes(before: CostCard, after: CostCard, old: Comparison, new: Comparison) -> Iterator[Change]:
    same_price = old.settings.hourly_price == new.settings.hourly_price
    for figure in (*FIGURES, *batch_figures((before, after)), ERRORS):
        found = change(figure, before, after, busy=was_busy(old) or was_busy(new))
        if found and figure.name not in UNJUDGED and (same_price or figure.name != "price_per_million"):
            yield found


def _warnings(
    old: Comparison, new: Comparison, before: dict[str, CostCard], after: dict[str, CostCard]
) -> Iterator[str]:
    for name in MACHINE:
        yield from _differs(name, old.environment.get(name), new.environment.get(name))
    packages = [each.environment.get("packages") or {} for each in (old, new)]
    for name in sorted({*packages[0], *packages[1]}):
        yield from _differs(name, packages[0].get(name), packages[1].get(name))
    yield from _differs("server settings", old.environment.get("settings"), new.environment.get("settings"))
    for name in MEASURED_BY:
        yield from _differs(name, getattr(old.settings, name), getattr(new.settings, name))
    for when, each in (("old", old), ("new", new)):
        if was_busy(each):
            yield f"the {when} comparison was measured on a busy machine: less counts as a change; measure again to see more"
    for model, card in after.items():
        if model in before:
            yield from _unlike(before[model], card)


def _differs(name: str, was: Any, is_now: Any) -> Iterator[str]:
    if was != is_now:
        yield f"{name} differs: {was} then, {is_now} now"


def _unlike(old: CostCard, new: CostCard) -> Iterator[str]:
    """Tell where the two cards of a model are not of the same thing, or do not hold the same figures."""
    for name in ("variant", "provider", "input", "trained"):
        yield from _differs(f"{new.model}: {name}", getattr(old, name), getattr(new, name))
    for when, having, lacking in (("old", old, new), ("new", new, old)):
        lost = [each.name for each in FIGURES if each.value(having) and not each.value(lacking)]
        if lost:
            yield f"{new.model}: only the {when} comparison has {', '.join(lost)}"


def _table(changes: list[Change]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for title in ("model", "figure", "old", "new", "change", "noise", ""):
        table.add_column(title, justify="left" if title in ("model", "figure", "") else "right", overflow="fold")
    colours = {"better": "green", "worse": "red"}
    for each in changes:
        cells = (each.model, in_title(each.figure), *(in_words(each.figure, value) for value in (each.old, each.new)))
        table.add_row(*cells, _ratio(each), _noise(each), each.verdict, style=colours.get(each.verdict))
    return table


def _ratio(each: Change) -> str:
    return "from 0" if each.ratio is None else f"{100 * (each.ratio - 1):+.1f} %"


def _noise(each: Change) -> str:
    return "exact" if not each.noise else f"{100 * each.noise / abs(each.old):.1f} %" if each.old else "?"


def _summary(found: Difference) -> Iterator[str]:
    counts = {verdict: sum(each.verdict == verdict for each in found.changes) for verdict in ("better", "worse")}
    others = len(found.changes) - sum(counts.values())
    yield f"{counts['better']} better, {counts['worse']} worse, {others} the same, within the noise or not comparable."
    for when, models in (("old", found.only_old), ("new", found.only_new)):
        if models:
            yield f"Only in the {when} comparison: {', '.join(models)}."
    apart = sorted({each.figure for each in found.changes if each.verdict == "not comparable"})
    if apart:
        yield f"Not comparable, measured in another way: {', '.join(apart)}."


def _failures(failed: list[Change]) -> Iterator[str]:
    """Name what failed, a line for each model."""
    for model in dict.fromkeys(each.model for each in failed):
        told = ", ".join(f"{in_title(each.figure)} {_ratio(each)}" for each in failed if each.model == model)
        yield f"{model}: {told}."


def _plain(each: Change) -> dict[str, Any]:
    worse = each.worse_percent
    return {
        "model": each.model,
        "figure": each.figure,
        "better": each.better,
        "old": each.old,
        "new": each.new,
        "ratio": each.ratio,
        "noise": each.noise,
        "worse_percent": None if math.isinf(worse) else worse,
        "verdict": each.verdict,
    }

"""Which model to deploy: of those that were measured and keep every bound, the one with the fewest bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from compare.bounds import Bounds, Miss, misses, rate_counts
from compare.columns import DASH, in_title, in_words
from compare.comparison import Comparison, read
from compare.cost import CostCard
from compare.figures import BY_NAME
from compare.notes import warnings
from compare.vgg import Wanted, wanted
from models.spec import NetweightError

SCHEMA = "netweight-choice/1"
PLACES = ("comparison.json", "out/*/comparison.json")
RULE = "of the models that keep every bound, the fewest ONNX bytes; then the shortest p99; then the name"
RIVALRY = ("onnx_bytes", "memory_peak_bytes", "p99_seconds", "saturation_per_second", "top1")
"""The figures in which the models that pass are set beside each other."""


@dataclass(frozen=True)
class Judged:
    """One model and the bounds that it does not keep; none: it passes."""

    card: CostCard
    misses: tuple[Miss, ...]

    @property
    def distance(self) -> tuple[int, float]:
        """How far it is from passing: bounds that cannot be judged, then the largest factor of the others."""
        unknown = sum(miss.factor is None for miss in self.misses)
        return unknown, max((miss.factor for miss in self.misses if miss.factor), default=1.0)


@dataclass(frozen=True)
class Choice:
    """What `choose` found.

    Attributes:
        bounds: that were asked for.
        chosen: the model to deploy; None: none keeps every bound.
        judged: every model, those that pass first, each group in the rule's order or by distance.
        vgg: what VGG would need; None: there is none.
    """

    bounds: Bounds
    chosen: CostCard | None
    judged: tuple[Judged, ...]
    vgg: Wanted | None

    @property
    def passing(self) -> list[CostCard]:
        """The models that keep every bound, in the rule's order."""
        return [each.card for each in self.judged if not each.misses]


def choose(comparison: Comparison, bounds: Bounds, models: Sequence[str] = ()) -> Choice:
    """Judge the measured models by the bounds.

    Args:
        comparison: the measured cards.
        bounds: what is allowed and asked for.
        models: names or patterns (``vgg16*``) of the models that come into question; none: all.
    """
    cards = [card for card in comparison.cards if not models or any(fnmatchcase(card.model, each) for each in models)]
    if not cards:
        known = ", ".join(card.model for card in comparison.cards) or "none"
        raise NetweightError(
            f"choose: no measured model is called {' or '.join(models) or 'anything'}; measured: {known}"
        )
    judged = sorted((Judged(card, tuple(misses(card, bounds))) for card in cards), key=_order)
    best = judged[0]
    return Choice(bounds, None if best.misses else best.card, tuple(judged), wanted(cards, bounds))


def run(
    path: Path | None,
    bounds: Bounds,
    models: Sequence[str] = (),
    *,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Print the choice and the reasons, and return the exit code: 1 where no model keeps every bound.

    Args:
        path: the comparison's JSON; None: the newest of `PLACES`.
        bounds: what is allowed and asked for.
        models: names or patterns; none: all.
        as_json: print JSON instead of words.
        console: where it goes; None: the terminal.
    """
    path = path or newest(Path())
    comparison = read(path)
    choice = choose(comparison, bounds, models)
    console = console or Console()
    if as_json:
        console.out(json.dumps(as_values(choice, path), indent=1, allow_nan=False), highlight=False)
    else:
        show(choice, comparison, path, console)
    return 0 if choice.chosen else 1


def newest(root: Path) -> Path:
    """Return the stored comparison that was written last.

    Raises:
        NetweightError: there is none.
    """
    found = [path for place in PLACES for path in root.glob(place)]
    if not found:
        raise NetweightError(
            f"choose: no measured comparison in {' or '.join(PLACES)}; make one with "
            "`netweight compare --output out/mine`, or name one with --results FILE"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def show(choice: Choice, comparison: Comparison, path: Path, console: Console) -> None:
    """Print the answer first, then every model with its reasons, then what VGG would need."""
    for line in warnings(comparison):
        console.print(line, style="bold red", highlight=False, markup=False)
    for line in _answer(choice):
        console.print(line, style="bold", highlight=False, markup=False)
    console.print(_table(choice, console))
    for line in (*(choice.vgg.lines() if choice.vgg else ()), *_notes(choice, comparison, path)):
        console.print(line, highlight=False, markup=False, soft_wrap=False)


def as_values(choice: Choice, path: Path) -> dict[str, Any]:
    """Return the choice as plain values for JSON."""
    vgg = choice.vgg
    return {
        "schema": SCHEMA,
        "results": str(path),
        "bounds": asdict(choice.bounds),
        "rule": RULE,
        "chosen": choice.chosen.model if choice.chosen else None,
        "nearest": None if choice.chosen else choice.judged[0].card.model,
        "models": [
            {
                "model": each.card.model,
                "passes": not each.misses,
                "misses": [asdict(miss) for miss in each.misses],
                "best_in": _best_in(each.card, choice.passing),
            }
            for each in choice.judged
        ],
        "vgg": None if vgg is None else {**asdict(vgg), "told": list(vgg.lines())},
    }


def _order(each: Judged) -> tuple[Any, ...]:
    p99 = BY_NAME["p99_seconds"].value(each.card)
    ties = (each.card.disk.onnx_bytes, p99.typical if p99 else math.inf, each.card.model)
    return (bool(each.misses), *(each.distance if each.misses else (0, 0.0)), *ties)


def _answer(choice: Choice) -> Iterator[str]:
    if choice.chosen is None:
        nearest = choice.judged[0]
        yield f"No model keeps every bound. Nearest: {nearest.card.model}: {_reasons(nearest)}."
        return
    passing = choice.passing
    best = _best_in(choice.chosen, passing)
    yield f"Deploy {choice.chosen.model} ({choice.chosen.title}): {_figures(choice.chosen)}."
    if len(passing) == 1:
        yield "It is the only one that keeps every bound."
    else:
        yield f"Of the {len(passing)} that keep every bound it has the best {', '.join(best)}."
        for card in passing[1:]:
            told = _best_in(card, passing)
            if told:
                yield f"{card.model} passes too, with the best {', '.join(told)}."


def _figures(card: CostCard) -> str:
    told = []
    for name in RIVALRY:
        value = BY_NAME[name].value(card)
        if value:
            told.append(f"{in_title(name)} {in_words(name, value.typical)}")
    return ", ".join(told)


def _best_in(card: CostCard, passing: Sequence[CostCard]) -> list[str]:
    """Return the figures in which no model that passes is better."""
    best = []
    for name in RIVALRY:
        figure = BY_NAME[name]
        values = [value.typical for each in passing if (value := figure.value(each))]
        own = figure.value(card)
        if own and values and card in passing and own.typical == (min if figure.better == "less" else max)(values):
            best.append(in_title(name))
    return best


def _table(choice: Choice, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    names = ("onnx_bytes", "memory_peak_bytes", "p99_seconds", "highest_rate_per_second", "top1")
    shown = [name for name in names if any(BY_NAME[name].value(each.card) for each in choice.judged)]
    table.add_column("model", overflow="fold")
    wide = console.width >= 100
    for name in shown if wide else ():
        table.add_column(in_title(name), justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for each in choice.judged:
        values = [BY_NAME[name].value(each.card) for name in shown] if wide else []
        cells = [
            DASH if value is None else in_words(name, value.typical) for name, value in zip(shown, values, strict=False)
        ]
        chosen = choice.chosen is not None and each.card.model == choice.chosen.model
        verdict = "deploy this" if chosen else _reasons(each) if each.misses else "keeps every bound"
        table.add_row(each.card.model, *cells, verdict, style="bold green" if chosen else None)
    return table


def _reasons(each: Judged) -> str:
    return "; ".join(miss.told for miss in each.misses)


def _notes(choice: Choice, comparison: Comparison, path: Path) -> Iterator[str]:
    bounds, chosen = choice.bounds, choice.chosen
    yield f"Rule: {RULE}. Measured figures of {path}, {comparison.created}; what was not measured does not pass."
    if bounds.p99_ms is not None:
        yield "p99: of one caller at a time, batch 1 (single stream), all rounds' samples together."
        if chosen and rate_counts(chosen, bounds) and chosen.server:
            highest, limit = chosen.server.highest_per_second.median, chosen.server.bound_seconds * 1000
            yield f"{chosen.model}: its p99 stays under {limit:g} ms up to {in_words('highest_rate_per_second', highest)} (Poisson arrivals)."
        elif chosen:
            yield f"{chosen.model}: up to which rate its p99 stays under {bounds.p99_ms:g} ms was not measured: compare with --p99-ms {bounds.p99_ms:g}."
    if chosen and bounds.min_accuracy is not None and chosen.accuracy:
        yield from _doubt(chosen, bounds.min_accuracy)


def _doubt(chosen: CostCard, limit: float) -> Iterator[str]:
    """Say where the accuracy lies so near the bound that other images might have decided otherwise."""
    accuracy = chosen.accuracy
    assert accuracy is not None
    error = math.sqrt(accuracy.top1 * (1 - accuracy.top1) / accuracy.images)
    if accuracy.top1 - limit < error:
        yield (
            f"{chosen.model}: {in_words('top1', accuracy.top1)} of {accuracy.images:,} images is within one standard error "
            f"({100 * error:.2g} points) of the bound."
        )

"""What everybody says about training, tried: `make results-folklore` writes docs/results/folklore.json and .md.

Each claim is a few arms that differ in one thing, each trained from several seeds on the built-in digits. Runs lie in a
directory of their own and are ordinary training runs, so that an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models import lookup, run
from models.atomic import replacing
from models.claims import CLAIMS, Arm, Claim
from models.environment import environment
from models.spec import NetweightError
from models.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA = "netweight-folklore/1"
SEEDS = (0, 1, 2)


def folklore(
    directory: Path,
    results: Path,
    *,
    claims: Sequence[Claim],
    seeds: Sequence[int],
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train every arm of every claim from every seed, and store what came of it.

    Args:
        directory: Where the runs lie; finished ones are used again.
        results: Where folklore.json and folklore.md are written.
        claims: What to try.
        seeds: Of each arm.
        report: Takes a line of text for each run.

    Returns:
        What folklore.json holds.
    """
    start = environment()
    tried = [_try(claim, directory / claim.name.replace(" ", "-"), seeds, report) for claim in claims]
    content = {
        "schema": SCHEMA,
        "environment": start,
        "seeds": list(seeds),
        "claims": tried,
        "training_seconds": round(sum(claim["seconds"] for claim in tried), 1),
    }
    _write(results / "folklore.json", json.dumps(content, indent=2) + "\n")
    _write(results / "folklore.md", page(content))
    report(f"{results / 'folklore.md'} written, {content['training_seconds']:.0f} s of training in all")
    return content


def _write(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _try(claim: Claim, directory: Path, seeds: Sequence[int], report: Callable[[str], None]) -> dict[str, Any]:
    """Train the arms of a claim, seed by seed so that all arms meet the same machine; return what they reached."""
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in claim.arms}
    seconds = 0.0
    for seed in seeds:
        reached: dict[str, Path] = {}
        for arm in (*claim.preparation, *claim.arms):
            reached[arm.name] = place = directory / f"{arm.name.replace(' ', '-')}-{seed}"
            figures = _train(arm, place, seed, reached)
            report(f"{claim.name}: {arm.name}, seed {seed}: {figures['top1']:.1%}, {figures['seconds']:.0f} s")
            seconds += figures["seconds"]
            if arm.name in runs:
                runs[arm.name].append(figures)
    arms = [{**_plain(arm), "runs": runs[arm.name]} for arm in claim.arms]
    return {
        "name": claim.name,
        "said": claim.said,
        "source": claim.source,
        "measure": claim.measure,
        "seconds": round(seconds, 1),
        "preparation": [_plain(arm) for arm in claim.preparation],
        "arms": arms,
        "better": claim.better,
        "worse": claim.worse,
        "seen": verdict(runs[claim.better], runs[claim.worse], claim.measure, claim.margin),
    }


def _plain(arm: Arm) -> dict[str, Any]:
    """Return an arm as plain values."""
    return asdict(replace(arm, options=dict(arm.options)))


def _train(arm: Arm, directory: Path, seed: int, reached: Mapping[str, Path]) -> dict[str, Any]:
    """Train one arm from one seed, or take the run that stands there; return its figures."""
    finished = train(
        lookup.find(arm.network, arm.builder, arm.options),
        data=arm.data,
        train_images=arm.train_images,
        recipe=arm.recipe,
        directory=directory,
        seed=seed,
        init_from=run.best(reached[arm.init_from]) if arm.init_from else None,
        transfer=str(run.best(reached[arm.transfer])) if arm.transfer else None,
        report=lambda _: None,
    )
    rows = run.history(directory).read_text(encoding="utf-8").splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    return {
        "seed": seed,
        "top1": finished.accuracy,
        "train_loss": float(last["train_loss"]),
        "validation_loss": float(last["validation_loss"]),
        "seconds": finished.seconds,
    }


def verdict(
    better: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]], measure: str, margin: float = 0.0
) -> str:
    """Return whether the first arm did better: in every pair of seeds, in the median only, or not at all.

    Args:
        better: The figures of the arm that should do better, seed by seed.
        worse: Those of the other, of the same seeds.
        measure: `top1`, where more is better, or `train_loss`, where less is.
        margin: How far the first may stay behind and still count: for what is said to do as well as something else.
    """
    sign = 1 if measure == "top1" else -1
    pairs = [(sign * mine[measure] + margin, sign * other[measure]) for mine, other in zip(better, worse, strict=True)]
    if all(mine > other for mine, other in pairs):
        return "yes, from every seed"
    if statistics.median(mine for mine, _ in pairs) > statistics.median(other for _, other in pairs):
        return "in the median, not from every seed"
    return "no"


def page(content: Mapping[str, Any]) -> str:
    """Return the stored page."""
    machine = content["environment"]
    lines = [
        "# What is said about training, tried on the digits",
        "",
        f"`make results-folklore`, {machine['date'][:10]}: {machine['cpu']}, {machine['usable_cores']} cores,",
        f"torch {machine['packages'].get('torch', '?')}; {content['training_seconds'] / 60:.0f} minutes of training. Accuracy is top-1 of the held-out images,",
        "by torch, for each seed; the arms of a claim differ in nothing but what their name says. Every figure, recipe and",
        "option: `folklore.json`.",
    ]
    for claim in content["claims"]:
        lines += [
            "",
            f"## {claim['name'].capitalize()}",
            "",
            _said(claim),
            "",
            "| arm | held-out % by seed | median % | training loss, median | validation loss, median | s |",
            "|---|---|---|---|---|---|",
            *(_row(arm) for arm in claim["arms"]),
        ]
    return "\n".join(lines) + "\n"


def _said(claim: Mapping[str, Any]) -> str:
    """Return what is said, and whether it was seen here."""
    figure = "held-out accuracy" if claim["measure"] == "top1" else "training loss"
    return (
        f"{claim['said']} ({claim['source']}.) Seen here, {claim['better']} against {claim['worse']} by {figure}: "
        f"**{claim['seen']}**."
    )


def _row(arm: Mapping[str, Any]) -> str:
    """Return an arm's row of the table."""
    runs = arm["runs"]

    def median(name: str) -> float:
        return float(statistics.median(each[name] for each in runs))

    each = ", ".join(f"{100 * figures['top1']:.1f}" for figures in runs)
    return (
        f"| {arm['name']} | {each} | {100 * median('top1'):.1f} | {median('train_loss'):.3f} | "
        f"{median('validation_loss'):.3f} | {median('seconds'):.0f} |"
    )


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), default=Path("out/folklore"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), show_default=True)
@click.option(
    "--claim", "names", multiple=True, type=click.Choice([claim.name for claim in CLAIMS]), help="Only these."
)
@click.option("--seed", "seeds", multiple=True, type=int, default=SEEDS, help="Only these.  [default: 0, 1, 2]")
def main(directory: Path, results: Path, names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Try what is said about training on the built-in digits."""
    chosen = [claim for claim in CLAIMS if not names or claim.name in names]
    try:
        folklore(directory, results, claims=chosen, seeds=seeds)
    except NetweightError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

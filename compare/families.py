"""Every family of networks trained on the built-in digits, exported, served and compared: `make results-families`.

It is the demo with more networks, and like it goes on where it was interrupted. What it reaches is stored as
`families.json` and `families.md`, with the machine that it was measured on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compare import comparison as comparisons
from compare.demo import demo
from compare.files import write_text
from compare.markdown import as_markdown
from compare.plan import PLANS
from compare.process import say
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.comparison import Comparison

FAMILIES = (
    "lenet5",
    "alexnet_2012",
    "alexnet",
    "vgg16_bn",
    "googlenet",
    "inception_v2",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "densenet121",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
)
"""At least one of each family, small ones first choice; a test holds them against the catalogue."""

LEAST_ACCURACY = 0.97
"""Of the held-out digits, through the server: what a recipe must reach to be called working."""


def families(
    directory: Path,
    results: Path,
    *,
    networks: Sequence[str] = FAMILIES,
    least_accuracy: float = LEAST_ACCURACY,
    report: Callable[[str], None] = say,
) -> Comparison:
    """Train, export, serve and compare, and store the result in `results`.

    Raises:
        NetweightError: a step failed, or a network stayed below `least_accuracy`; the results are stored all the same.
    """
    began = time.monotonic()
    comparison = demo(directory, networks=networks, plan=PLANS["standard"], report=report)
    comparisons.write(results / "families.json", comparison)
    write_text(results / "families.md", page(comparison))
    report(f"{results / 'families.md'} written, {time.monotonic() - began:.0f} s in all")
    reached = {card.model: card.accuracy.top1 if card.accuracy else 0.0 for card in comparison.cards}
    poor = [f"{model} {accuracy:.1%}" for model, accuracy in reached.items() if accuracy < least_accuracy]
    if poor:
        raise NetweightError(
            f"expected {least_accuracy:.0%} of the held-out digits or more, got {', '.join(poor)}: mend its recipe in "
            "models/records.py"
        )
    return comparison


def page(comparison: Comparison) -> str:
    """Return the stored page: how it came about, then the comparison's own table."""
    return (
        "# Every family on the digits\n\n"
        "`make results-families` trained each network by the recipe of its record on the built-in digits (32 by 32 pixels,\n"
        "1,293 to train, 144 to choose the epoch, 360 held out), exported it, served it and asked the server for the\n"
        "held-out images. Raw figures, machine and versions: `families.json`.\n\n"
        f"{as_markdown(comparison)}"
    )


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), default=Path("out/families"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), show_default=True)
@click.option("--network", "networks", multiple=True, help="Only these.  [default: at least one of each family]")
def main(directory: Path, results: Path, networks: tuple[str, ...]) -> None:
    """Train, export, serve and compare at least one network of every family on the built-in digits."""
    try:
        families(directory, results, networks=networks or FAMILIES)
    except NetweightError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

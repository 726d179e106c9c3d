"""The stored comparisons, of the whole catalogue and of the networks trained on the digits: `make results-comparison`.

The catalogue is exported untrained, each network at the size of image that it was made for: what a network weighs and
takes does not depend on what it has learnt. The digits' networks are trained, so that theirs is a measured accuracy.
What an interrupted call has trained and exported is used again; what it has measured is measured anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compare import page, results
from compare.comparison import read, write
from compare.demo import DATA, Layout, finished_weights, run_to_end
from compare.exported import Export
from compare.families import FAMILIES
from compare.files import write_text
from compare.plan import PLANS, Plan
from compare.process import INTERRUPTED, NETWEIGHT, say
from compare.run import UnfinishedError, compare
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.comparison import Comparison

CATALOGUE = "catalogue"
DIGITS = "digits"
ON_GPU = "-gpu"
"""What the files' names end in where a model ran elsewhere than on the CPU."""

BOUND_SECONDS = {CATALOGUE: 0.5, DIGITS: 0.1}
"""The p99 that the Poisson rate must keep. At 224 x 224 on two cores VGG-16 needs longer than 0.1 s for a single answer."""

INT8 = ("--variant", "int8", "--calibration", DATA)
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "mobilenet_v2": {"": INT8},
    "resnet50": {"": INT8},
    "vgg16_bn": {
        ".pool": ("--head", "pool", *INT8),
        ".svd": ("--head", "svd", "--rank", "64", "--head-epochs", "2", *INT8),
    },
}
"""What there is to choose from beside the networks themselves, by network and suffix: each in fp32 and int8."""


@dataclass(frozen=True)
class Steps:
    """What the steps towards a comparison have in common.

    Attributes:
        results: where the files of the comparison are stored.
        plan: how long what is measured.
        report: is told what runs, line by line.
        command: how netweight is called.
    """

    results: Path
    plan: Plan
    report: Callable[[str], None] = say
    command: Sequence[str] = NETWEIGHT

    def catalogue(self, directory: Path, networks: Sequence[str] = ()) -> Comparison:
        """Export the catalogue untrained, or only these of its networks, and measure and store them.

        Raises:
            NetweightError: a step failed.
        """
        repository = directory / "model_repository"
        names = list(networks) or self.names()
        self.export([Export(name, (name,)) for name in names], repository)
        return self._measure(CATALOGUE, names, directory, repository)

    def digits(self, directory: Path, networks: Sequence[str] = FAMILIES) -> Comparison:
        """Train networks on the digits, export them and their variants, and measure and store all of them.

        Raises:
            NetweightError: a step failed.
        """
        layout = Layout(directory)
        for number, network in enumerate(networks, 1):
            self._train(layout, network, f"[{number}/{len(networks)}] train {network} on the {DATA}")
        exports = [export for network in networks for export in trained(layout, network)]
        self.export(exports, layout.repository)
        models = list(dict.fromkeys(name for export in exports for name in export.makes))
        return self._measure(DIGITS, models, directory, layout.repository, layout.heldout)

    def export(self, exports: Sequence[Export], repository: Path) -> None:
        """Export what does not stand in the repository yet."""
        for number, export in enumerate(exports, 1):
            what = f"[{number}/{len(exports)}] export {', '.join(export.makes)}"
            if export.stands(repository):
                self.report(f"{what}: done before")
            else:
                self._netweight(what, export.words(repository))

    def names(self) -> list[str]:
        """Return the names of the catalogue's networks, as `netweight models` tells them."""
        answer = subprocess.run([*self.command, "models", "--json"], check=False, capture_output=True, text=True)
        if answer.returncode:
            raise NetweightError(f"netweight models --json failed with exit code {answer.returncode}: {answer.stderr}")
        return [record["name"] for record in json.loads(answer.stdout)]

    def _train(self, layout: Layout, network: str, what: str) -> None:
        if finished_weights(layout.run(network)):
            self.report(f"{what}: done before, {layout.weights(network)}")
            return
        self._netweight(what, ["train", network, "--data", DATA, "--output", str(layout.run(network))])

    def _netweight(self, what: str, words: Sequence[str]) -> None:
        """Run a subcommand; its output is seen."""
        self.report(f"{what} ...")
        began = time.monotonic()
        if code := run_to_end([*self.command, *words]):
            raise NetweightError(
                f"netweight {' '.join(words)} failed with exit code {code}; mend what it says above, then the same command"
                " goes on from here"
            )
        self.report(f"{what}: {time.monotonic() - began:.1f} s")

    def _measure(
        self, name: str, models: Sequence[str], directory: Path, repository: Path, heldout: str | None = None
    ) -> Comparison:
        """Measure and store; what is not whole is kept in `directory`, and does not take the place of what is."""
        began = time.monotonic()
        try:
            comparison = compare(
                models,
                repository=repository,
                plan=self.plan,
                heldout=heldout,
                bound_seconds=BOUND_SECONDS[name],
                report=self.report,
                command=self.command,
            )
        except UnfinishedError as unfinished:
            if unfinished.comparison.cards:
                write(directory / f"{name}-unfinished.json", unfinished.comparison)
            raise
        self.report(f"{len(models)} models measured in {time.monotonic() - began:.0f} s")
        # What took half an hour is safe before anything is drawn.
        write(self.results / f"{name}{suffix(comparison)}.json", comparison)
        store(self.results, name, comparison, self.report)
        return comparison


def trained(layout: Layout, network: str) -> list[Export]:
    """Return the exports of a trained network: as it is, then its variants."""
    weights, digest = layout.weights(network), finished_weights(layout.run(network))
    if digest is None:
        raise NetweightError(f"{layout.run(network)}: netweight train left no finished run; remove it and go on")
    return [
        Export(network, (network,), weights, digest),
        *(
            Export(network, (f"{network}{ending}", f"{network}{ending}.int8"), weights, digest, options)
            for ending, options in VARIANTS.get(network, {}).items()
        ),
    ]


def store(directory: Path, name: str, comparison: Comparison, report: Callable[[str], None] = say) -> None:
    """Write all files of a comparison into `directory`; of the catalogue, also the README's pictures beside it."""
    paths = list(results.write_all(directory, comparison, name=f"{name}{suffix(comparison)}"))
    if name == CATALOGUE:
        paths += write_pictures(directory.parent, comparison)
    for path in paths:
        report(f"{path} written")


def redrawn(directory: Path, names: Sequence[str]) -> None:
    """Write the other files of stored comparisons anew, of those of a GPU where there are any."""
    for name in names:
        store(directory, name, read(directory / f"{name}.json"))
        on_gpu = directory / f"{name}{ON_GPU}.json"
        if on_gpu.is_file():
            store(directory, name, read(on_gpu))


def suffix(comparison: Comparison) -> str:
    """Return what the files' name ends in: nothing on a CPU."""
    providers = {card.provider for card in comparison.cards} - {None, "CPUExecutionProvider"}
    return ON_GPU if providers else ""


def write_pictures(directory: Path, comparison: Comparison) -> list[Path]:
    """Write what VGG-16 costs beside ResNet-50 and MobileNetV2, for light and dark pages; return the paths."""
    paths = []
    for ending, dark in (("", False), ("-dark", True)):
        path = directory / f"cost{suffix(comparison)}{ending}.svg"
        picture = page.figure_svg(comparison, "cost", dark=dark)
        write_text(path, picture)
        paths.append(path)
    return paths


def measure(
    steps: Steps, chosen: Sequence[str], *, directory: Path, families: Path, networks: Sequence[str] = ()
) -> None:
    """Measure and store one of the comparisons, or both."""
    if CATALOGUE in chosen:
        steps.catalogue(directory, networks)
    if DIGITS in chosen:
        steps.digits(families)


@click.command()
@click.option("--only", type=click.Choice([CATALOGUE, DIGITS]), help="Of the two.  [default: both]")
@click.option("--plan", type=click.Choice(list(PLANS)), default="standard", show_default=True, help="How long.")
@click.option("--rounds", type=click.IntRange(min=1), help="Each through all models in turn.  [default: the plan's]")
@click.option("--network", "networks", multiple=True, help="Only these of the catalogue.  [default: all of them]")
@click.option("--redraw", is_flag=True, help="Measure nothing: write the other files anew from the stored JSON.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("out/catalogue"), show_default=True)
@click.option("--families", type=click.Path(path_type=Path), default=Path("out/families"), show_default=True)
@click.option("--results", "stored", type=click.Path(path_type=Path), default=Path("docs/results"), show_default=True)
def main(stored: Path, only: str | None, plan: str, rounds: int | None, *, redraw: bool, **given: Any) -> None:
    """Measure and store the whole catalogue, untrained, then the networks trained on the digits with their variants."""
    chosen = [only] if only else [CATALOGUE, DIGITS]
    try:
        if redraw:
            redrawn(stored, chosen)
            return
        asked = PLANS[plan]
        measure(Steps(stored, replace(asked, rounds=rounds or asked.rounds)), chosen, **given)
    except NetweightError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is trained and exported", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()

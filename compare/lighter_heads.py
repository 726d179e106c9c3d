"""What lighter heads make of VGG-16 on the built-in digits: `make results-heads` writes docs/results/heads.json and .md.

The network is trained (or a trained one is given), and exported by the command line with each head, as fp32 and int8.
Where each megabyte went is read from the cards of what was published; what each costs is measured through the server.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compare import comparison as comparisons
from compare.card import versions
from compare.columns import DASH
from compare.files import write_text
from compare.markdown import as_markdown
from compare.process import NETWEIGHT, say, start
from compare.run import compare
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from compare.comparison import Comparison

NETWORK = "vgg16_bn"
DEMO = Path("out/demo/runs") / NETWORK / "best.pt"
"""Taken where `make demo` has left it."""

HEADS = {"pool": ("--head", "pool"), "svd": ("--head", "svd", "--rank", "64", "--head-epochs", "2")}
"""The options of `netweight export`. By rank: on the digits, energy keeps what training never touched (docs/heads.md)."""

INT8 = ("--variant", "int8", "--calibration", "digits")
MOST_BYTES = 20e6
MOST_LOST = 0.005
"""Of the held-out accuracy, 0..1."""


@dataclass(frozen=True)
class Row:
    """One published model, as its card tells."""

    model: str
    file_bytes: int
    initializer_bytes: int
    parameters: int
    """Of the layers in the graph, batch norm folded into them."""
    parts: dict[str, int]
    """Bytes of the initializers by part of the network; ``other``: scales, preprocessing, shapes."""
    top1: float
    """On the held-out images, through ONNX Runtime, 0..1."""
    agreement: float
    """With the answers of the original fp32 file, 0..1."""
    images: int
    fine_tuning: dict[str, Any] | None


def measure(
    directory: Path, results: Path, weights: Path | None = None, report: Callable[[str], None] = say
) -> Comparison:
    """Train where needed, export what is not there yet, compare, and store the result in `results`.

    Raises:
        NetweightError: a step failed; or no head is below `MOST_BYTES` at equal accuracy, which is stored all the same.
    """
    began = time.monotonic()
    trained = weights or _trained(directory)
    repository = directory / "model_repository"
    for head, options in HEADS.items():
        if not _stands(repository, f"{NETWORK}.{head}", trained):
            _netweight("export", NETWORK, "--weights", str(trained), "--repository", str(repository), *options, *INT8)
    names = [NETWORK, *(f"{NETWORK}.{head}{variant}" for variant in ("", ".int8") for head in HEADS)]
    rows = [row(read(repository, name)) for name in names]
    comparison = compare(names, repository=repository, heldout=str(trained.parent / "heldout.npz"), report=report)
    comparisons.write(results / "heads.json", comparison)
    write_text(results / "heads.md", page(rows, comparison))
    report(f"{results / 'heads.md'} written, {time.monotonic() - began:.0f} s in all")
    _check(rows)
    return comparison


def row(card: Mapping[str, Any]) -> Row:
    """Read a row off a card."""
    parts: dict[str, int] = defaultdict(int)
    for layer in card["layers"]:
        parts[part(layer["name"])] += layer["bytes"]
    parts["other"] = card["initializer_bytes"] - sum(parts.values())
    measured = card["heldout"]
    return Row(
        model=card["name"],
        file_bytes=card["graph"]["onnx_bytes"],
        initializer_bytes=card["initializer_bytes"],
        parameters=sum(layer["parameters"] for layer in card["layers"]),
        parts=dict(parts),
        top1=measured["top1"],
        agreement=measured["agreement"],
        images=measured["images"],
        fine_tuning=(card.get("head") or {}).get("fine_tuning"),
    )


def part(layer: str) -> str:
    """Return the part of the network that a layer belongs to: ``features``, or ``classifier.N`` with both its halves."""
    names = layer.split(".")
    return ".".join(names[:2]) if names[0] == "classifier" else names[0]


def read(repository: Path, name: str) -> dict[str, Any]:
    """Return the card of a model's newest version."""
    newest = versions(repository, name)[-1]
    card: dict[str, Any] = json.loads((repository / name / str(newest) / "card.json").read_text(encoding="utf-8"))
    return card


def page(rows: Sequence[Row], comparison: Comparison) -> str:
    """Return the stored page: what the cards tell, then what the comparison measured."""
    first, options = rows[0], [" ".join([*given, *INT8]) for given in HEADS.values()]
    return (
        "# What lighter heads make of VGG-16\n\n"
        f"`make results-heads`: {NETWORK}, trained on the built-in digits (32 by 32 pixels, 10 classes), exported as it is\n"
        "and with each head, in fp32 and int8. Accuracy and agreement (with the fp32 original) are those of the ONNX file\n"
        f"in ONNX Runtime, on the {first.images} held-out images. MB = 10^6 bytes. Options of `netweight export`:\n"
        f"{' and '.join(f'`{each}`' for each in options)}. What the heads are: `docs/heads.md`.\n\n"
        f"{_table(_FIGURES, [_figures(each, first) for each in rows])}\n"
        "## Where each megabyte went\n\n"
        "Initializers in MB, by part of the network; the layers of a part that was split in two are counted together.\n\n"
        f"{_table(['part', *(each.model for each in rows)], _parts(rows))}\n"
        "## What each costs in a server\n\n"
        "Measured through the server (docs/comparison.md). Raw figures, machine and versions: `heads.json`.\n\n"
        f"{as_markdown(comparison)}"
    )


_FIGURES = (
    "model",
    "file, MB",
    "initializers, MB",
    "parameters",
    "held-out accuracy, %",
    "agreement, %",
    "times lighter",
    "fine-tuning, s",
)


def _figures(each: Row, first: Row) -> list[str]:
    """Return one line of the first table."""
    return [
        each.model,
        f"{each.file_bytes / 1e6:.1f}",
        f"{each.initializer_bytes / 1e6:.1f}",
        f"{each.parameters:,}",
        f"{100 * each.top1:.2f}",
        f"{100 * each.agreement:.2f}",
        f"{first.file_bytes / each.file_bytes:.1f}",
        f"{each.fine_tuning['seconds']:.0f}" if each.fine_tuning else DASH,
    ]


def _parts(rows: Sequence[Row]) -> list[list[str]]:
    """Return the lines of the second table; a part that a network has not is a dash."""
    names = sorted({name for each in rows for name in each.parts}, key=_order)
    lines = [
        [name, *(f"{each.parts[name] / 1e6:.2f}" if name in each.parts else DASH for each in rows)] for name in names
    ]
    return [*lines, ["all", *(f"{each.initializer_bytes / 1e6:.2f}" for each in rows)]]


def _order(name: str) -> tuple[bool, bool, str]:
    """Features first, what is no layer last."""
    return name == "other", name != "features", name


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose figures stand to the right."""
    ruled = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ruled, *lines))


def _trained(directory: Path) -> Path:
    """Return the demo's network, or train one."""
    if DEMO.is_file():
        return DEMO
    run = directory / "runs" / NETWORK
    _netweight("train", NETWORK, "--output", str(run))
    return run / "best.pt"


def _stands(repository: Path, name: str, trained: Path) -> bool:
    """Whether a lighter network and its int8 variant were made from these very weights before."""
    with trained.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    models = (name, f"{name}.int8")
    return all(
        versions(repository, each) and read(repository, each)["head"]["origin"]["sha256"] == digest for each in models
    )


def _netweight(*arguments: str) -> None:
    """Run a command; its output is seen."""
    process = start([*NETWEIGHT, *arguments])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise NetweightError(f"`netweight {' '.join(arguments)}` failed, as told above: mend it and repeat")


def _check(rows: Sequence[Row]) -> None:
    """Make sure that one of them is as light and as good as it is claimed to be."""
    first = rows[0]
    for each in rows:
        if each.file_bytes < MOST_BYTES and each.top1 >= first.top1 - MOST_LOST:
            return
    got = ", ".join(f"{each.model} {each.file_bytes / 1e6:.1f} MB {each.top1:.2%}" for each in rows)
    raise NetweightError(
        f"expected a model below {MOST_BYTES / 1e6:.0f} MB within {100 * MOST_LOST} points of {first.top1:.2%}, got {got}"
    )


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), default=Path("out/heads"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("docs/results"), show_default=True)
@click.option(
    "--weights", type=click.Path(path_type=Path, exists=True), help="A best.pt.  [default: the demo's, or trained]"
)
def main(directory: Path, results: Path, weights: Path | None) -> None:
    """Export VGG-16 with lighter heads, and store what each costs and gains."""
    try:
        measure(directory, results, weights)
    except NetweightError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

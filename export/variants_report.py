"""What every variant of a network weighs, answers and takes: docs/results/variants.json and .md.

`python -m export.variants_report` measures VGG-16, ResNet-50 and MobileNetV2, untrained at 224 pixels and 1000 classes,
and their twins trained on the digits. Each network's part is kept; what stands is not measured again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export.variant_table import markdown
from models.atomic import replacing
from models.environment import environment
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNTRAINED = ("vgg16", "resnet50", "mobilenet_v2")
TWINS = ("vgg16_bn", "resnet50", "mobilenet_v2")

RESULTS = Path("docs/results")

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_fp16", "avx512_bf16", "f16c")
"""Of the CPU's instructions, those that decide how fast a variant is."""


@click.command(help=(__doc__ or "").replace("`", ""))
@click.option("--untrained", default=",".join(UNTRAINED), show_default=True, help="Networks with random weights.")
@click.option("--trained", default=",".join(TWINS), show_default=True, help="Networks with a training run in --runs.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("out/families/runs"), show_default=True)
@click.option("--parts", type=click.Path(path_type=Path), default=Path("out/variants"), show_default=True)
@click.option("--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="Of latency, in alternation.")
@click.option("--fresh", is_flag=True, help="Measure again what stands in --parts.")
@click.option("--part", hidden=True, help="Measure this one alone, in this process.")
def main(untrained: str, trained: str, runs: Path, parts: Path, rounds: int, fresh: bool, part: str | None) -> None:
    """Measure what is missing, then write the report."""
    parts.mkdir(parents=True, exist_ok=True)
    if part is not None:
        _measure(part, runs, parts, rounds)
        return
    names = [*_names(untrained), *(f"{name}-digits" for name in _names(trained))]
    for name in names:
        if fresh or not (parts / f"{name}.json").is_file():
            _child(name, runs, parts, rounds)
    write([json.loads((parts / f"{name}.json").read_text(encoding="utf-8")) for name in names])


def write(measured: Sequence[dict[str, Any]], output: Path = RESULTS) -> None:
    """Write variants.json and variants.md."""
    output.mkdir(parents=True, exist_ok=True)
    report = {"schema": "netweight-variants/1", "networks": list(measured)}
    for name, text in (("variants.json", json.dumps(report, indent=1) + "\n"), ("variants.md", markdown(measured))):
        with replacing(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"wrote {output / name}")


def cpu_flags() -> list[str]:
    """Return which of the instructions that matter the CPU has; none where the kernel does not tell."""
    path = Path("/proc/cpuinfo")
    words = set(path.read_text(encoding="utf-8").split()) if path.is_file() else set[str]()
    return [flag for flag in _FLAGS if flag in words]


def _names(text: str) -> list[str]:
    """Split a list by commas."""
    return [name for name in text.split(",") if name]


def _child(name: str, runs: Path, parts: Path, rounds: int) -> None:
    """Measure one network in a process of its own, whose memory goes with it."""
    options = ["--runs", str(runs), "--parts", str(parts), "--rounds", str(rounds)]
    done = subprocess.run([sys.executable, "-m", "export.variants_report", "--part", name, *options], check=False)
    if done.returncode:
        raise click.ClickException(f"{name} could not be measured; what was measured before it is kept in {parts}")


def _measure(name: str, runs: Path, parts: Path, rounds: int) -> None:
    """Measure one network and keep what was found."""
    from export.variant_figures import Subject, measure

    network = name.removesuffix("-digits")
    subject = Subject(network, runs / network if name.endswith("-digits") else None)
    print(f"{name}: export, make every variant, measure in {rounds} rounds ...", flush=True)
    start = time.perf_counter()
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parts))
    before = environment()
    try:
        found = measure(subject, directory, rounds)
    except NetweightError as error:
        raise click.ClickException(str(error)) from error
    finally:
        shutil.rmtree(directory)
    for line in found["gpu"]["skipped"]:
        print(f"{name}: the GPU's figures are skipped: {line}")
    seconds = round(time.perf_counter() - start, 1)
    content = {"name": name, **found, "seconds": seconds, "environment": {**before, "cpu_flags": cpu_flags()}}
    with replacing(parts / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

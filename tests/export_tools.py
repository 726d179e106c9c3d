"""The oldest and the newest export tools within pyproject.toml's bounds: ``python -m tests.export_tools``.

Each set exports `NETWORKS` with random weights, which proves the files against torch, by netweight's own command. Tools
of other versions than the installed ones lie in a directory of their own that Python searches first; nothing installed
is touched. The exit code is 1 where a set fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WHERE = ROOT / "out" / "tools"
NETWORKS = ("lenet5", "mobilenet_v2")
SETS = {"oldest": "lowest-direct", "newest": "highest"}
"""How uv is to choose the versions."""

LIGHT = ("onnx", "onnxscript", "onnx-ir")
"""Tools that are cheap to install: 20 MB."""

HEAVY = ("torch", "torchvision")
"""Tools that stay as they are: another torch comes with gigabytes of CUDA, unless its index has it for the CPU."""


@dataclass(frozen=True)
class Outcome:
    """What one set of tools made of one network."""

    tools: str
    """Of `SETS`."""
    network: str
    card: dict[str, Any] | None
    """What the published file's card says; None where nothing was published."""
    complaint: str = ""
    """The export's last line, where nothing was published."""

    @property
    def good(self) -> bool:
        """Whether the file was published, and is within tolerance."""
        return self.card is not None and bool(self.card["parity"]["within_tolerance"])

    def row(self) -> str:
        """Return the table's line; the versions are those that the export itself found."""
        if self.card is None:
            return f"{self.tools:8}{self.network:14}failed: {self.complaint}"
        versions = "".join(f"{self.card['tools'][each]:13}" for each in (*HEAVY, *LIGHT))
        worst = max(batch["max_relative"] for batch in self.card["parity"]["batches"])
        sha256 = self.card["graph"]["files"]["model.onnx"]["sha256"]
        return f"{self.tools:8}{self.network:14}{versions}{worst:<9.1e}{sha256[:12]}  {'ok' if self.good else 'failed'}"


def chosen(resolution: str) -> dict[str, str]:
    """Return the versions that uv chooses within pyproject.toml's bounds, by name."""
    found = _uv("pip", "compile", "--quiet", "pyproject.toml", "--extra", "export", "--resolution", resolution)
    return pins(found)


def pins(requirements: str) -> dict[str, str]:
    """Read ``name==version`` lines; a local part such as +cpu is left out."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s+;]+)", requirements, re.MULTILINE))


def differing(versions: dict[str, str], names: tuple[str, ...]) -> list[str]:
    """Return ``name==version`` for each of the names that is installed in another version."""
    return [f"{each}=={versions[each]}" for each in names if version(each) != versions[each]]


def install(requirements: list[str], directory: Path) -> None:
    """Put packages, without what they depend on, into a new directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if requirements:
        _uv("pip", "install", "--quiet", "--no-deps", "--target", str(directory), *requirements)


def export(tools: str, network: str, directory: Path) -> Outcome:
    """Export a network with the tools in a directory, before the installed ones, and publish it there."""
    repository = directory / "models"
    done = subprocess.run(
        [sys.executable, "-m", "netweight", "export", network, "--repository", str(repository)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Outcome(tools, network, None, (done.stderr or done.stdout).strip().rpartition("\n")[2])
    return Outcome(tools, network, json.loads((repository / network / "1" / "card.json").read_text(encoding="utf-8")))


def told(name: str, oldest: str, newest: str) -> str:
    """Say of one tool which versions are tried, and aloud which are not."""
    there = version(name)
    if name in HEAVY and {oldest, newest} != {there.partition("+")[0]}:
        return f"{name}: {there} alone is TRIED, as installed; NOT {oldest} and {newest}, whose CUDA takes gigabytes"
    return f"{name}: {oldest} and {newest}" if oldest != newest else f"{name}: {oldest}, the only one within the bounds"


def try_set(tools: str, versions: dict[str, str]) -> list[Outcome]:
    """Install a set of tools and export every network with it."""
    directory = WHERE / f"export-{tools}"
    install(differing(versions, LIGHT), directory)
    return [export(tools, network, directory) for network in NETWORKS]


def main() -> int:
    """Try each set and print the table."""
    sets = {tools: chosen(resolution) for tools, resolution in SETS.items()}
    for name in (*HEAVY, *LIGHT):
        print(told(name, *(versions[name] for versions in sets.values())), flush=True)
    outcomes = [outcome for tools, versions in sets.items() for outcome in try_set(tools, versions)]
    names = "".join(f"{each:13}" for each in (*HEAVY, *LIGHT))
    print(f"\n{'tools':8}{'network':14}{names}{'parity':9}{'SHA-256':14}result")
    for outcome in outcomes:
        print(outcome.row())
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _uv(*arguments: str) -> str:
    """Run uv for this Python, and return what it prints; its own complaint ends the program."""
    command = [str(Path(sys.executable).with_name("uv")), *arguments, "--python", sys.executable]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv {' '.join(arguments)} failed")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

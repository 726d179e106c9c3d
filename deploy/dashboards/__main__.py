"""Generate the dashboards: `python -m deploy.dashboards` writes Grafana's JSON and Prometheus' console pages.

With ``--check`` nothing is written; the exit code is 1 where a file is not what this code generates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.dashboards import console, costs, grafana, serving

BOARDS = (costs.BOARD, serving.BOARD)
DEPLOY = Path(__file__).parent.parent


def generate() -> dict[str, str]:
    """Return each file's text by its path under deploy/."""
    pictures = {f"grafana/dashboards/netweight-{board.name}.json": grafana.as_json(board) for board in BOARDS}
    pages = {f"consoles/{board.name}.html": console.as_html(board, BOARDS) for board in BOARDS}
    return {**pictures, **pages, "consoles/index.html": console.index(BOARDS)}


def check(directory: Path) -> list[str]:
    """Return the generated files that are missing or another, and those that nothing generates any more."""
    wanted = generate()
    there = {
        str(path.relative_to(directory))
        for folder in ("grafana/dashboards", "consoles")
        for path in (directory / folder).glob("*")
    }
    wrong = {name for name in wanted.keys() & there if (directory / name).read_text(encoding="utf-8") != wanted[name]}
    return sorted(wrong | (wanted.keys() ^ there))


def write(directory: Path) -> None:
    """Write each file, whole or not at all, and delete those that nothing generates any more."""
    for name in check(directory):
        path, text = directory / name, generate().get(name)
        if text is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)


def main() -> int:
    """Write the files, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dashboards", description="Generate the dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file is another")
    if not parser.parse_args().check:
        write(DEPLOY)
        return 0
    wrong = check(DEPLOY)
    if wrong:
        names = ", ".join(f"deploy/{name}" for name in wrong)
        print(f"{names}: not what deploy/dashboards generates: python -m deploy.dashboards", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

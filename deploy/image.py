"""What the image build takes from pyproject.toml, without the project's sources. The standard library only.

`requirements EXTRA ...` prints what to install, one requirement a line, so that the slow layer with the dependencies is
made before any source is copied; `record DIRECTORY` writes the project's name and version as an installed package has
them, since the image's sources are copied rather than installed.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path("pyproject.toml")


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Return the project's dependencies and those of some extras.

    Raises:
        KeyError: the project has no such extra.
    """
    return [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]


def record(project: dict[str, Any], directory: Path) -> Path:
    """Write the project's metadata below a directory of packages, where `importlib.metadata` finds it.

    Source: the Python packaging user guide, "Recording installed projects".
    """
    name, version = project["name"], project["version"]
    metadata = directory / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return metadata


def main(task: str, *arguments: str) -> None:
    """Do one of the two tasks for the project in the present directory."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    if task == "requirements":
        print("\n".join(requirements(project, list(arguments))))
    elif task == "record":
        record(project, Path(*arguments))
    else:
        sys.exit(f"image.py: unknown task {task}: expected requirements or record")


if __name__ == "__main__":
    main(*sys.argv[1:])

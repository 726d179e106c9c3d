"""The files of a comparison: JSON, CSV, Markdown, the page, and the table as a picture."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from compare.comparison import Comparison, as_json
from compare.csv_rows import as_csv
from compare.markdown import as_markdown
from compare.table import as_svg
from models.atomic import replacing
from models.spec import NetweightError


def write_all(directory: Path, comparison: Comparison, *, name: str = "comparison") -> tuple[Path, ...]:
    """Write NAME.json, .csv, .md, .html and .svg, and return their paths; all of them whole, or none.

    Everything is made and written beside its place first; only then do the files take their places, the JSON last.

    Raises:
        NetweightError: there is nothing to write, or the directory cannot be written to.
    """
    from compare.page import as_html

    texts = {
        "html": as_html(comparison),
        "svg": as_svg(comparison),
        "md": as_markdown(comparison),
        "csv": as_csv(comparison),
        "json": as_json(comparison),
    }
    paths = {ending: directory / f"{name}.{ending}" for ending in texts}
    try:
        _write({paths[ending]: text for ending, text in texts.items()})
    except OSError as error:
        raise NetweightError(f"cannot write the comparison into {directory}: {error}; name another --output") from error
    return tuple(paths[ending] for ending in ("json", "csv", "md", "html", "svg"))


def _write(texts: dict[Path, str]) -> None:
    """Write all files beside their places; the first of them takes its place first."""
    with ExitStack() as stack:
        # A stack is left from its end: what is entered first takes its place last.
        for path, text in reversed(texts.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(replacing(path)).write_text(text, encoding="utf-8")

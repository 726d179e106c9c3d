"""Import this before torchvision: it makes PyPI's torchvision importable beside a CPU-only torch.

PyPI's wheel for Linux is built against CUDA. Beside a torch without CUDA its compiled part does not load, and
``torchvision/_meta_registrations.py`` then fails on two operators that nobody declared ("operator torchvision::nms
does not exist"). Declaring their schemas is enough for models and transforms; calling the operators still fails.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_part_loads() -> bool:
    """Return whether torchvision's own operators can be had; a wheel for this very torch brings them."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    libraries = sorted(Path(spec.origin).parent.glob("_C*"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)


def _declare() -> torch.library.Library | None:
    """Declare the schemas where nothing else does; they hold for as long as the returned library lives."""
    if torch.version.cuda is not None or _compiled_part_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


_library = _declare()

"""A published model for tests: the tiny classifier of tests.graphs with a card beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.graphs import image_classifier

SIDE = 8
CLASSES = 3


def card_values(
    name: str,
    *,
    version: int = 1,
    parameters: int = 192,
    variant: str = "fp32",
    reference: str | None = None,
    **weights: Any,
) -> dict[str, Any]:
    """Return a card as the export writes it, as far as a comparison reads it."""
    return {
        "schema": "netweight-card/1",
        "name": name,
        "version": version,
        "architecture": {
            "name": name,
            "title": name.title(),
            "family": "VGG" if name.startswith("vgg") else "Tiny",
            "adaptation": None,
        },
        "weights": {"trained": True, "sha256": None, "checkpoint_bytes": 1000, **weights},
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "graph": {"files": {}, "onnx_bytes": 1100, "variant": variant},
        "parameters": parameters,
        "multiply_accumulates": 192,
        "layers": [{"name": "fc", "op": "Gemm", "parameters": 192, "bytes": 768, "multiply_accumulates": 192}],
        "published": [
            {"top1_percent": 71.5, "top5_percent": 90.25, "data": "ImageNet-1K", "source": "first"},
            {"top1_percent": 73.0, "top5_percent": None, "data": "ImageNet-1K", "source": "second"},
        ],
        **({"reference": {"name": reference, "version": 1}} if reference else {}),
    }


def publish(repository: Path, name: str, *, version: int = 1, **facts: Any) -> Path:
    """Publish the tiny classifier (max batch size 8, image UINT8 [batch, 8, 8, 1]) with a card of these facts."""
    directory = image_classifier(repository, name, classes=CLASSES, side=SIDE)
    folder = directory / str(version)
    if version != 1:
        folder.mkdir()
        (directory / "1" / "model.onnx").rename(folder / "model.onnx")
        (directory / "1").rmdir() if not (directory / "1" / "card.json").exists() else None
    size = (folder / "model.onnx").stat().st_size
    values = card_values(name, version=version, **facts)
    values["graph"] |= {"files": {"model.onnx": {"bytes": size}}, "onnx_bytes": size}
    (folder / "card.json").write_text(json.dumps(values))
    return folder


def held_out(path: Path, count: int, wrong: int = 0) -> None:
    """Write images with one bright row each, which the tiny classifier gets right, and labels of which some are wrong."""
    classes = np.arange(count) % CLASSES
    images = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    images[np.arange(count), classes] = 200
    labels = np.where(np.arange(count) < wrong, (classes + 1) % CLASSES, classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels.astype(np.int64))

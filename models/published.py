"""models/published.json: what torchvision's weight records say, so that the catalogue can show it without torch.

``python -m models.published`` (make published) writes it anew; a test compares it with the torchvision in use.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import models.torchvision_on_cpu  # noqa: F401
from models.atomic import replacing

# isort: split
import torchvision

FILE = Path(__file__).with_name("published.json")


def generate() -> dict[str, list[dict[str, Any]]]:
    """Return by network a record of each of its published weights, torchvision's best (``DEFAULT``) marked."""
    networks = torchvision.models.list_models(module=torchvision.models)
    return {name: [_record(each) for each in torchvision.models.get_model_weights(name)] for name in networks}


def _record(weights: Any) -> dict[str, Any]:
    """Return what one weight record says; parameters count auxiliary heads where the file has them."""
    return {
        "weights": weights.name,
        "default": weights == type(weights).DEFAULT,
        "parameters": weights.meta["num_params"],
        "gmacs": weights.meta["_ops"],
        "file_mib": weights.meta["_file_size"],
        "accuracy": {
            data: {"top1_percent": figures["acc@1"], "top5_percent": figures["acc@5"]}
            for data, figures in weights.meta["_metrics"].items()
            if not math.isnan(figures["acc@1"])  # features for other tasks, whose classifier was never trained
        },
    }


def as_json() -> str:
    """Return the file's text, a line for each network."""
    lines = (f"{json.dumps(name)}: {json.dumps(records)}" for name, records in generate().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the file."""
    with replacing(FILE) as temporary:
        temporary.write_text(as_json(), encoding="utf-8")


if __name__ == "__main__":
    main()

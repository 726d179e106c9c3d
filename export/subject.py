"""What `netweight weigh` is asked about: a network, a model of the repository, or an ONNX file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import hollow, what_if
from export.onnx_file import read
from export.publish import CARD, MODEL
from export.weigh import Layer
from export.what_if import Size
from models import heads, lookup
from models.spec import Architecture, NetweightError, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir

RANK = 256
"""Of the heads that are shown where no other rank is asked for."""


@dataclass(frozen=True)
class Subject:
    """A network, weighed as it is and as it could be."""

    name: str
    source: str
    """Where the figures are from, in words."""
    layers: tuple[Layer, ...]
    """Of the graph as it is."""
    variants: tuple[Size, ...]
    """The first is the graph as it is; those with lighter heads are last."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "bytes": self.variants[0].bytes,
            "parameters": sum(layer.parameters for layer in self.layers),
            "layers": [layer.to_dict() for layer in self.layers],
            "variants": [size.to_dict() for size in self.variants],
        }


@dataclass(frozen=True)
class _Network:
    """How a network is built, as far as its graph depends on it."""

    architecture: Architecture
    classes: int
    small_images: bool = False
    input: str = "uint8"

    def graph(self, head: heads.Head | None = None) -> onnx_ir.Model:
        """Return its graph, hollow."""
        return hollow.of_network(
            self.architecture,
            self.classes,
            small_images=self.small_images,
            head=head,
            input="uint8" if self.input == "uint8" else "float32",
        )


def weigh(
    what: str,
    repository: Path,
    *,
    rank: int | None = None,
    lighter_heads: bool = True,
    builder: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """Weigh what a user names.

    Args:
        what: The path of an ONNX file, a model of the repository, or a network that `models.lookup` finds.
        repository: The model repository; it need not exist.
        rank: Of svd; None: `RANK`.
        lighter_heads: Whether lighter heads are counted too, each of which takes as long as the network.
        builder: Of the user's own network, whose name is `what` then.
        options: Further keyword arguments of a network's builder; with any, or a builder, `what` is a network.

    Raises:
        NetweightError: no such file, model or network; not an ONNX file.
    """
    if builder is not None or options:
        found = lookup.find(what, builder, options or {})
        return network_by(found, rank=rank, lighter_heads=lighter_heads)
    path = Path(what)
    if path.is_file() or path.suffix == ".onnx":
        return _file(path, path.name, what, None, rank)
    version = _newest(repository / what)
    if version is not None:
        network = _network(version / CARD) if lighter_heads else None
        return _file(version / MODEL, what, f"version {version.name} in {repository}", network, rank)
    return network_by(lookup.find(what), rank=rank, lighter_heads=lighter_heads)


def network_by(architecture: Architecture, *, rank: int | None = None, lighter_heads: bool = True) -> Subject:
    """Weigh a network that was not exported yet."""
    network = _Network(architecture, architecture.classes)
    model = network.graph()
    layers = what_if.layers(model).layers
    lighter = _lighter(network, layers, rank) if lighter_heads else ()
    source = f"its architecture with {architecture.classes} classes; nothing was exported"
    return Subject(architecture.name, source, layers, (*what_if.sizes(model), *lighter))


def _file(path: Path, name: str, source: str, network: _Network | None, rank: int | None) -> Subject:
    """Weigh a file; what is no fp32 graph any more is only weighed as it is."""
    read(path)
    model = hollow.of_file(path)
    weight = what_if.layers(model)
    stored = {layer.datatype for layer in weight.layers}
    if stored - {"float32"}:
        as_it_is = Size(", ".join(sorted(stored)), weight.initializer_bytes)
        return Subject(name, source, weight.layers, (as_it_is,))
    lighter = _lighter(network, weight.layers, rank) if network else ()
    return Subject(name, source, weight.layers, (*what_if.sizes(model), *lighter))


def _lighter(network: _Network, layers: tuple[Layer, ...], rank: int | None) -> tuple[Size, ...]:
    """Return the sizes with each lighter head; none where the network can have none."""
    full = [layer for layer in layers if layer.name.startswith(f"{heads.CLASSIFIER}.") and layer.op == "Gemm"]
    if len(full) < 2:
        return ()
    sizes: list[Size] = []
    for words, head in (("pool", heads.Head("pool", ())), _svd(full, rank or RANK)):
        if head is not None:
            sizes += [replace(each, head=words) for each in what_if.sizes(network.graph(head))]
    return tuple(sizes)


def _svd(full: list[Layer], rank: int) -> tuple[str, heads.Head | None]:
    """Return the head in which each full layer is two of a rank, where that makes it smaller; None: nowhere."""
    layers = []
    for layer in full:
        outputs = layer.output_shape[-1]
        inputs = layer.multiply_accumulates // outputs
        smaller = rank * (inputs + outputs) < inputs * outputs
        layers.append(heads.Layer(layer.name, inputs, outputs, rank if smaller else None))
    return f"svd, rank {rank}", heads.Head("svd", tuple(layers)) if any(each.rank for each in layers) else None


def _newest(model: Path) -> Path | None:
    """Return the directory of a model's newest version that holds a graph; None: there is no such model."""
    versions = [each.parent for each in model.glob(f"*/{MODEL}") if each.parent.name.isdecimal()]
    return max(versions, key=lambda each: int(each.name), default=None)


def _network(card: Path) -> _Network | None:
    """Return how a model's network is built; None: its card does not say, or it has a lighter head already."""
    try:
        facts = json.loads(card.read_text(encoding="utf-8"))
        described = facts["architecture"]
        preprocessing = {**facts["preprocessing"]}
        taken = preprocessing.pop("input")
        architecture = replace(lookup.find(described["name"]), preprocessing=Preprocessing.from_dict(preprocessing))
        if facts.get("head"):
            return None
        return _Network(architecture, described["classes"], described["adaptation"] is not None, taken)
    except (OSError, ValueError, KeyError, TypeError, NetweightError):
        return None

"""A torch module becomes an ONNX file: the only caller of torch.onnx."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

import onnx
import onnx_ir
import torch

from export.build import NETWORK, Built
from export.clean import clean
from export.naming import name
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

IMAGE, LOGITS, PROBABILITIES = "image", "logits", "probabilities"
BATCH = "batch"
"""The name of the dynamic axis."""

OPSETS = range(18, 24)
"""What the exporter writes, and the ONNX Runtime that netweight serves with reads."""

OPSET = 20
"""What is written unless another is asked for: torch 2.13's own default, and so what is tried most. The networks' operators
are the same in all of `OPSETS`: a newer one gains nothing."""

EXTERNAL_DATA_ABOVE_BYTES = 50_000_000
"""From here on weights lie beside the graph, where ONNX Runtime maps them instead of copying them."""

_INSIDE_BYTES = 1024
"""Tensors up to here stay in the graph even then: shapes and axes, which ONNX Runtime needs to read at once."""

PROTOBUF_BYTES = 2**31
"""The longest message of protobuf: from here on weights lie beside the graph, whatever was asked for."""

_GRAPH_BYTES = 2**24
"""Room for the graph itself in such a message."""

_ALIGNMENT_BYTES = 4096
"""A page: what can be mapped from a file."""


def convert(
    module: nn.Module,
    image: Tensor,
    path: Path,
    *,
    opset: int = OPSET,
    external_data_above: float = EXTERNAL_DATA_ABOVE_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write the ONNX file of a module in eval mode; the same module gives the same bytes.

    Args:
        module: Takes `image`, returns logits and probabilities.
        image: An example, [batch of at least 2, ...]: its datatype and shape without the batch become the graph's.
        path: The file to write; weights beside it go to the same name with ``.data`` appended.
        opset: Of the ONNX operators, one of `OPSETS`.
        external_data_above: Bytes of weights from which on they lie beside the graph.
        metadata: Written into the file's metadata properties.

    Returns:
        The files written.

    Raises:
        NetweightError: the opset is not one of `OPSETS`.
    """
    if opset not in OPSETS:
        raise NetweightError(f"opset {opset} cannot be exported: expected one of {OPSETS.start} to {OPSETS.stop - 1}")
    model = graph(module, image, opset)
    _sign(model, metadata or {})
    return save(model, path, external_data_above=external_data_above)


def graph(module: nn.Module, image: Tensor, opset: int = OPSET) -> onnx_ir.Model:
    """Return the graph of a module in eval mode, cleaned and named, without writing it."""
    model = _trace(module, image, opset)
    clean(model)
    name(model, module)
    return model


def save(
    model: onnx_ir.Model, path: Path, *, external_data_above: float = EXTERNAL_DATA_ABOVE_BYTES
) -> tuple[Path, ...]:
    """Write an ONNX file and check it; the arguments and the result are those of `convert`."""
    weights = _initializer_bytes(model)
    outside = weights > min(external_data_above, PROTOBUF_BYTES - _GRAPH_BYTES)
    data = path.with_name(f"{path.name}.data")
    if not outside:  # what was read from beside another graph comes along
        model = onnx_ir.external_data.load_to_model(model)
    onnx_ir.save(
        model,
        path,
        external_data=data.name if outside else None,
        size_threshold_bytes=_INSIDE_BYTES,
        alignment=_ALIGNMENT_BYTES,
        align_threshold=_INSIDE_BYTES,
    )
    _check(path, weights)
    return (path, data) if outside else (path,)


def metadata(built: Built) -> dict[str, str]:
    """Return what stands in the file itself, for whoever meets it without its card."""
    plain = built.preprocessing
    return {
        "architecture": built.architecture.name,
        "weights": f"{built.weights.kind}, {built.weights.source}",
        "weights_sha256": built.weights.sha256 or "",
        "classes": str(len(built.class_names)),
        "class_names": json.dumps(list(built.class_names), ensure_ascii=False),
        "preprocessing": json.dumps({**plain.to_dict(), "input": built.input}),
    }


def _trace(module: nn.Module, image: Tensor, opset: int) -> onnx_ir.Model:
    """Run torch's exporter, quietly."""
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of torch's own deprecated parts, which no user can mend.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            dynamic_shapes={IMAGE: {0: torch.export.Dim(BATCH)}},
            input_names=[IMAGE],
            output_names=[LOGITS, PROBABILITIES],
            opset_version=opset,
            optimize=False,  # `clean` does it
            verbose=False,
        )
    assert program is not None
    return program.model


def _sign(model: onnx_ir.Model, metadata: Mapping[str, str]) -> None:
    """Say who made the file of what; drop traces of the machine that exported."""
    for node in model.graph:
        node.metadata_props.clear()  # torch's stack traces, with this machine's paths
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *(each for node in model.graph for each in node.outputs)):
        value.metadata_props.clear()
    model.graph.name = metadata.get("architecture", NETWORK)
    model.graph.doc_string = model.doc_string = None
    model.graph.metadata_props.clear()
    model.producer_name, model.producer_version = "netweight", version("netweight")
    model.metadata_props.clear()
    model.metadata_props.update(metadata)


def _check(path: Path, bytes: int) -> None:  # noqa: A002 - of the weights
    """Let ONNX's checker read the file; shapes are inferred as well unless protobuf's 2 GiB would not hold the model."""
    onnx.checker.check_model(str(path), full_check=bytes < PROTOBUF_BYTES)


def _initializer_bytes(model: onnx_ir.Model) -> int:
    """Return how many bytes the graph's constants take."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)

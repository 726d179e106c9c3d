"""A graph whose batch is fixed at 1 gets a dynamic one; whether that was safe, only running it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from export.convert import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator


def make_dynamic(model: onnx.ModelProto) -> bool:
    """Make the first axis of every input and output dynamic, in place; weights are not touched.

    Reshapes with a constant shape that begins with 1 are changed with it: that 1 is the batch that torch saw when it
    traced ``x.view(x.size(0), -1)``.

    Returns:
        Whether something was changed; False: a first axis is neither 1 nor dynamic, or there is none.
    """
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    values = [*(each for each in graph.input if each.name not in held), *graph.output]
    if not all(_can_be_dynamic(value) for value in values):
        return False
    for value in values:
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]  # they tell the shapes of a batch of one
    _free_reshapes(graph)
    return True


def _can_be_dynamic(value: onnx.ValueInfoProto) -> bool:
    """Whether a tensor's first axis is 1 or dynamic."""
    axes = value.type.tensor_type.shape.dim
    return bool(axes) and (not axes[0].HasField("dim_value") or axes[0].dim_value == 1)


def _free_reshapes(graph: onnx.GraphProto) -> None:
    """Let reshapes to a batch of one take the batch as it is."""
    constants, replaced = dict(_constants(graph)), set[str]()
    for node in list(graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]])
        if shape.ndim == 1 and shape.size and shape[0] == 1:
            first = -1 if -1 not in shape else 0  # 0: as long as the input's first axis
            name = f"{node.input[1]}.{BATCH}.{node.output[0]}"
            value = numpy_helper.from_array(np.array([first, *shape[1:]], np.int64))
            replaced.add(node.input[1])
            node.input[1] = name
            graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=value))
    _remove_unused(graph, replaced)


def _remove_unused(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove initializers of these names that no node takes any more; branches inside nodes may take what is outside."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    unused = names - {name for node in graph.node for name in node.input} - {value.name for value in graph.output}
    for tensor in [each for each in graph.initializer if each.name in unused]:
        graph.initializer.remove(tensor)
    for value in [each for each in graph.input if each.name in unused]:
        graph.input.remove(value)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Find the constants that lie in the graph itself, by name."""
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t

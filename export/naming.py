"""Names that a person can read: a node is called as the module that it came from, a constant as its node's input."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

import onnx
from onnx_ir.passes.common import NameFixPass

from export.build import NETWORK

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir
    from torch import nn

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules around a node, outermost first, and the operation last."""

_WEIGHT = ".weight"

_ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("BatchNormalization", 2): "bias",
}
"""What a state dict calls inputs for which ONNX has a letter."""


def name(model: onnx_ir.Model, module: nn.Module) -> None:
    """Name nodes, weights and what flows between them after the modules; inputs and outputs keep their names."""
    learned = {_short(key) for key in module.state_dict()}
    for key in list(model.graph.initializers):
        model.graph.initializers[key].name = _short(key)
    _name_nodes(model.graph, {_short(key) for key, each in module.named_modules() if any(each.children())})
    for node in model.graph:
        for position, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.name not in learned:
                value.name = _free(f"{node.name}.{_role(node, position)}", model.graph.initializers)
                learned.add(value.name)  # a constant that several nodes share is named after the first
    for node in model.graph:
        for position, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}.{position}" if len(node.outputs) > 1 else node.name
    NameFixPass()(model)


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number behind it where another constant has it: nodes of one module may be called alike."""
    return next(
        each for each in (name, *(f"{name}_{count}" for count in range(2, len(taken) + 3))) if each not in taken
    )


def _short(key: str) -> str:
    """Return a module's or tensor's name without the prefix that all of a network's have."""
    return "" if key == NETWORK else key.removeprefix(f"{NETWORK}.")


def _name_nodes(graph: onnx_ir.Graph, containers: Collection[str]) -> None:
    """Name each node after its weight, or after its module; with its operator where the module has several.

    Args:
        graph: With its weights named.
        containers: The modules that hold others.
    """
    operators = defaultdict[str, set[str]](set)
    for node in graph:
        operators[_module(node)].add(node.op_type)
    for node in graph:
        module = _module(node)
        several = module in containers or len(operators[module]) > 1
        node.name = _weight(node) or (f"{module}.{node.op_type.lower()}" if several else module).removeprefix(".")


def _module(node: onnx_ir.Node) -> str:
    """Return the innermost module around a node, an empty string at the top or where the exporter noted none."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
    return _short(scopes[-2]) if len(scopes) > 1 else ""


def _weight(node: onnx_ir.Node) -> str | None:
    """Return the module whose weight a node holds."""
    names = (str(value.name) for value in node.inputs if value is not None and value.is_initializer())
    return next((each.removesuffix(_WEIGHT) for each in names if each.endswith(_WEIGHT)), None)


def _role(node: onnx_ir.Node, position: int) -> str:
    """Return what an operator calls one of its inputs."""
    if (node.op_type, position) in _ROLES:
        return _ROLES[node.op_type, position]
    inputs = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
    return str(inputs[min(position, len(inputs) - 1)].name).lower()

"""A graph as torch's exporter leaves it becomes one without anything that inference does not need.

All of it is done by passes and rules of onnx_ir and onnxscript; what is chosen here is which, and in which order. It is
the exporter's own choice (``torch.onnx.export(optimize=True)``) but for two things that made a network's layers depend
on its weights: biases that happen to be zero stay, and so do vectors that happen to be equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ir.passes import PassManager, Sequential, common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

if TYPE_CHECKING:
    import onnx_ir

_ROUNDS = 2
"""One rule's result may be what another looks for."""

_RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.dropout_inference_rule,
    rules.dropout_zero_rule,
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.cast_cast_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.reshape_reshape_rule,
    rules.flatten_to_reshape_rule,
    rules.materialize_reshape_shape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.slice_split_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.successive_relu_rule,
    rules.successive_clip_rule,
    rules.successive_clip_relu_rule,
    rules.successive_relu_clip_rule,
    *rules.fuse_hardswish_rules(),
)

_TRAINING_ATTRIBUTES = {"BatchNormalization": ("momentum", "training_mode")}
"""What a node remembers of training; leaving it out says that the node infers."""


def clean(model: onnx_ir.Model) -> None:
    """Fold batch norm and constants, and drop dead nodes, no-ops, unused weights and what is left of training."""
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True)
        _simplify(model)
    _finish(model)
    for node in model.graph:
        for attribute in _TRAINING_ATTRIBUTES.get(node.op_type, ()):
            node.attributes.pop(attribute, None)


_simplify = PassManager([RewritePass(_RULES), common.IdentityEliminationPass(), common.RemoveUnusedNodesPass()])
_finish = Sequential(
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.LiftSubgraphInitializersToMainGraphPass(),
    common.DeduplicateInitializersPass(size_limit=1),
    common.CommonSubexpressionEliminationPass(),
    common.OutputFixPass(),
    common.RemoveUnusedNodesPass(),
    common.RemoveUnusedOpsetsPass(),
)

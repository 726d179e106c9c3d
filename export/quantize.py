"""int8: weights and activations as whole numbers of eight bits, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from export.build import PREPROCESSING
from export.convert import IMAGE, LOGITS
from export.half import Blocked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from export.calibration import Calibration

_BATCH = 4
"""Images in one run of the calibration: every activation of a batch is in memory at once, 250 MB for VGG-16."""

_LEFT = {"Softmax": "probabilities in 256 steps would be none"}
"""Operators that stay FP32, with the reason."""

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class _Batches(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    """Calibration images in batches, of which the library asks for one at a time."""

    def __init__(self, images: NDArray[Any]) -> None:
        self._batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        self._waiting = list(self._batches)

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go through these batches next."""
        self._waiting = self._batches[start_index:end_index]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch; None: that was the last."""
        return {IMAGE: self._waiting.pop(0)} if self._waiting else None


def quantize(source: Path, images: NDArray[Any], calibration: Calibration) -> ir.Model:
    """Return a graph in which QuantizeLinear and DequantizeLinear stand around each operator that has an int8 kernel.

    Activations are UINT8, one scale and zero point each; weights INT8, symmetric, a scale for each output channel; biases
    INT32. An initializer ``W`` becomes ``W_quantized``, ``W_scale`` and ``W_zero_point``. The logits stay FP32: their last
    step to 256 levels is left out.
    """
    result = static(ir.load(source), calibration, calibration_data_reader=_Batches(images))
    ShapeInferencePass()(result)
    return result


def static(model: ir.Model, calibration: Calibration, **ranges: Any) -> ir.Model:
    """Let the library quantise a graph; `ranges` is its argument that says where those of the activations come from."""
    with tempfile.TemporaryDirectory(prefix="netweight-") as directory:
        plain, quantized = Path(directory) / "plain.onnx", Path(directory) / "quantized.onnx"
        left = _left(model)
        # What onnxruntime's pre-processing is for, folded batch norm and known shapes, the export has done.
        model.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
        ir.save(model, plain, external_data=f"{plain.name}.data")
        with _quiet():
            quantize_static(
                plain,
                quantized,
                **{"calibration_data_reader": None, **ranges},
                quant_format=QuantFormat.QDQ,
                use_external_data_format=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=calibration.weight_bits == 7,
                nodes_to_exclude=left,
                calibrate_method=_METHODS[calibration.method],
                extra_options=_options(calibration),
            )
        result = ir.external_data.load_to_model(ir.load(quantized))
    _free_logits(result)
    RemoveUnusedNodesPass()(result)
    del result.metadata_props["onnx.quant.pre_process"]
    return result


def unquantized(model: ir.Model) -> tuple[Blocked, ...]:
    """Return the nodes between preprocessing and softmax that compute in FP32 although quantisation was asked for."""
    return tuple(
        Blocked(node.name or "", node.op_type, _reason(node))
        for node in model.graph
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}
        and any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs)
        and not _is_between(node)
    )


def _is_between(node: ir.Node) -> bool:
    """Whether a node reads dequantised values, and what it computes is quantised: ONNX Runtime can run it in int8."""
    read = node.inputs[0].producer() if node.inputs[0] is not None else None
    uses = [use.node for value in node.outputs for use in value.uses()]
    if read is None or read.op_type != "DequantizeLinear":
        return False
    return all(each.op_type == "QuantizeLinear" for each in uses) or node.op_type in {"Conv", "Gemm", "MatMul"}


def _reason(node: ir.Node) -> str:
    """Return why a node computes in FP32."""
    if _is_preprocessing(node):
        return "preprocessing: from UINT8 pixels to the first layer"
    return _LEFT.get(node.op_type, "onnxruntime.quantization does not quantise it, or not what comes before it")


def _options(calibration: Calibration) -> dict[str, Any]:
    """Return the library's further options; one batch at a time keeps memory low, whatever the method."""
    percentile = {"CalibPercentile": calibration.percentile} if calibration.method == "percentile" else {}
    return {"CalibStridedMinMax": 1, **percentile}


def _left(model: ir.Model) -> list[str]:
    """Return the names of the nodes that stay FP32: preprocessing, and `_LEFT`."""
    return [node.name or "" for node in model.graph if node.op_type in _LEFT or _is_preprocessing(node)]


def _is_preprocessing(node: ir.Node) -> bool:
    """Whether a node normalises pixels: its constants are named after that part of the module."""
    held = (value.name or "" for value in node.inputs if value is not None and value.is_initializer())
    return any(name.startswith(f"{PREPROCESSING}.") for name in held)


def _free_logits(model: ir.Model) -> None:
    """Take the last QuantizeLinear and DequantizeLinear away: the logits are then what the layer before them computes."""
    for output in list(model.graph.outputs):
        back = output.producer()
        if output.name != LOGITS or back is None or back.op_type != "DequantizeLinear":
            continue
        there = back.inputs[0].producer() if back.inputs[0] is not None else None
        if there is None or there.op_type != "QuantizeLinear" or there.inputs[0] is None:
            continue
        raw = there.inputs[0]
        output.replace_all_uses_with(raw, replace_graph_outputs=True)
        model.graph.remove(back, safe=True)
        model.graph.remove(there, safe=True)
        output.name, raw.name = f"{LOGITS}_quantized", LOGITS
        raw.type, raw.shape = output.type, output.shape


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress, and its warnings of layers that it quantises as a whole, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)

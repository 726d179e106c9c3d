"""Lighter forms of an exported network: each is made from the published fp32 file alone, and the same file gives the same.

How each lays out its bytes (all that `netweight weigh` must know), W being an FP32 initializer of the source:

- ``fp16``: each initializer that an FP16 node reads is FP16 under its own name (`export.half.compute_in_half`).
- ``fp16-weights``: each W of two or more axes is FP16 under its own name; a Cast makes ``W_fp32`` of it.
- ``int8``: W of Conv and Gemm becomes ``W_quantized`` INT8, with ``W_scale`` FP32 and ``W_zero_point`` INT8 for each
  output channel; its bias B ``B_quantized``, ``B_quantized_scale`` and ``B_quantized_zero_point``, 12 bytes for each
  channel; each activation V has ``V_scale`` and ``V_zero_point``, 5 bytes.
- ``int8-weights``, ``int4-weights``: W of Gemm and MatMul, K inputs and N outputs, becomes ``W_Q8`` or ``W_Q4``, N x
  ceil(K / 64) blocks of 64 or 32 bytes, and ``W_scales``, 4 bytes for each block (`export.weight_only`).

What is not named, preprocessing foremost, stays FP32.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from export import magnitudes
from export.build import PREPROCESSING
from export.calibration import Calibration, choose, read_target
from export.convert import EXTERNAL_DATA_ABOVE_BYTES, IMAGE, save
from export.half import LARGEST, MARGIN, compute_in_half, weights_to_half
from export.quantize import quantize, unquantized
from export.weight_only import BLOCK, quantize_matrices
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["VARIANTS", "Calibration", "Variant", "make"]

Facts = dict[str, Any]

_PROTOBUF_BYTES = 1_900_000_000
"""No ONNX file holds 2 GiB: from here on weights lie beside the graph whatever the variant would have."""

_GRAPH = "model.onnx"


@dataclass(frozen=True)
class Variant:
    """One lighter form of a network."""

    name: str
    words: str
    """What it does."""
    layers: str
    """Which layers it touches."""
    made_for: Literal["GPU", "CPU", "disk"]
    tolerance: float
    """The largest difference to torch in fp32, as a share of the logits' scale."""
    reason: str
    """Of the tolerance."""
    beside: bool
    """Whether its weights may lie beside the graph. The server maps those and then lets ONNX Runtime pack none anew,
    which kernels for whole numbers cannot do without (4096x4096 at batch 1: 0.2 ms packed, 50 ms not)."""


VARIANTS: dict[str, Variant] = {
    each.name: each
    for each in (
        Variant(
            name="fp16",
            words="computes in FP16 between preprocessing and softmax; image, logits and probabilities as before",
            layers="all",
            made_for="GPU",
            tolerance=0.02,
            reason="FP16 has 11 bits, so that each layer rounds by up to 0.0005 of its scale",
            beside=True,
        ),
        Variant(
            name="int8",
            words="computes in whole numbers of 8 bits: activations UINT8, weights INT8 with a scale for each channel",
            layers="convolutions and fully connected layers, and what lies between them where there is an int8 kernel",
            made_for="CPU",
            tolerance=0.25,
            reason="each layer's input has 256 steps, 0.004 of its range, and every layer rounds once more",
            beside=False,
        ),
        Variant(
            name="int8-weights",
            words=f"stores fully connected layers in 8 bits, {BLOCK} weights to a scale",
            layers="fully connected",
            made_for="CPU",
            tolerance=0.05,
            reason="a weight is off by up to 0.004 of the largest in its block, and so is the layer's input",
            beside=False,
        ),
        Variant(
            name="int4-weights",
            words=f"stores fully connected layers in 4 bits, {BLOCK} weights to a scale",
            layers="fully connected",
            made_for="CPU",
            tolerance=0.4,
            reason="a weight is off by up to 0.06 of the largest in its block, which evens out over a layer's inputs",
            beside=False,
        ),
        Variant(
            name="fp16-weights",
            words="stores weights in FP16 and computes in FP32: the session widens them when it opens",
            layers="every weight of two or more axes",
            made_for="disk",
            tolerance=0.02,
            reason="FP16 has 11 bits, so that a weight is off by up to 0.0005 of itself",
            beside=True,
        ),
    )
}


def make(
    variant: str,
    source: Path,
    target: Path,
    calibration: Calibration | None = None,
    *,
    external_data_above: float = EXTERNAL_DATA_ABOVE_BYTES,
) -> Facts:
    """Make a variant of an exported fp32 file.

    Args:
        variant: A name of `VARIANTS`.
        source: The fp32 model.onnx, its weights inside or beside it.
        target: The file to write, with weights beside it where it may have them there.
        calibration: Which images int8 takes its ranges from, and fp16 its largest values (None: random ones).
        external_data_above: Bytes of weights from which on they lie beside the graph.

    Returns:
        What the card's `variant` says: plain values.

    Raises:
        NetweightError: no such variant, or this network cannot have it; nothing was written then.
    """
    if variant not in VARIANTS:
        raise NetweightError(f"unknown variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    record = VARIANTS[variant]
    model = ir.load(source)
    weights = _weights(model)
    facts = _MAKERS[variant](model, source, calibration)
    model = facts.pop("model", model)
    model.metadata_props["variant"] = variant
    save(model, target, external_data_above=external_data_above if record.beside else _PROTOBUF_BYTES)
    changed = set(facts.pop("changed"))
    return {
        "name": variant,
        "words": record.words,
        "made_for": record.made_for,
        "tolerance": {"relative": record.tolerance, "reason": record.reason},
        "calibration": None,
        "ranges": None,
        "blocked": [],
        **facts,
        "changed": [name for name in weights if name in changed],
        "left": [name for name in weights if name not in changed],
        "tools": {"onnxruntime": ort.__version__, **{each: version(each) for each in ("onnx", "onnx-ir")}},
    }


def _fp16(model: ir.Model, source: Path, calibration: Calibration | None) -> Facts:
    """Compute in FP16 wherever the values that images lead to leave room, and try the result on the same images."""
    images, facts = _seen(model, calibration)
    before = {name: value.dtype for name, value in model.graph.initializers.items()}
    blocked = compute_in_half(model, magnitudes.measure(source, images))
    _refuse_overflow(model, images)
    return {
        "method": f"FP16 wherever no value comes within a factor of {MARGIN:.0f} of {LARGEST:.0f}",
        "calibration": facts,
        "blocked": [asdict(each) for each in blocked],
        "changed": [name for name, value in model.graph.initializers.items() if value.dtype != before.get(name)],
    }


def _int8(model: ir.Model, source: Path, calibration: Calibration | None) -> Facts:
    """Quantise weights and activations."""
    chosen = choose(calibration, read_target(model))
    assert calibration is not None
    quantized = quantize(source, chosen.images, calibration)
    percentile = {"percentile": calibration.percentile} if calibration.method == "percentile" else {}
    held = quantized.graph.initializers
    return {
        "model": quantized,
        "method": "static, QDQ: activations UINT8, weights INT8 by channel, by onnxruntime.quantization",
        "calibration": chosen.facts,
        "ranges": {"method": calibration.method, **percentile},
        "weight_bits": calibration.weight_bits,
        "blocked": [asdict(each) for each in unquantized(quantized)],
        "activations": sum(node.op_type == "QuantizeLinear" for node in quantized.graph),
        "changed": [name for name in model.graph.initializers if f"{name}_quantized" in held],
    }


def _weights_only(bits: int) -> Callable[[ir.Model, Path, Calibration | None], Facts]:
    """Return the maker of a variant that quantises the matrices of fully connected layers."""

    def make_weights_only(model: ir.Model, _source: Path, _calibration: Calibration | None) -> Facts:
        changed = quantize_matrices(model, bits)
        if not changed:
            raise NetweightError(f"there is no fully connected layer to store in {bits} bits: use int8 or fp16-weights")
        method = f"MatMulNBits: {bits} bits, blocks of {BLOCK}, symmetric, rounded to nearest"
        return {"method": method, "changed": changed}

    return make_weights_only


def _fp16_weights(model: ir.Model, _source: Path, _calibration: Calibration | None) -> Facts:
    """Store weights in FP16."""
    return {"method": "FP16 initializers, each with a Cast to FP32 behind it", "changed": weights_to_half(model)}


_MAKERS: dict[str, Callable[[ir.Model, Path, Calibration | None], Facts]] = {
    "fp16": _fp16,
    "int8": _int8,
    "int8-weights": _weights_only(8),
    "int4-weights": _weights_only(4),
    "fp16-weights": _fp16_weights,
}


def _seen(model: ir.Model, calibration: Calibration | None) -> tuple[NDArray[Any], Facts]:
    """Return the images that FP16 is tried with, and what the card says of them."""
    if calibration is not None:
        chosen = choose(calibration, read_target(model))
        return chosen.images, chosen.facts
    images = magnitudes.random_images(model)
    return images, {"source": "random", "part": "none", "images": len(images), "seed": magnitudes.SEED, "real": False}


def _refuse_overflow(model: ir.Model, images: NDArray[Any]) -> None:
    """Run images through an FP16 graph.

    Raises:
        NetweightError: an answer is not a finite number.
    """
    with tempfile.TemporaryDirectory(prefix="netweight-") as directory:
        path = Path(directory) / _GRAPH
        save(model, path)
        session = magnitudes.open_session(path)
        for start in range(0, len(images), magnitudes.BATCH):
            for output in session.run(None, {IMAGE: images[start : start + magnitudes.BATCH]}):
                if not np.isfinite(output).all():
                    raise NetweightError(
                        "its values do not fit FP16: an answer is infinite or no number; use another variant, or give "
                        "images whose values are as large to --calibration"
                    )


def _weights(model: ir.Model) -> list[str]:
    """Return the names of the weights of two or more axes, which layers are known by."""
    return [
        name
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) > 1
        and not name.startswith(f"{PREPROCESSING}.")
    ]

"""Where the bytes of each model are: the share of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compare.page.amounts import megabytes, percent
from compare.page.axis import Axis
from compare.page.chart import Chart, Spec, quantity, spec
from compare.page.names import is_sought, labels
from compare.page.paints import BLUE, GREY, OCHRE, VERMILION, Paint
from compare.page.rows import ROW, Entry, Segment, bar_names, bars, legend, row_frame, row_names, row_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.comparison import Comparison
    from compare.cost import CostCard

SLIM = 3.5
"""Pixels: neighbours of one kind that are less wide are drawn as one."""
NAMED = 0.1
"""Layers with at least this share are named if there is room, and the largest of each model."""
KINDS = (("convolution", BLUE), ("fully connected", VERMILION), ("other layers", OCHRE), ("graph and constants", GREY))


def charts(comparison: Comparison) -> list[Chart]:
    """Return the chart of the models whose layers are known; none: no chart."""
    cards = comparison.cards
    known = [(card, label) for card, label in zip(cards, labels(cards), strict=True) if _has_layers(card)]
    if not known:
        return []
    known.sort(key=lambda each: -each[0].disk.onnx_bytes)
    reading = "Each bar is one model, its layers from input to output; at the right what the whole of it weighs."
    return [Chart("weights", "Where the bytes are", _finding(known), reading, lambda width: _draw(known, width))]


def _has_layers(card: CostCard) -> bool:
    return bool(card.disk.layers) and card.disk.onnx_bytes > 0


def _finding(known: Sequence[tuple[CostCard, str]]) -> str:
    """Tell the layer that takes half of its model or more, of one that readers look for or the heaviest; else the largest."""
    top = [(max(card.disk.layers, key=lambda layer: layer.bytes), card, label) for card, label in known]
    top.sort(key=lambda each: not is_sought(each[1]))
    layer, card, label = next(
        (each for each in top if each[0].bytes > 0.5 * each[1].disk.onnx_bytes),
        max(top, key=lambda each: each[0].bytes / each[1].disk.onnx_bytes),
    )
    share = percent(layer.bytes / card.disk.onnx_bytes)
    return f"One layer of {label}, {layer.name}, holds {megabytes(layer.bytes)} of {megabytes(card.disk.onnx_bytes)}: {share}."


def _draw(known: Sequence[tuple[CostCard, str]], width: int) -> Spec:
    totals = [megabytes(card.disk.onnx_bytes) for card, _ in known]
    names = [label for _, label in known]
    segments = [segment for row, (card, _) in enumerate(known) for segment in _segments(row, card, SLIM / width)]
    used = [Entry(name, paint) for name, paint in KINDS if any(each.paint == paint for each in segments)]
    frame = row_frame(width, names, totals)
    _, lines = legend(used, width - frame.left - frame.right, frame.left)
    frame = row_frame(width, names, totals, legend_lines=lines)
    across = width - frame.left - frame.right
    axis = Axis(0, 100, across, is_log=False)
    x = quantity("start", axis, "share of the ONNX bytes, %")
    layers = [
        bars(segments, len(known), x),
        bar_names(segments, len(known), x, across / 100),
        row_names(names, frame),
        row_totals(totals, across),
        *legend(used, across, frame.left)[0],
    ]
    return spec(width, ROW * len(known), frame, layers)


def _segments(row: int, card: CostCard, least: float) -> list[Segment]:
    whole = max(card.disk.onnx_bytes, sum(layer.bytes for layer in card.disk.layers))
    largest = max(card.disk.layers, key=lambda layer: layer.bytes)
    segments: list[Segment] = []
    at, slim = 0.0, 0
    for layer in card.disk.layers:
        share, paint = layer.bytes / whole, _paint(layer.op)
        if share < least and slim and segments[-1].paint == paint:
            before, slim = segments.pop(), slim + 1
            segments.append(Segment(row, before.start, at + share * 100, paint, f"{slim} small layers of {card.title}"))
        else:
            slim = 1 if share < least else 0
            segments.append(_segment(row, at, share, layer.name, layer.bytes, paint, is_largest=layer is largest))
        at += share * 100
    if whole > sum(layer.bytes for layer in card.disk.layers):
        rest = whole - sum(layer.bytes for layer in card.disk.layers)
        segments.append(_segment(row, at, rest / whole, "graph and constants", rest, GREY))
    return segments


def _segment(
    row: int, at: float, share: float, name: str, size: int, paint: Paint, *, is_largest: bool = False
) -> Segment:
    names = (f"{name} {percent(share)}", name, f"{share * 100:.0f} %") if share >= NAMED or is_largest else ()
    return Segment(row, at, at + share * 100, paint, f"{name}: {megabytes(size)}, {percent(share)}", names)


def _paint(op: str) -> Paint:
    if "Conv" in op:
        return BLUE
    return VERMILION if "Gemm" in op or "MatMul" in op else OCHRE

"""The picture of the comparison: what a few models cost beside each other, bar by bar, with ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.columns import show_ratio
from compare.page.amounts import duration, listed, mebibytes, megabytes, rate
from compare.page.chart import FONT_SIZE, NARROW, Chart, Frame, Spec, spec, values
from compare.page.names import FOCUS, SOUGHT, labels, marks
from compare.page.paints import GRID, INK, MUTED
from compare.page.place import LETTER
from compare.page.trades import added_memory, saturated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.comparison import Comparison
    from compare.cost import CostCard

BAR = 22
HEAD = 30
GAP = 22


@dataclass(frozen=True)
class Quantity:
    """One of the figures: its title, how it is read off a card and told."""

    title: str
    noun: str
    read: Callable[[CostCard], float | None]
    tell: Callable[[float], str]


def _disk(card: CostCard) -> float | None:
    return float(card.disk.onnx_bytes)


def _p50(card: CostCard) -> float | None:
    stream = card.single_stream
    return stream.latency.percentile(50) if stream and stream.latency.count else None


QUANTITIES = (
    Quantity("ONNX on disk", "bytes", _disk, megabytes),
    Quantity("resident memory added", "memory", added_memory, mebibytes),
    Quantity("latency of one caller, p50", "latency", _p50, duration),
    Quantity("throughput at saturation", "throughput", saturated, rate),
)


def charts(comparison: Comparison) -> list[Chart]:
    """Return the picture of the wanted models; where they are not there, of the heaviest and the lightest."""
    cards = comparison.cards
    chosen = chosen_cards(cards)
    known = [each for each in QUANTITIES if any(each.read(card) for card in chosen)]
    if len(chosen) < 2 or not known:
        return []
    look = {id(card): (label, mark) for card, label, mark in zip(cards, labels(cards), marks(cards), strict=True)}
    names = [look[id(card)][0] for card in chosen]
    rows = [
        (quantity, [(look[id(card)][0], look[id(card)][1].paint.light, quantity.read(card)) for card in chosen])
        for quantity in known
    ]
    title = f"What {names[0]} costs beside {listed(names[1:])}"
    reading = f"Each bar in its own unit; the ratios are to {names[0]}."
    return [Chart("cost", title, _finding(rows), reading, lambda width: _draw(rows, width))]


def chosen_cards(cards: Sequence[CostCard]) -> list[CostCard]:
    """Return a VGG, a ResNet and a MobileNet if two of them are there, else the ends and the middle by bytes."""
    originals = [card for card in cards if card.variant == "fp32" and card.reference is None]
    found = [card for title, family in zip(SOUGHT, FOCUS, strict=True) if (card := _like(title, family, originals))]
    if len(found) > 1:
        return found
    ordered = sorted(cards, key=lambda card: -card.disk.onnx_bytes)
    return ordered if len(ordered) < 4 else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _like(title: str, family: str, cards: Sequence[CostCard]) -> CostCard | None:
    """Return the card of this title, else one whose title begins so, else the heaviest of the family."""
    return max(
        (card for card in cards if card.family == family or card.title.startswith(title)),
        key=lambda card: (card.title == title, card.title.startswith(title), card.disk.onnx_bytes),
        default=None,
    )


Rows = list[tuple[Quantity, list[tuple[str, str, float | None]]]]


def _finding(rows: Rows) -> str:
    """Tell what the first takes beside the last, as ratios; the figures themselves where there is none."""
    told = []
    for quantity, each in rows:
        (_, _, first), (_, _, last) = each[0], each[-1]
        if first is not None and last:
            told.append(f"{show_ratio(first / last)} the {quantity.noun} ({quantity.tell(first)})")
    (heavy, *_), (light, *_) = rows[0][1][0], rows[0][1][-1]
    return f"Beside {light}, {heavy} has {listed(told)}." if told else f"{heavy} and {light}: not measured."


def _draw(rows: Rows, width: int) -> Spec:
    columns = 1 if width <= NARROW else 2
    gap = 40 if columns > 1 else 0
    panel = (width - 16 - gap * (columns - 1)) / columns
    count = len(rows[0][1])
    tall = HEAD + count * BAR + GAP
    lines = -(-len(rows) // columns)
    layers = []
    for number, (quantity, bars) in enumerate(rows):
        left, top = (number % columns) * (panel + gap), (number // columns) * tall
        layers += _panel(quantity, bars, left, top, panel)
    return spec(width, lines * tall - GAP, Frame(left=8, right=8, top=8, bottom=8), layers)


def _panel(
    quantity: Quantity, bars: list[tuple[str, str, float | None]], left: float, top: float, panel: float
) -> list[Spec]:
    first = bars[0][2]
    told = [_told(quantity, value, first if row else None) for row, (*_, value) in enumerate(bars)]
    names = max(len(label) for label, *_ in bars) * LETTER + 12
    room = panel - names - max(map(len, told)) * (LETTER + 0.4) - 7
    most = max(value or 0 for *_, value in bars) or 1
    rows = [
        {
            "left": left + names, "right": left + names + max(2, room * (value or 0) / most), "down": top + HEAD + row * BAR,
            "bottom": top + HEAD + row * BAR + BAR - 6, "middle": top + HEAD + row * BAR + (BAR - 6) / 2 + 1,
            "name": label, "paint": paint, "text": told[row],
            "name_at": left + names - 8, "text_at": left + names + max(2, room * (value or 0) / most) + 7,
        }
        for row, (label, paint, value) in enumerate(bars)
    ]  # fmt: skip
    title = {"left": left, "down": top + 10, "end": left + panel, "line": top + 21, "text": quantity.title}
    return [
        _text([title], "left", "down", "text", fontWeight=700, fontSize=FONT_SIZE + 1.5, color=INK.light),
        {
            "data": values([title]),
            "mark": {"type": "rule", "color": GRID.light},
            "encoding": {"x": _at("left"), "x2": {"field": "end"}, "y": _at("line")},
        },
        {
            "data": values(rows),
            "mark": {"type": "rect"},
            "encoding": {
                "x": _at("left"),
                "x2": {"field": "right"},
                "y": _at("down"),
                "y2": {"field": "bottom"},
                "color": {"field": "paint", "scale": None},
            },
        },
        _text(rows, "name_at", "middle", "name", align="right", color=INK.light),
        _text(rows, "text_at", "middle", "text", fontWeight=600, color=MUTED.light),
    ]


def _told(quantity: Quantity, value: float | None, first: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{quantity.tell(value)}  ({show_ratio(value / first)})" if first else quantity.tell(value)


def _at(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "scale": None, "axis": None, "title": None}


def _text(rows: list[Spec], x: str, y: str, text: str, **looks: object) -> Spec:
    return {
        "data": values(rows),
        "mark": {"type": "text", "align": "left", "baseline": "middle", **looks},
        "encoding": {"x": _at(x), "y": _at(y), "text": {"field": text}},
    }

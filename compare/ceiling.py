"""Whether a figure is the server's or the caller's own: the caller was measured against a server that answers at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from compare.cost import Caller, CostCard

NEAR = 0.7
"""A rate from this share of the caller's own on says little about the server."""
NOTABLE = 0.3
"""The caller's own latency is told from this share of the model's on."""
BITS = re.compile(r"(\d+) \[([\d, ]*)\]")


def sample_bytes(card: CostCard) -> int | None:
    """Return the bytes of one sample of the card's input, such as ``UINT8 [224, 224, 3]``; None where it is unlike it."""
    found = BITS.search(card.input)
    if not found:
        return None
    return int(found[1]) // 8 * math.prod(int(side) for side in found[2].split(",") if side.strip())


def ceiling(card: CostCard, callers: Sequence[Caller]) -> Caller | None:
    """Return the ceiling whose requests are most like this model's in bytes; None where that is not known."""
    size = sample_bytes(card)
    known = [caller for caller in callers if caller.request_bytes > 0]
    if not size or not known:
        return None
    return min(known, key=lambda caller: abs(math.log(caller.request_bytes / size)))


def near_ceiling(card: CostCard, callers: Sequence[Caller]) -> list[str]:
    """Return a sentence for each figure of the card that the caller may have limited."""
    limit = ceiling(card, callers)
    if limit is None:
        return []
    return [*_rate(card, limit), *_latency(card, limit)]


def _rate(card: CostCard, limit: Caller) -> list[str]:
    rates = (card.saturation and card.saturation.inferences_per_second, card.server and card.server.highest_per_second)
    reached = max((rate.median for rate in rates if rate), default=0.0)
    if reached < NEAR * limit.requests_per_second:
        return []
    own = limit.requests_per_second
    share = f"{card.model}: {reached:,.0f}/s is {reached / own:.0%} of the {own:,.0f}/s".replace("%", " %")
    return [
        f"{share} that the caller reaches against a server that answers at once: the caller may limit it, not the model."
    ]


def _latency(card: CostCard, limit: Caller) -> list[str]:
    latency = card.single_stream and card.single_stream.latency
    if not latency or not latency.count or limit.latency_p50_seconds < NOTABLE * latency.percentile(50):
        return []
    whole, own = latency.percentile(50) * 1000, limit.latency_p50_seconds * 1000
    return [f"{card.model}: of its p50, {whole:.2g} ms, the caller and the wire alone take {own:.2g} ms."]

"""The table of ModelStreamInfer: requests in, and for each, in order, its answer or its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.case import Check, fp32, gives, tensor, x
from tests.conformance.table.inference import answered_by, classes, picture, wanted


@dataclass(frozen=True)
class Sent:
    """One request of a stream."""

    send: Mapping[str, Any]
    """Arguments of `async_stream_infer`."""
    check: Check | None = None
    error: str = ""
    """What the error names, where there must be one; the stream goes on."""


@dataclass(frozen=True)
class StreamCase:
    """Requests that go one after the other, without waiting."""

    name: str
    requests: tuple[Sent, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the stream."""


def scale(number: float, request_id: str = "", **send: Any) -> Sent:
    """Return a request whose answer tells it from others."""
    return Sent(
        {"model_name": "scale", "inputs": x((number, 0, 0, 0)), "request_id": request_id, **send},
        gives(y=fp32((2 * number, 0, 0, 0))),
    )


def wrong(says: str, **send: Any) -> Sent:
    """Return a request that fails."""
    return Sent({"model_name": "scale", "inputs": x((1, 2, 3, 4)), **send}, error=says)


SLOW = Sent({"model_name": "slow", "inputs": [tensor("x", fp32(*[(1.0,) * 256] * 256)[None])]})
CLASSIFIED = Sent(
    {"model_name": "classifier", "inputs": picture(1), "outputs": wanted("logits", k=1)},
    classes(logits=[[b"255.000000:1:row 1"]]),
)
NAMED = Sent(
    {"model_name": "versions", "model_version": "1", "inputs": x((1, 2, 3, 4)), "request_id": "seven"},
    answered_by("versions", "1", "seven"),
)

CASES = (
    StreamCase("nothing", ()),
    StreamCase("one request", (scale(1),)),
    StreamCase("in order", tuple(scale(number, str(number)) for number in range(1, 65))),
    StreamCase("the slow one first", (SLOW, scale(1), scale(2))),
    StreamCase("several models", (scale(1), CLASSIFIED, NAMED)),
    StreamCase(
        "errors leave it open",
        (
            scale(1),
            wrong("nosuch", model_name="nosuch"),
            scale(2),
            wrong("scale", inputs=x((1, 2, 3))),
            wrong("scale", model_version="9"),
            wrong("scale", outputs=wanted("nosuch")),
            scale(3),
        ),
    ),
    StreamCase("parameters", (scale(1, priority=1, timeout=60_000_000, parameters={"text": "a"}),)),
    StreamCase("final responses asked for", (scale(1, enable_empty_final_response=True), scale(2))),
    StreamCase("gzip", (scale(1), scale(2)), {"compression_algorithm": "gzip"}),
    StreamCase("deflate", (scale(1), scale(2)), {"compression_algorithm": "deflate"}),
    StreamCase("a deadline that is not reached", (scale(1), scale(2)), {"stream_timeout": 60.0}),
)

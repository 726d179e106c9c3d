"""The W3C context that a caller's metadata carries: which trace a request belongs to, and below which span."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

TraceContext: TypeAlias = "tuple[str, str]"
"""traceparent and tracestate, as they came; empty where there is none."""
NO_CONTEXT: TraceContext = ("", "")


def context_of(metadata: Iterable[Any]) -> TraceContext:
    """Return the context in a call's metadata, pairs of key and value."""
    parent = state = ""
    for key, value in metadata:
        if key == "traceparent":
            parent = value
        elif key == "tracestate":
            state = f"{state},{value}" if state else value
    return parent, state

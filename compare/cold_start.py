"""One cold start, cut into its parts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from compare.load import CHANNEL_OPTIONS, METHOD
from models.spec import NetweightError

if TYPE_CHECKING:
    from compare.metrics_page import ModelFigures, ProcessFigures

ANSWER_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """One start; the fields of `compare.cost.ColdStart`, seconds."""

    process: float
    imports: float
    session: float
    warm_up: float
    other: float
    first_answer: float
    total: float


def first_answer_seconds(address: str, request: bytes) -> float:
    """Connect, ask once, and return how long both took.

    Raises:
        NetweightError: the answer is an error.
    """
    began = time.perf_counter()
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            channel.unary_unary(METHOD, None, None)(request, timeout=ANSWER_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise NetweightError(f"server at {address}: {error.code().name}: {error.details()}") from error
        return time.perf_counter() - began


def cut(ready_seconds: float, first_answer: float, process: ProcessFigures, model: ModelFigures | None) -> Start | None:
    """Cut a start into its parts, by what the server says on its metrics page; None where it does not say all.

    `ready_seconds` is what the one who started it waited for the ready line; what the server's parts leave of that is
    `other`, so that nothing is lost between the parts.
    """
    before, imports = (process.startup_seconds.get(phase) for phase in ("process", "imports"))
    session, warm_up = (model.session_seconds, model.warm_up_seconds) if model else (None, None)
    if before is None or imports is None or session is None or warm_up is None:
        return None
    other = max(0.0, ready_seconds - before - imports - session - warm_up)
    return Start(before, imports, session, warm_up, other, first_answer, ready_seconds + first_answer)

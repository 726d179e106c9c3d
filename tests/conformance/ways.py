"""The ways to run a case: tritonclient's waiting methods, its callbacks, its asyncio client, and bare messages."""

from __future__ import annotations

import asyncio
import inspect
import queue
import time
from dataclasses import dataclass
from typing import Any

import grpc
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conformance.case import PATIENCE_SECONDS, Case, Step

ANSWER_SECONDS = 30
"""Within which a callback must come."""


@dataclass(frozen=True)
class Failure:
    """What a call failed with: an answer like any other."""

    status: str
    message: str


def run_waiting(address: str, case: Case, *, ours: bool) -> None:
    """Run a case by the waiting client, and its bare messages by the stub that tritonclient has within."""
    with triton.InferenceServerClient(address) as client, grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for step in case.steps:
            follow(step, lambda step=step: bare(stub, step) if step.bare else waiting(client, step), ours=ours)


def run_callbacks(address: str, case: Case, *, ours: bool) -> None:
    """Run a case with `async_infer` in place of `infer`."""
    with triton.InferenceServerClient(address) as client:
        for step in case.steps:
            way = calling_back if step.call == "infer" else waiting
            follow(step, lambda step=step, way=way: way(client, step), ours=ours)


def run_asyncio(address: str, case: Case, *, ours: bool) -> None:
    """Run a case by the asyncio client."""

    async def run() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            for step in case.steps:
                await _follow_awaiting(client, step, ours=ours)

    asyncio.run(run())


async def _follow_awaiting(client: Any, step: Step, *, ours: bool) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer: Any
        try:
            answer = getattr(client, step.call)(**step.send)
            answer = await answer if inspect.isawaitable(answer) else answer
        except InferenceServerException as error:
            answer = failure(error)
        if settled(step, answer, until, ours=ours):
            judge(step, answer, ours=ours)
            return
        await asyncio.sleep(0.02)


def follow(step: Step, perform: Any, *, ours: bool) -> None:
    """Perform a step and judge its answer; a patient one again and again."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = perform()
        except InferenceServerException as error:
            answer = failure(error)
        if settled(step, answer, until, ours=ours):
            judge(step, answer, ours=ours)
            return
        time.sleep(0.02)


def settled(step: Step, answer: Any, until: float, *, ours: bool) -> bool:
    """Whether this answer is the one to judge."""
    if not step.patient or time.monotonic() > until:
        return True
    try:
        judge(step, answer, ours=ours)
    except AssertionError:
        return False
    return True


def judge(step: Step, answer: Any, *, ours: bool) -> None:
    """Hold an answer against what the step expects."""
    if step.ours and not ours:
        return
    if step.status == "OK":
        assert not isinstance(answer, Failure), f"{step.call} failed: {answer}"
        if step.check is not None:
            step.check(answer)
        return
    assert isinstance(answer, Failure), f"{step.call} succeeded; expected {step.status}"
    assert answer.status == step.status, f"{step.call} failed with {answer}; expected {step.status}"
    if ours:
        assert answer.message, "the failure has no message"
        assert "\n" not in answer.message, f"the message has several lines: {answer.message}"
        missing = [each for each in step.says if each not in answer.message]
        assert not missing, f"the message does not name {missing}: {answer.message}"


def failure(error: InferenceServerException) -> Failure:
    """Return what tritonclient raised as a value."""
    return Failure(str(error.status()).removeprefix("StatusCode."), error.message() or "")


def waiting(client: Any, step: Step) -> Any:
    """Call a method and wait for its answer; `plugin` is a method like any other."""
    return getattr(client, step.call)(**step.send)


def calling_back(client: Any, step: Step) -> Any:
    """Infer by `async_infer` and wait for the callback."""
    came: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.async_infer(callback=lambda result, error: came.put((result, error)), **step.send)
    result, error = came.get(timeout=ANSWER_SECONDS)
    return failure(error) if error is not None else result


def bare(stub: Any, step: Step, timeout_seconds: float = ANSWER_SECONDS) -> Any:
    """Send a message as it stands."""
    request = getattr(service_pb2, f"{step.call}Request")(**step.send)
    try:
        return getattr(stub, step.call)(request, timeout=timeout_seconds)
    except grpc.RpcError as error:
        return Failure(error.code().name, error.details() or "")

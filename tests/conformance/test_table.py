"""The table, by every way that tritonclient has of making a call."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from tests.conformance.case import Case
from tests.conformance.conftest import Target, marked
from tests.conformance.streams import CASES as STREAMS
from tests.conformance.table import CASES
from tests.conformance.table.plain import CASES as PLAIN
from tests.conformance.ways import run_asyncio, run_callbacks, run_waiting

ONLY_BY_STREAM = {"start_stream", "async_stream_infer", "stop_stream", "stream_infer"}
"""`streams.CASES` runs each of its cases by all of these."""


def with_ways(case: Case) -> list[Any]:
    """Return a case with the ways that can run it."""
    if case.bare:
        return [marked(case, "waiting")]
    infers = any(step.call == "infer" for step in case.steps)
    return [marked(case, way) for way in ("waiting", "asyncio", *(["callbacks"] if infers else []))]


WAYS = {"waiting": run_waiting, "asyncio": run_asyncio, "callbacks": run_callbacks}


@pytest.mark.parametrize(("case", "way"), [each for case in CASES for each in with_ways(case)])
def test_case(target: Target, case: Case, way: str) -> None:
    """Each call is answered with the status that the contract gives it, and says what it must."""
    target.require(case.extension, ours=case.ours)
    WAYS[way](target.address, case, ours=target.ours)


@pytest.mark.parametrize(("case", "way"), [each for case in PLAIN for each in with_ways(case)])
def test_case_by_default(plain: Target, case: Case, way: str) -> None:
    """Without options no model can be loaded or unloaded, no memory shared, and a broken model is told."""
    WAYS[way](plain.address, case, ours=True)


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.grpc.aio], ids=["waiting", "asyncio"])
def test_every_method_of_the_client_is_in_the_table(module: Any) -> None:
    """A method that tritonclient gains fails here until a case names it."""
    client = module.InferenceServerClient
    methods = {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}
    named = {step.call for case in (*CASES, *PLAIN) for step in case.steps}
    named |= {"async_infer"} if "infer" in named else set()
    named |= ONLY_BY_STREAM if STREAMS else set()
    assert methods - named == set()


def test_every_name_is_its_own() -> None:
    """A case is found by its name."""
    names = [case.name for case in (*CASES, *PLAIN)]
    assert len(names) == len(set(names))

"""What our server does by default: a model repository that nobody changes, extensions off, a broken model told."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import Case, Step, equals, fp32, gives, x
from tests.conformance.table.control import state

ROW = x((1, 2, 3, 4))
REGION = {"name": "in", "key": "/conformance", "byte_size": 16}


def without(*extensions: str) -> Any:
    """Check that the metadata names no extension that is off."""

    def check(answer: Any) -> None:
        assert not set(extensions) & set(answer.extensions)

    return check


def plain(name: str, *steps: Step) -> Case:
    """Return a case of the server by default."""
    return Case(f"by default: {name}", steps, ours=True)


def broken(call: str, **send: Any) -> Step:
    """Return a call about the broken model, which fails as not ready."""
    return Step(call, {"model_name": "broken", **send}, "UNAVAILABLE", says=("broken",))


CASES = (
    plain(
        "a good model serves", Step("infer", {"model_name": "scale", "inputs": ROW}, check=gives(y=fp32((2, 4, 6, 8))))
    ),
    plain(
        "a broken model is told", broken("infer", inputs=ROW), broken("get_model_metadata"), broken("get_model_config")
    ),
    plain("it is not ready", Step("is_model_ready", {"model_name": "broken"}, check=equals(want=False))),
    plain(
        "so the server is not",
        Step("is_server_ready", check=equals(want=False)),
        Step("is_server_live", check=equals(want=True)),
    ),
    plain("the index says why", Step("get_model_repository_index", check=state("broken", "UNAVAILABLE", reason=True))),
    plain("no load", Step("load_model", {"model_name": "scale"}, "UNAVAILABLE", says=("explicit",))),
    plain("no unload", Step("unload_model", {"model_name": "scale"}, "UNAVAILABLE", says=("explicit",))),
    plain("no shared memory", Step("register_system_shared_memory", REGION, "UNIMPLEMENTED")),
    plain("no region's status", Step("get_system_shared_memory_status", {}, "UNIMPLEMENTED")),
    plain("no region to forget", Step("unregister_system_shared_memory", {}, "UNIMPLEMENTED")),
    plain(
        "nothing of it is named",
        Step("get_server_metadata", check=without("system_shared_memory", "cuda_shared_memory")),
    ),
)

"""Model control in explicit mode: index, load, reload, override, unload. Each case leaves the models as it found them."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tests.conformance.case import Case, Step, equals, fp32, gives, x
from tests.conformance.repository import scale_bytes

NAME = {"model_name": "changeable"}
FILE = "file:1/model.onnx"
TENSORS = {"input": {"name": "x"}, "output": {"name": "y"}}


def config(width: int = 4, max_batch_size: int = 8) -> str:
    """Return a whole configuration of `changeable`, as JSON."""
    tensors = {kind: [{**tensor, "data_type": "TYPE_FP32", "dims": [width]}] for kind, tensor in TENSORS.items()}
    return json.dumps({"name": "changeable", "backend": "onnxruntime", "max_batch_size": max_batch_size, **tensors})


def load(status: str = "OK", *says: str, **send: Any) -> Step:
    """Load `changeable`."""
    return Step("load_model", {**NAME, **send}, status, says=says)


def answers(factor: float) -> Step:
    """See which file serves."""
    return Step("infer", {**NAME, "inputs": x((1, 2, 3, 4))}, check=gives(y=fp32((1, 2, 3, 4)) * fp32((factor,))))


def control(name: str, *steps: Step, ours: bool = False) -> Case:
    """Return a case of model control."""
    return Case(name, steps, "model_repository", ours=ours)


def state(name: str, state: str, *, reason: bool = False) -> Any:
    """Check a model's state in the index."""

    def check(answer: Any) -> None:
        found = [each for each in answer.models if each.name == name]
        assert found, f"{name} is not in the index"
        states = {each.state for each in found}
        assert "READY" in states if state == "READY" else states == {state}, states
        assert not reason or all(each.reason for each in found)

    return check


def index_of_all(answer: Any) -> None:
    """Each version of each loaded model is READY."""
    states = {(each.name, each.version): each.state for each in answer.models}
    for one in (("scale", "1"), ("versions", "1"), ("versions", "2"), ("classifier", "1")):
        assert states.get(one) == "READY", one


def only_ready(answer: Any) -> None:
    """With ready = true nothing else is listed."""
    assert {each.state for each in answer.models} == {"READY"}
    assert "scale" in {each.name for each in answer.models}


def json_index(answer: Any) -> None:
    """As JSON it is an object with the models."""
    assert "scale" in {each["name"] for each in answer["models"]}


def batch_of(size: int) -> Any:
    """Check the largest batch of a configuration."""

    def check(answer: Any) -> None:
        assert answer.config.max_batch_size == size

    return check


def loads(name: str, parameters: dict[str, Any], model: str = "changeable") -> Case:
    """Return the case of a bare load request that is refused and changes nothing."""
    made = {key: pb.ModelRepositoryParameter(**value) for key, value in parameters.items()}
    step = Step("RepositoryModelLoad", {"model_name": model, "parameters": made}, "INVALID_ARGUMENT")
    return control(name, step, Step("ModelReady", {"name": "changeable"}), ours=True)


INDEX = "get_model_repository_index"
UNLOADED = Step("infer", {**NAME, "inputs": x((1, 2, 3, 4))}, "UNAVAILABLE", says=("changeable",), ours=True)
TWICE, FIVE = answers(2), answers(5)
ONE_FILE = {FILE: scale_bytes(5)}

CASES = (
    control("index", Step(INDEX, check=index_of_all)),
    control("index as JSON", Step(INDEX, {"as_json": True}, check=json_index)),
    control("index of what is ready", Step("RepositoryIndex", {"ready": True}, check=only_ready)),
    control("reload", load(), TWICE, load(), TWICE),
    control(
        "unload and load",
        Step("unload_model", NAME),
        Step("is_model_ready", NAME, check=equals(want=False), patient=True),
        UNLOADED,
        Step("get_model_metadata", NAME, "UNAVAILABLE", ours=True),
        Step("get_model_config", NAME, "UNAVAILABLE", ours=True),
        Step(INDEX, check=state("changeable", "UNAVAILABLE", reason=True), patient=True),
        load(),
        TWICE,
        Step(INDEX, check=state("changeable", "READY")),
    ),
    control("unload an unknown model", Step("unload_model", {"model_name": "nosuch"})),
    control("unload twice", Step("unload_model", NAME), Step("unload_model", NAME), load(), TWICE),
    control("unload with dependents", Step("unload_model", {**NAME, "unload_dependents": True}), load(), TWICE),
    control(
        "load an unknown model",
        Step("load_model", {"model_name": "nosuch"}, "INVALID_ARGUMENT", says=("nosuch",)),
        ours=True,
    ),
    control(
        "load a broken model",
        Step("load_model", {"model_name": "broken"}, "INVALID_ARGUMENT", says=("broken",)),
        Step(INDEX, check=state("broken", "UNAVAILABLE", reason=True)),
        Step("infer", {"model_name": "broken", "inputs": x((1, 2, 3, 4))}, "UNAVAILABLE", says=("broken",), ours=True),
        Step("is_model_ready", {"model_name": "broken"}, check=equals(want=False)),
        Step("unload_model", {"model_name": "broken"}),
        Step("is_server_ready", check=equals(want=True), ours=True),
    ),
    control(
        "load with a configuration",
        load(config=config(max_batch_size=3)),
        Step("get_model_config", NAME, check=batch_of(3)),
        TWICE,
        load(),
        Step("get_model_config", NAME, check=batch_of(8)),
    ),
    control("load with a file", load(config=config(), files=ONE_FILE), FIVE, load(), TWICE),
    control(
        "a failed reload keeps the old version",
        load(config=config(), files=ONE_FILE),
        load("INVALID_ARGUMENT", "changeable", config=config(), files={FILE: ONE_FILE[FILE][:40]}),
        FIVE,
        load("INVALID_ARGUMENT", "changeable", config=config(width=7)),
        FIVE,
        load(),
        TWICE,
    ),
    control("a file without a configuration", load("INVALID_ARGUMENT", "config", files=ONE_FILE), TWICE, ours=True),
    control("a configuration that is no JSON", load("INVALID_ARGUMENT", "config", config="{"), TWICE, ours=True),
    *(
        control(
            f"a file at {path}",
            load("INVALID_ARGUMENT", config=config(), files={f"file:{path}": b"x"}),
            TWICE,
            ours=True,
        )
        for path in ("../changeable/1/model.onnx", "/tmp/model.onnx", "1/../../scale/1/model.onnx")  # noqa: S108
    ),
    control(
        "a name that climbs",
        *(Step("load_model", {"model_name": name}, "INVALID_ARGUMENT") for name in ("../scale", "/scale", "..", "a/b")),
        ours=True,
    ),
    loads("config of a wrong type", {"config": {"int64_param": 1}}),
    loads("a file of a wrong type", {"config": {"string_param": config()}, FILE: {"string_param": "x"}}),
    loads("a load without a name", {}, model=""),
)

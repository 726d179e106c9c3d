"""What a client asks about the server and its models: health, metadata, configuration, statistics; the client's own."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import InferenceServerClientPlugin

from tests.conformance.case import Case, Step, case, equals, holds, x

NO_VERSION = ("a", "0", "-1", "1.0", "99999999999999999999x")


class Plugin(InferenceServerClientPlugin):  # type: ignore[misc]  # tritonclient has no types
    """Adds a header to each call, as an authorising proxy may want it."""

    def __call__(self, request: Any) -> None:
        """Add it."""
        request.headers["x-conformance"] = "yes"


def server_metadata(answer: Any) -> None:
    """Name, version and the extensions that the other cases rest on."""
    if isinstance(answer, dict):
        assert {"name", "version", "extensions"} <= answer.keys()
        return
    assert answer.name
    assert answer.version
    assert {"classification", "model_configuration", "statistics"} <= set(answer.extensions)


def classifier_metadata(answer: Any) -> None:
    """A batching model's shapes begin with -1."""
    assert (answer.name, list(answer.versions), answer.platform) == ("classifier", ["1"], "onnxruntime_onnx")
    (image,) = answer.inputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "UINT8", [-1, 8, 8, 1])
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("logits", "FP32", [-1, 3]),
        ("probabilities", "FP32", [-1, 3]),
    ]


def classifier_config(answer: Any) -> None:
    """Dims are without the batch dimension, names as the metadata's, what was left out is filled in."""
    config = answer.config
    assert (config.name, config.max_batch_size) == ("classifier", 8)
    assert [(each.name, list(each.dims)) for each in config.input] == [("image", [8, 8, 1])]
    assert [each.name for each in config.output] == ["logits", "probabilities"]
    assert config.version_policy.WhichOneof("policy_choice")
    assert config.default_model_filename == "model.onnx"
    assert config.instance_group[0].count >= 1


def as_json_config(answer: Any) -> None:
    """The same as JSON, whose int64 are strings."""
    assert answer["config"]["input"][0]["dims"] == ["8", "8", "1"]


def unbatched_metadata(answer: Any) -> None:
    """A model that does not batch has the graph's shape."""
    assert list(answer.inputs[0].shape) == [3]


def statistics_of(*names: str) -> Any:
    """Check which model versions statistics are about."""

    def check(answer: Any) -> None:
        assert [(each.name, each.version) for each in answer.model_stats] == [tuple(each.split(":")) for each in names]

    return check


def all_statistics(answer: Any) -> None:
    """An empty name stands for all models."""
    assert {"scale", "slow", "classifier"} <= {each.name for each in answer.model_stats}


def json_statistics(answer: Any) -> None:
    """As JSON, with the protocol's field names."""
    assert answer["model_stats"][0]["name"] == "scale"


LENIENT = ("version '0'", "version '1.0'")
"""Triton takes them for numbers, and says of an unknown model only that it is not ready."""
UNKNOWN = ("get_model_metadata", "get_model_config", "is_model_ready")
ABOUT_MODELS = tuple(
    Case(
        f"{call}: {what}",
        (Step(call, send, status, says=(says,)),),
        ours=(call == "is_model_ready" and status == "NOT_FOUND") or what in LENIENT,
    )
    for call in UNKNOWN
    for what, send, status, says in (
        ("unknown model", {"model_name": "nosuch"}, "NOT_FOUND", "nosuch"),
        ("unknown version", {"model_name": "scale", "model_version": "9"}, "NOT_FOUND", "scale"),
        *(
            (f"version {each!r}", {"model_name": "scale", "model_version": each}, "INVALID_ARGUMENT", each)
            for each in NO_VERSION
        ),
    )
)

CASES = (
    case("server is live", "is_server_live", check=equals(want=True)),
    case("server is ready", "is_server_ready", check=equals(want=True)),
    case("model is ready", "is_model_ready", check=equals(want=True), model_name="scale"),
    case("version is ready", "is_model_ready", check=equals(want=True), model_name="versions", model_version="1"),
    case("server metadata", "get_server_metadata", check=server_metadata),
    case("server metadata as JSON", "get_server_metadata", check=server_metadata, as_json=True),
    case("model metadata", "get_model_metadata", check=classifier_metadata, model_name="classifier"),
    case(
        "model metadata lists ready versions",
        "get_model_metadata",
        check=holds(versions=["1", "2"]),
        model_name="versions",
    ),
    case("metadata without batches", "get_model_metadata", check=unbatched_metadata, model_name="unbatched"),
    case(
        "metadata of a version",
        "get_model_metadata",
        check=holds(name="versions"),
        model_name="versions",
        model_version="1",
    ),
    case("model configuration", "get_model_config", check=classifier_config, model_name="classifier"),
    case(
        "model configuration as JSON", "get_model_config", check=as_json_config, model_name="classifier", as_json=True
    ),
    *ABOUT_MODELS,
    case("statistics of all", "get_inference_statistics", check=all_statistics),
    case(
        "statistics of a model",
        "get_inference_statistics",
        check=statistics_of("versions:1", "versions:2"),
        model_name="versions",
    ),
    case(
        "statistics of a version",
        "get_inference_statistics",
        check=statistics_of("versions:2"),
        model_name="versions",
        model_version="2",
    ),
    case("statistics as JSON", "get_inference_statistics", check=json_statistics, model_name="scale", as_json=True),
    case("statistics of an unknown model", "get_inference_statistics", "INVALID_ARGUMENT", model_name="nosuch"),
    case(
        "statistics of an unknown version",
        "get_inference_statistics",
        "INVALID_ARGUMENT",
        model_name="scale",
        model_version="9",
    ),
    case(
        "headers are tolerated", "is_server_live", check=equals(want=True), headers={"x-request-source": "conformance"}
    ),
    Case(
        "a plugin's headers are tolerated",
        (
            Step("register_plugin", {"plugin": Plugin()}),
            Step("plugin"),
            Step("infer", {"model_name": "scale", "inputs": x((1, 2, 3, 4))}),
            Step("is_server_live", check=equals(want=True)),
            Step("unregister_plugin"),
            Step("is_server_live", check=equals(want=True)),
        ),
    ),
    Case("a client closes", (Step("is_server_live"), Step("close"))),
)

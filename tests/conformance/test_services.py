"""What stands beside the protocol's service: health, reflection, and our own name for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2

from server.pb import inference_pb2 as own
from server.pb import inference_pb2_grpc
from tests.conformance.case import Case, Step, fp32
from tests.conformance.conftest import Target, marked
from tests.conformance.table.bare import CASES
from tests.conformance.ways import ANSWER_SECONDS, Failure, follow

PROTOCOLS = "inference.GRPCInferenceService"
OURS = "netweight.v1.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def channel(target: Target) -> Iterator[grpc.Channel]:
    """A bare connection."""
    with grpc.insecure_channel(target.address) as connected:
        yield connected


@pytest.mark.parametrize("service", ["", "scale"])
def test_health_of_the_server_and_of_a_model(channel: grpc.Channel, service: str) -> None:
    """Service "" is the server; a model's name is that model."""
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=ANSWER_SECONDS).status == SERVING


@pytest.mark.ours
def test_health_of_an_unknown_service(target: Target, channel: grpc.Channel) -> None:
    """Check fails NOT_FOUND; Watch says SERVICE_UNKNOWN and goes on."""
    target.require("", ours=True)
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="nosuch")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(request, timeout=ANSWER_SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request, timeout=ANSWER_SECONDS)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.ours
def test_watch_follows_a_model(target: Target, channel: grpc.Channel, client: Any) -> None:
    """Unloading and loading a model is told to those who watch it."""
    target.require("", ours=True)
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service="changeable"), timeout=ANSWER_SECONDS
    )
    assert next(watch).status == SERVING
    client.unload_model("changeable")
    assert next(watch).status == NOT_SERVING
    client.load_model("changeable")
    assert next(watch).status == SERVING
    watch.cancel()


@pytest.mark.ours
def test_a_client_that_knows_reflection_only(target: Target, channel: grpc.Channel) -> None:
    """A service's name is enough to infer: messages and methods come from the server."""
    target.require("", ours=True)
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {PROTOCOLS, "grpc.health.v1.Health"} <= set(database.get_services())
    method = descriptor_pool.DescriptorPool(database).FindServiceByName(PROTOCOLS).methods_by_name["ModelInfer"]
    request: Any = message_factory.GetMessageClass(method.input_type)(model_name="scale")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(fp32((1, 2, 3, 4)).tobytes())
    answer = channel.unary_unary(
        f"/{PROTOCOLS}/ModelInfer",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )(request, timeout=ANSWER_SECONDS)
    assert list(answer.raw_output_contents) == [fp32((2, 4, 6, 8)).tobytes()]


@pytest.mark.ours
def test_reflection_knows_every_call(target: Target, channel: grpc.Channel) -> None:
    """All twenty calls of the protocol are described."""
    target.require("", ours=True)
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    assert len(pool.FindServiceByName(PROTOCOLS).methods) == 20


@pytest.mark.ours
@pytest.mark.parametrize("case", [marked(each) for each in CASES])
def test_case_under_our_own_name(target: Target, channel: grpc.Channel, case: Case) -> None:
    """netweight.v1.GRPCInferenceService is the same service."""
    target.require(case.extension, ours=True)
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    for step in case.steps:
        follow(step, lambda step=step: under_our_name(stub, step), ours=True)


def under_our_name(stub: Any, step: Step) -> Any:
    """Send a step's message, in our own package's classes."""
    theirs = getattr(service_pb2, f"{step.call}Request")(**step.send)
    request = getattr(own, f"{step.call}Request").FromString(theirs.SerializeToString())
    try:
        return getattr(stub, step.call)(request, timeout=ANSWER_SECONDS)
    except grpc.RpcError as error:
        return Failure(error.code().name, error.details() or "")

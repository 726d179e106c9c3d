"""A client in another language that knows nothing but the address: `buf curl` (Go) learns the protocol by reflection."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.case import fp32
from tests.conformance.conftest import Target

pytestmark = pytest.mark.ours
BUF = Path(sys.executable).with_name("buf")
SERVICES = ("inference.GRPCInferenceService", "netweight.v1.GRPCInferenceService")
INFER = {
    "modelName": "scale",
    "id": "seven",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32Contents": [1, 2, 3, 4]}}],
}


def curl(target: Target, service: str, call: str, request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Make one call."""
    options = ["--http2-prior-knowledge", "--protocol", "grpc", "--data", json.dumps(request)]
    url = f"http://{target.address}/{service}/{call}"
    done = subprocess.run([BUF, "curl", *options, url], capture_output=True, text=True, check=False, timeout=60)
    print(f"buf curl {service}/{call} {json.dumps(request)}\n{done.stdout}{done.stderr}")
    return done


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, target: Target) -> str:
    """A name of the service."""
    target.require("", ours=True)
    name: str = request.param
    return name


def test_calls_by_reflection_alone(target: Target, service: str) -> None:
    """Liveness, metadata and an inference come back as JSON that says what the model does."""
    assert json.loads(curl(target, service, "ServerLive", {}).stdout) == {"live": True}
    metadata = json.loads(curl(target, service, "ModelMetadata", {"name": "scale"}).stdout)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    answer = json.loads(curl(target, service, "ModelInfer", INFER).stdout)
    assert (answer["id"], answer["modelVersion"]) == ("seven", "1")
    assert [base64.b64decode(each) for each in answer["rawOutputContents"]] == [fp32((2, 4, 6, 8)).tobytes()]


def test_a_failure_by_reflection_alone(target: Target, service: str) -> None:
    """A failure has its status and its message."""
    done = curl(target, service, "ModelInfer", INFER | {"modelName": "nosuch"})
    assert done.returncode != 0
    failure = json.loads(done.stderr)
    assert failure["code"] == "not_found"
    assert "nosuch" in failure["message"]


def test_a_stream_by_reflection_alone(target: Target, service: str) -> None:
    """Requests of a stream are answered on it, the wrong one with an error."""
    requests = "\n".join(json.dumps(INFER | {"modelName": name}) for name in ("scale", "nosuch", "scale"))
    options = ["--http2-prior-knowledge", "--protocol", "grpc", "--data", "@-"]
    url = f"http://{target.address}/{service}/ModelStreamInfer"
    done = subprocess.run(
        [BUF, "curl", *options, url], input=requests, capture_output=True, text=True, check=True, timeout=60
    )
    print(f"buf curl {service}/ModelStreamInfer\n{done.stdout}")
    decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    assert ["errorMessage" in each for each in answers] == [False, True, False]


def test_our_own_service_by_reflection_alone(target: Target) -> None:
    """Cost cards are found under our name for them: a call, its failure, and the first message of a stream."""
    target.require("", ours=True)
    weighbridge = "netweight.v1.Weighbridge"
    card = json.loads(curl(target, weighbridge, "GetCard", {"model": "scale"}).stdout)["card"]
    assert (card["model"], card["version"], card["state"]) == ("scale", "1", "READY")
    assert card["load"]["provider"] == "CPUExecutionProvider"
    listed = json.loads(curl(target, weighbridge, "ListCards", {}).stdout)["cards"]
    assert "scale" in {each["model"] for each in listed}
    failure = json.loads(curl(target, weighbridge, "WatchCards", {"model": "nosuch"}).stderr)
    assert (failure["code"], "nosuch" in failure["message"]) == ("not_found", True)

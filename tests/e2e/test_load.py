"""Correctness under load: many callers, each with its own inputs, through every way that a request can go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from server.client import arrays, infer_request
from server.pb import inference_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
CALLERS, CHANNELS, TURNS = 32, 8, 30
MODELS = {"inline": 3.0, "threaded": 5.0, "levels": 7.0}
"""By name: what each multiplies its input with, so that an answer tells which model made it."""
WAYS = {
    "direct": ("--way", "direct"),
    "ordinary": ("--way", "ordinary"),
    "frontends": ("--frontends", "2"),
    "no inline": ("--inline-microseconds", "0"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that runs inline, one of two instances, one with priorities and small batches."""
    made = tmp_path_factory.mktemp("repository")
    for name, factor in MODELS.items():
        graphs.scale(made, name, factor=factor, width=16)
    (made / "threaded" / "config.pbtxt").write_text("max_batch_size: 8\ninstance_group { count: 2 }\n")
    (made / "levels" / "config.pbtxt").write_text(
        """max_batch_size: 6
        instance_group { count: 1 }
        dynamic_batching {
          preferred_batch_size: [ 4 ]
          max_queue_delay_microseconds: 300
          priority_levels: 3
          default_priority_level: 2
          priority_queue_policy { key: 2 value { allow_timeout_override: true } }
          priority_queue_policy {
            key: 3 value { allow_timeout_override: true timeout_action: DELAY default_timeout_microseconds: 500 }
          }
        }"""
    )
    return made


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    """A server of its own, for exact counts."""
    with running_server(repository, tmp_path, *WAYS[request.param]) as started:
        yield started


class Caller:
    """Sends requests one after the other and holds each answer against the right one."""

    def __init__(self, number: int, channel: grpc.Channel) -> None:
        self.number = number
        self.wrong: list[str] = []
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Requests by model and status."""
        self.samples: Counter[str] = Counter()
        """Samples answered, by model."""
        self._chosen = np.random.default_rng(number)
        self._infer = channel.unary_unary(
            MODEL_INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

    def run(self) -> None:
        for turn in range(TURNS):
            for model in self._chosen.permutation(list(MODELS)).tolist():
                self._call(model, f"{self.number}/{turn}/{model}")

    def _call(self, model: str, request_id: str) -> None:
        x = self._chosen.normal(size=(int(self._chosen.integers(1, 6)), 16)).astype(np.float32)
        message = infer_request(model, {"x": x}, request_id=request_id)
        priority, timeout = self._wishes(model)
        if priority:
            message.parameters["priority"].int64_param = priority
        if timeout:
            message.parameters["timeout"].int64_param = timeout
        try:
            answer = self._infer(message, timeout=60)
        except grpc.RpcError as error:
            self.outcomes[model, error.code().name] += 1
            if not 0 < timeout < 1000 or error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.wrong.append(f"{request_id}: {error.code()} {error.details()}")
            return
        self.outcomes[model, "OK"] += 1
        self.samples[model] += len(x)
        right = x * np.float32(MODELS[model])
        if (answer.id, answer.model_name) != (request_id, model) or not np.array_equal(arrays(answer)["y"], right):
            self.wrong.append(f"{request_id}: answered {answer.id} of {answer.model_name}, {arrays(answer)['y']}")

    def _wishes(self, model: str) -> tuple[int, int]:
        """Return the priority and the timeout in microseconds that a request asks for; 0: none."""
        if model == "threaded":
            return 0, int(self._chosen.choice([0, 0, 20_000_000, 200]))
        if model == "levels":
            priority = int(self._chosen.integers(0, 5))
            return priority, int(self._chosen.choice([0, 20_000_000])) if priority == 3 else 0
        return 0, 0


def test_every_answer_is_its_own(server: RunningServer) -> None:
    """Requests of random sizes, priorities and timeouts: each gets the answer to its own input under its own id."""
    with ExitStack() as stack, ThreadPoolExecutor(CALLERS) as pool:
        channels = [stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION)) for _ in range(CHANNELS)]
        callers = [Caller(number, channels[number % CHANNELS]) for number in range(CALLERS)]
        list(pool.map(Caller.run, callers))
    assert [each for caller in callers for each in caller.wrong] == []
    outcomes = sum((caller.outcomes for caller in callers), Counter[Any]())
    samples = sum((caller.samples for caller in callers), Counter[str]())
    assert outcomes.total() == CALLERS * TURNS * len(MODELS)
    assert outcomes["inline", "OK"] == outcomes["levels", "OK"] == CALLERS * TURNS
    for (model, code), count in outcomes.items():
        assert server.metric("netweight_requests_total", model=model, code=code) == count
    for model, count in samples.items():
        assert server.metric("netweight_inferences_total", model=model) == count
        assert server.metric("netweight_batch_size_sum", model=model) == count
        assert server.metric("netweight_executions_total", model=model) <= count
        assert server.metric("netweight_pending_requests", model=model) == 0
    assert "Traceback" not in server.log()

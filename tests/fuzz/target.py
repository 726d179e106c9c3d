"""A server under fire: what it may answer, what it must not, and whether it goes on."""

from __future__ import annotations

import resource
from itertools import pairwise
from typing import Any, Self

import grpc
import numpy as np
import psutil
from hypothesis import currently_in_test_context, event

from server.client import infer_request
from server.pb import inference_pb2 as pb
from tests.fuzz.requests import REGION, REGION_BYTES
from tests.servers import RunningServer

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
EXPECTED = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED", "ALREADY_EXISTS"})
"""Codes that the contract has for what a caller may get wrong."""
EXECUTION_FAILED = "execution failed"
"""In the log and in a status, where ONNX Runtime fails while it runs a graph."""
MOST_GROWTH_BYTES = 150 * 10**6
"""glibc keeps what was freed, and each of a server's processes does."""


class Target:
    """A server and a channel to it.

    Args:
        server: the process.
        most_address_space_bytes: that it may reserve from here on; 0: as much as it likes.
    """

    def __init__(self, server: RunningServer, most_address_space_bytes: int = 0) -> None:
        self.server = server
        if most_address_space_bytes:
            resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most_address_space_bytes,) * 2)
        self._channel = grpc.insecure_channel(server.address)
        self._good = infer_request("scale", {"x": np.array([[1, 2, 3, 4]], np.float32)}).SerializeToString()
        for _ in range(20):
            self.see_that_it_goes_on()
        self._began_bytes = self._resident_bytes()

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """See what is left behind: no failure of the server's own in its log, no memory."""
        self._channel.close()
        lines = self.server.log().splitlines()
        failures = {before for before, line in pairwise(lines) if line.startswith("Traceback")}
        unforeseen = [each for each in failures if not each.endswith(EXECUTION_FAILED)]
        assert not unforeseen, f"{unforeseen}: {self.server.log()[-6000:]}"
        if self.server.process.poll() is not None:  # which a test has noticed
            return
        grown = self._resident_bytes() - self._began_bytes
        assert grown < MOST_GROWTH_BYTES, f"the server grew by {grown / 1e6:.0f} MB"

    def send(
        self, raw: bytes, path: str = INFER, response: Any = pb.ModelInferResponse, *, graph_may_fail: bool = False
    ) -> Any:
        """Send these bytes as a call's message; return its answer, or the error if the contract has it.

        Args:
            raw: the message.
            path: of the call.
            response: the class of its answer.
            graph_may_fail: the graph is none of ours: its failure is INTERNAL, as the contract has it, and an answer
                beyond --max-message-bytes is RESOURCE_EXHAUSTED, as gRPC has it.
        """
        call = self._channel.unary_unary(path, None, response_deserializer=response.FromString)
        try:
            answer = call(raw, timeout=60)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            failed = graph_may_fail and (code.name, details.startswith(EXECUTION_FAILED)) == ("INTERNAL", True)
            large = graph_may_fail and (code.name, "larger than max" in details) == ("RESOURCE_EXHAUSTED", True)
            assert failed or large or code.name in EXPECTED, f"{code.name}: {details}"
            _count(path, code.name)
            assert details, f"{code.name} says nothing"
            return error
        else:
            _count(path, "OK")
            return answer
        finally:
            self.see_that_it_goes_on()

    def stream(self, messages: list[bytes]) -> list[pb.ModelStreamInferResponse]:
        """Send these as the messages of one ModelStreamInfer, and return its answers."""
        call = self._channel.stream_stream(STREAM, None, response_deserializer=pb.ModelStreamInferResponse.FromString)
        answers = list(call(iter(messages), timeout=60))
        self.see_that_it_goes_on()
        return answers

    def see_that_it_goes_on(self) -> None:
        """Ask something good and see that the answer is right."""
        answer = self._channel.unary_unary(INFER, None, response_deserializer=pb.ModelInferResponse.FromString)(
            self._good, timeout=60
        )
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6, 8]

    def _resident_bytes(self) -> int:
        process = psutil.Process(self.server.process.pid)
        every = (process, *process.children(recursive=True))
        return sum(int(each.memory_info().rss) for each in every)


def restore(target: Target) -> None:
    """Register the region that requests name, and no other; have errors logged."""
    region = pb.SystemSharedMemoryRegisterRequest(name=REGION, key=f"/{REGION}", byte_size=REGION_BYTES)
    log = pb.LogSettingsRequest()
    log.settings["log_error"].bool_param = True
    for call, message, response in (
        (
            "SystemSharedMemoryUnregister",
            pb.SystemSharedMemoryUnregisterRequest(),
            pb.SystemSharedMemoryUnregisterResponse,
        ),
        ("SystemSharedMemoryRegister", region, pb.SystemSharedMemoryRegisterResponse),
        ("LogSettings", log, pb.LogSettingsResponse),
    ):
        answer = target.send(message.SerializeToString(), f"/inference.GRPCInferenceService/{call}", response)
        assert isinstance(answer, response), answer


def _count(path: str, code: str) -> None:
    """Count the codes, for --hypothesis-show-statistics: a test whose every example is refused finds little."""
    if currently_in_test_context():
        event(f"{path.rpartition('/')[2]}: {code}")

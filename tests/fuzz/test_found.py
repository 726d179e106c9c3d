"""What fuzzing found, each with its smallest example; they go by hand what chance went first."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from server import wire
from server.batcher import Batcher, Entry, Scheduling
from server.client import infer_request
from server.errors import InvalidArgumentError, ModelLoadError
from server.limits import MOST_DETAILS_BYTES, shortened
from server.pb import inference_pb2 as pb
from server.pb import model_config_pb2
from server.placement import MOST_INSTANCES, placement_of
from server.timeouts import Timeouts
from server.tuning import tuning_of
from tests.fuzz.requests import good
from tests.fuzz.target import Target

LARGE = pb.ModelInferRequest(raw_input_contents=[bytes(wire.LARGE_BYTES)]).SerializeToString()


def code(target: Target, message: pb.ModelInferRequest) -> str:
    """Return the name of the code that a message is answered with."""
    answer = target.send(message.SerializeToString())
    return "OK" if isinstance(answer, pb.ModelInferResponse) else str(answer.code().name)


def test_what_we_begin_from_is_good(target: Target) -> None:
    """Every message that the fuzz tests spoil is answered rightly as long as it is whole."""
    assert [code(target, message) for message in good()] == ["OK"] * len(good())


def test_a_group_is_passed_over_in_a_large_message() -> None:
    """Protobuf reads groups and passes over those it does not know; taken apart by hand they were refused."""
    message, contents = wire.parse(b"\x0b\x0c" + LARGE)
    assert [len(each) for each in contents] == [wire.LARGE_BYTES]
    assert not message.inputs


@pytest.mark.parametrize("extra", [b"\xba\x80\x80\x80\x80\x00\x00", b"\x3a\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00a"])
def test_a_long_winded_number_is_protobufs_to_judge(extra: bytes) -> None:
    """A key or length with more bytes than 32 bits need: protobuf refuses some of them; by hand they were read."""
    try:
        count = len(pb.ModelInferRequest.FromString(extra + LARGE).raw_input_contents)
    except DecodeError:
        count = 0
    if count:
        assert len(wire.parse(extra + LARGE)[1]) == count
    else:
        with pytest.raises(DecodeError):
            wire.parse(extra + LARGE)


@pytest.mark.parametrize("shape", [(0, 2**62), (0, *(1,) * 70)])
@pytest.mark.parametrize("datatype", ["FP16", "BYTES"])
def test_a_shape_beyond_any_array_is_refused(datatype: str, shape: tuple[int, ...]) -> None:
    """No elements, but extents that numpy has no array for: INVALID_ARGUMENT, not INTERNAL."""
    with pytest.raises(InvalidArgumentError, match="no array can have"):
        wire.from_raw("x", datatype, shape, b"")


def test_a_version_of_many_digits_is_refused(target: Target) -> None:
    """Python reads no number of more than 4300 digits: the call was never answered."""
    message = pb.ModelInferRequest(model_name="scale", model_version="9" * 4400)
    assert code(target, message) == "INVALID_ARGUMENT"
    assert code(target, pb.ModelInferRequest(model_name="scale", model_version="9" * 4000)) == "INVALID_ARGUMENT"


def test_an_endless_name_does_not_break_the_status(target: Target) -> None:
    """A status that quotes a long name fits into gRPC's trailers; it was RESOURCE_EXHAUSTED at the caller."""
    assert code(target, pb.ModelInferRequest(model_name="x" * 20_000)) in ("INVALID_ARGUMENT", "NOT_FOUND")
    assert code(target, pb.ModelInferRequest(model_name="\N{SNOWMAN}" * 4000)) in ("INVALID_ARGUMENT", "NOT_FOUND")
    assert len(shortened("\N{SNOWMAN}" * 9999).encode()) <= MOST_DETAILS_BYTES + len("...")


def test_bytes_that_are_no_message_are_an_invalid_argument(target: Target) -> None:
    """Grpcio answers INTERNAL where it cannot parse a message."""
    for call in ("ModelInfer", "ModelReady", "RepositoryModelLoad"):
        answer = target.send(b"\xff", f"/inference.GRPCInferenceService/{call}")
        assert answer.code().name == "INVALID_ARGUMENT"
        assert answer.details() == f"the message is no {call}Request"


def test_what_has_no_order_cannot_be_classified(target: Target) -> None:
    """Texts have no highest: INVALID_ARGUMENT, not INTERNAL."""
    message = pb.ModelInferRequest()
    message.CopyFrom(next(each for each in good() if each.model_name == "text"))
    message.outputs.add(name="y").parameters["classification"].int64_param = 1
    assert code(target, message) == "INVALID_ARGUMENT"


def test_booleans_and_scalars_can_be_classified(target: Target) -> None:
    """Whatever is a number has an order, whether or not it formats as one."""
    for name in ("flags", "scalar"):
        message = pb.ModelInferRequest()
        message.CopyFrom(next(each for each in good() if each.model_name == name))
        message.outputs.add(name="y").parameters["classification"].int64_param = 1
        answer = target.send(message.SerializeToString())
        assert answer.raw_output_contents[0][4:14] == {"flags": b"1.000000:0", "scalar": b"7.000000:0"}[name]


def test_an_endless_timeout_ends_no_other() -> None:
    """A delay beyond what a thread can wait for: the thread of all timeouts ended, and nobody's came any more."""
    timeouts, called = Timeouts(), threading.Event()
    timeouts.after(2**63 / 1e6, lambda: None)
    timeouts.after(0.01, called.set)
    assert called.wait(30)
    timeouts.close()


def test_an_endless_delay_is_waited_out() -> None:
    """The same for a model's batches: two requests fill the preferred size, however long one may wait for another."""
    done = threading.Semaphore(0)

    def deliver(finished: list[Entry[str, str]], _: object) -> None:
        done.release(len(finished))

    scheduling = Scheduling(max_batch_size=2, preferred_batch_sizes=(2,), max_queue_delay_seconds=2**63 / 1e6)
    batcher: Batcher[str, str] = Batcher(
        lambda batch: [part.entry.item.upper() for part in batch.parts], "".join, deliver, scheduling
    )
    batcher.start()
    first, second = (Entry[str, str](item, 1, None, None, 1) for item in "ab")
    batcher.submit(first)
    assert not done.acquire(timeout=0.1)
    batcher.submit(second)
    assert done.acquire(timeout=30)
    assert done.acquire(timeout=30)
    assert (first.result, second.result) == ("A", "B")
    batcher.close()


def test_instances_without_end_are_refused() -> None:
    """Each instance is a thread: two thousand million of them are not tried."""
    config = model_config_pb2.ModelConfig()
    config.instance_group.add(count=2**31 - 1)
    with pytest.raises(ModelLoadError, match=f"asks for 2147483647 instances; expected at most {MOST_INSTANCES}"):
        placement_of(config)


@pytest.mark.parametrize("value", ["1000000", "9" * 5000])
def test_threads_without_end_are_refused(value: str) -> None:
    """Nor are ONNX Runtime's threads, nor a number that Python does not read."""
    config = model_config_pb2.ModelConfig()
    config.parameters["intra_op_thread_count"].string_value = value
    with pytest.raises(ModelLoadError, match=r"intra_op_thread_count is '.*; expected a number"):
        tuning_of(config)


def test_the_client_sends_scalars_as_scalars() -> None:
    """A shape without extents stays one: numpy's ascontiguousarray made [1] of it."""
    message = infer_request("scalar", {"x": np.array(7, np.int64)})
    assert list(message.inputs[0].shape) == []
    assert wire.decode(message).inputs["x"].shape == ()

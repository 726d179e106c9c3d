"""Every call of the protocol but ModelInfer, and of our own service, with messages and bytes that nobody meant."""

from __future__ import annotations

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import given
from hypothesis import strategies as st

from server.pb import inference_pb2 as pb
from server.transport import METHODS, WEIGHBRIDGE
from tests.fuzz.mutations import edited, mutated
from tests.fuzz.requests import REGION, WORDS
from tests.fuzz.target import Target, restore

CALLS = [method for name, method in METHODS.items() if name != "ModelInfer"]
CHANGING = ("LogSettings", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")


@given(
    st.sampled_from(CALLS).flatmap(
        lambda call: st.tuples(
            st.just(call), edited(message_factory.GetMessageClass(call.input_type)(), (*WORDS, f"/{REGION}"))
        )
    )
)
def test_any_message_is_answered(target: Target, call: tuple[MethodDescriptor, pb.ModelReadyRequest]) -> None:
    """Whatever a message's fields hold: an answer, or an error of the contract; and the server goes on."""
    method, message = call
    ask(target, method, message.SerializeToString())


@given(st.sampled_from(CALLS), st.binary(max_size=12) | mutated(pb.ModelReadyRequest(name="x" * 9).SerializeToString()))
def test_any_bytes_are_answered(target: Target, method: MethodDescriptor, raw: bytes) -> None:
    """Bytes that are no message of the call's."""
    ask(target, method, raw)


def ask(target: Target, method: MethodDescriptor, raw: bytes) -> None:
    own = method.containing_service is WEIGHBRIDGE
    path = f"/{WEIGHBRIDGE.full_name if own else 'inference.GRPCInferenceService'}/{method.name}"
    target.send(raw, path, message_factory.GetMessageClass(method.output_type))
    if method.name in CHANGING:
        restore(target)


def test_every_call_is_among_them() -> None:
    """The protocol has 20 calls; ModelInfer and the stream are in test_infer.py. Ours has 2, and a stream."""
    assert len(CALLS) == 18 + 2

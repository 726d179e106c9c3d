"""A thin typed client: the stub, and numpy arrays in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import numpy as np

from server import wire
from server.access import ANYONE, Access
from server.errors import ServerError
from server.pb import inference_pb2 as pb
from server.pb import inference_pb2_grpc, netweight_pb2, netweight_pb2_grpc
from server.tensors import DATATYPES, Array, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

MAX_MESSAGE_BYTES = 2**31 - 1
IMAGE_FILES = "image_files"
"""The parameter of a model's configuration that says so."""
T = TypeVar("T")


class ClientError(ServerError):
    """A call failed; ``code`` is its gRPC status, the message is the server's."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ModelMetadata:
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Inference:
    """One answer."""

    model: str
    version: str
    id: str
    outputs: dict[str, Array]


def infer_request(
    model: str,
    inputs: Mapping[str, Array],
    *,
    version: str = "",
    outputs: Sequence[str] = (),
    classification: int = 0,
    request_id: str = "",
) -> pb.ModelInferRequest:
    """Return the message that asks for an inference, contents raw.

    Args:
        model: its name.
        inputs: by name; batch first where the model batches.
        version: empty for the newest.
        outputs: the names wanted; none for all.
        classification: k > 0 asks for the k highest of each named output as BYTES.
        request_id: given back with the answer.
    """
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, given in inputs.items():
        array = np.asarray(given)  # ascontiguousarray would make [1] of a scalar
        message.inputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        message.raw_input_contents.append(wire.to_raw(array))
    for name in outputs:
        output = message.outputs.add(name=name)
        if classification:
            output.parameters["classification"].int64_param = classification
    return message


def arrays(message: pb.ModelInferResponse) -> dict[str, Array]:
    """Return the outputs that an answer carries."""
    return {
        output.name: wire.from_raw(f"output {output.name!r}", output.datatype, tuple(output.shape), raw)
        for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }


class Client:
    """One connection to a server.

    Args:
        address: ``host:port`` of the gRPC port.
        timeout_seconds: for each call.
        access: how to reach it.
    """

    def __init__(self, address: str, *, timeout_seconds: float = 60.0, access: Access = ANYONE) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        self.address = address
        self._timeout_seconds = timeout_seconds
        self._metadata = access.metadata
        self._channel = access.channel(address, options)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._weighbridge = netweight_pb2_grpc.WeighbridgeStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def live(self) -> bool:
        """Whether the server is up."""
        return bool(self._call(self._stub.ServerLive, pb.ServerLiveRequest()).live)

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or one model, is ready."""
        if model:
            return bool(self._call(self._stub.ModelReady, pb.ModelReadyRequest(name=model, version=version)).ready)
        return bool(self._call(self._stub.ServerReady, pb.ServerReadyRequest()).ready)

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return what a model takes and gives."""
        answer = self._call(self._stub.ModelMetadata, pb.ModelMetadataRequest(name=model, version=version))
        return ModelMetadata(
            name=answer.name,
            versions=tuple(answer.versions),
            inputs=tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in answer.inputs),
            outputs=tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in answer.outputs),
        )

    def image_files(self, model: str, version: str = "") -> tuple[str, ...]:
        """Return the formats of image files that a model takes in place of pixels, ``JPEG`` and ``PNG``, or none."""
        try:
            answer = self._call(self._stub.ModelConfig, pb.ModelConfigRequest(name=model, version=version))
        except ClientError as error:
            if error.code == grpc.StatusCode.UNIMPLEMENTED:  # a server of the Open Inference Protocol's six calls
                return ()
            raise
        parameters = answer.config.parameters
        return tuple(parameters[IMAGE_FILES].string_value.split(",")) if IMAGE_FILES in parameters else ()

    def infer(self, model: str, inputs: Mapping[str, Array], **wishes: Any) -> Inference:
        """Run a model once; the wishes are those of `infer_request`.

        Raises:
            ClientError: the server refused, or is not there.
        """
        answer = self._call(self._stub.ModelInfer, infer_request(model, inputs, **wishes))
        return Inference(answer.model_name, answer.model_version, answer.id, arrays(answer))

    def list_cards(self, model: str = "") -> tuple[netweight_pb2.Card, ...]:
        """Return the cost card of every version that the server knows of, or of one model's.

        Raises:
            ClientError: the server refused (NOT_FOUND: unknown model), or is not there.
        """
        return tuple(self._call(self._weighbridge.ListCards, netweight_pb2.ListCardsRequest(model=model)).cards)

    def get_card(self, model: str, version: str = "") -> netweight_pb2.Card:
        """Return the cost card of a version that is READY; without a version, of the newest that is READY.

        Raises:
            ClientError: the server refused, or is not there.
        """
        request = netweight_pb2.GetCardRequest(model=model, version=version)
        card: netweight_pb2.Card = self._call(self._weighbridge.GetCard, request).card
        return card

    def watch_cards(self, model: str = "", *, interval_ms: int = 0) -> Iterator[netweight_pb2.WatchCardsResponse]:
        """Yield all cards, then those that changed whenever some did; without end, and without the timeout of calls.

        Args:
            model: empty for all.
            interval_ms: the least time between messages; 0: the server's own.

        Raises:
            ClientError: the server refused, went away or stopped.
        """
        request = netweight_pb2.WatchCardsRequest(model=model, interval_ms=interval_ms)
        try:
            yield from self._weighbridge.WatchCards(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def _call(self, method: Callable[..., T], request: Any) -> T:
        try:
            return method(request, timeout=self._timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> ClientError:
        """Return a failed call (a `grpc.RpcError`) as an exception for people."""
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.UNAVAILABLE and "handshake" in details.lower():
            details = f"TLS with {self.address} failed: {details}"
        elif code == grpc.StatusCode.UNAVAILABLE and "connect" in details:
            details = f"no server answers at {self.address}; start one: netweight serve --repository DIR"
        return ClientError(code, details)

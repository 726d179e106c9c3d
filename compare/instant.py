"""A server that answers at once: ``python -m compare.instant``.

It takes calls the way that the real one does (`server.transport`) and answers without a queue and without a model. So
what callers reach against it is what they, the wire and the way in and out of a server allow; it shares the machine, as
they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from server.errors import UnimplementedError
from server.pb import inference_pb2
from server.trace_context import NO_CONTEXT, TraceContext
from server.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MESSAGE_BYTES = 2**30
SCORES = 10
"""FP32 in the reply: as many as a model of the digits answers."""


class _Instant:
    """A service, and every call of it, that has the answer before it is asked."""

    unflushed = traced = waits = False

    def __init__(self) -> None:
        self._reply = inference_pb2.ModelInferResponse(model_name="instant", model_version="1")
        self._reply.outputs.add(name="probabilities", datatype="FP32", shape=(1, SCORES))
        self._reply.raw_output_contents.append(bytes(4 * SCORES))

    def __getattr__(self, name: str) -> Any:
        """Return the method of a call that nobody makes here."""

        def refuse(_: Any) -> NoReturn:
            raise UnimplementedError(f"{name}: this server only measures callers")

        return refuse

    def infer(
        self,
        message: inference_pb2.ModelInferRequest,  # noqa: ARG002  it is not looked at
        respond: Callable[[grpc.StatusCode, str, Any], None],
        contents: Any = None,  # noqa: ARG002
        context: TraceContext = NO_CONTEXT,  # noqa: ARG002
    ) -> _Instant:
        respond(grpc.StatusCode.OK, "", self._reply)
        return self

    def flush(self) -> None:
        """Nothing waits."""

    def cancel(self, code: grpc.StatusCode) -> bool:  # noqa: ARG002
        return False


def serve() -> None:
    """Serve on a free port of this machine, print it, and go on until the process is ended."""
    transport = Transport(_Instant(), MOST_MESSAGE_BYTES)
    print(transport.listen("127.0.0.1:0"), flush=True)
    transport.start()
    transport.server.wait_for_termination()


if __name__ == "__main__":
    serve()

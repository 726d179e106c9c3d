"""Failures that a caller or an operator can cause, each with its gRPC status.

Their messages go to the caller as they stand. Any other exception is logged with its trace and answered INTERNAL
without details.
"""

from __future__ import annotations

import grpc


class ServerError(Exception):
    """Base of the failures whose message a caller may see."""

    code = grpc.StatusCode.INTERNAL


class InvalidArgumentError(ServerError):
    """The request does not fit the model: name, shape, datatype, byte size, parameter."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(ServerError):
    """There is no such model, or no such version of it."""

    code = grpc.StatusCode.NOT_FOUND


class UnavailableError(ServerError):
    """Not now, perhaps soon: version not ready, queue full, queue timeout, draining. Clients retry on it."""

    code = grpc.StatusCode.UNAVAILABLE


class ExecutionError(ServerError):
    """ONNX Runtime failed while it ran a batch."""

    code = grpc.StatusCode.INTERNAL


class ModelLoadError(ServerError):
    """A model on disk cannot be served: broken file, contradicting configuration, missing provider."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class StartError(ServerError):
    """The server cannot start: repository missing, port in use, setting out of range."""

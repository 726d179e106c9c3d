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


class ClosedError(UnavailableError):
    """The version was swapped out or unloaded after it had been looked up; whoever looks again finds what is served."""


class ExecutionError(ServerError):
    """ONNX Runtime failed while it ran a batch."""

    code = grpc.StatusCode.INTERNAL


class ModelLoadError(ServerError):
    """A model on disk cannot be served: broken file, contradicting configuration, missing provider."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class UnimplementedError(ServerError):
    """A part of the protocol that this server does not have, or that is switched off."""

    code = grpc.StatusCode.UNIMPLEMENTED


class AlreadyExistsError(ServerError):
    """What is to be registered is registered already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class UnauthenticatedError(ServerError):
    """The call names nobody whom this server knows."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(ServerError):
    """Whoever calls may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class StartError(ServerError):
    """The server cannot start: repository missing, port in use, setting out of range."""

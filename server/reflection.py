"""gRPC reflection under both names of the service, and under its one name of what is our own.

Our files declare package netweight.v1. Callers of the protocol know package inference: a private descriptor pool holds
the same files a second time, with the package renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.pb import inference_pb2, model_config_pb2, netweight_pb2
from server.transport import NAMES, WEIGHBRIDGE

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor import FileDescriptor

OURS = "netweight.v1"
PROTOCOLS = "inference"


def enable(server: grpc.Server) -> None:
    """Let callers ask which services there are, and for their descriptors."""
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    names = (*NAMES, WEIGHBRIDGE.full_name, health, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool())


def pool() -> descriptor_pool.DescriptorPool:
    """Return a pool with our files, the protocol's in package inference too, health and reflection."""
    result = descriptor_pool.DescriptorPool()
    for file in (model_config_pb2.DESCRIPTOR, inference_pb2.DESCRIPTOR):
        result.Add(_proto(file))
        result.Add(_renamed(_proto(file)))
    for file in (netweight_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        result.Add(_proto(file))
    return result


def _proto(file: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def _renamed(proto: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    text = text_format.MessageToString(proto).replace(OURS, PROTOCOLS).replace("server/pb/", f"{PROTOCOLS}/")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())

"""The protocol that we wrote down, held against the one that tritonclient brings: the same on the wire and by name."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from tritonclient.grpc import model_config_pb2 as their_model_config
from tritonclient.grpc import service_pb2 as their_inference

from server.pb import inference_pb2, model_config_pb2

PACKAGES = ("inference", "netweight.v1")
PAIRS = [
    pytest.param(inference_pb2, their_inference, id="inference"),
    pytest.param(model_config_pb2, their_model_config, id="model_config"),
]
BUF = Path(sysconfig.get_path("scripts")) / "buf"
RULES = Path("proto/buf.yaml")


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_we_lack_nothing_of_the_protocol(ours: object, theirs: object) -> None:
    """Each message, field, oneof, enum value and call of tritonclient's files is in ours, the same in every respect."""
    have, want = facts(ours), facts(theirs)
    assert {name: have.get(name) for name in want} == want


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_we_add_nothing_to_the_protocol(ours: object, theirs: object) -> None:
    """What is our own lives in a file of its own: these hold no name that tritonclient's do not hold."""
    assert sorted(facts(ours).keys() - facts(theirs).keys()) == []


def test_the_comparison_sees_every_kind() -> None:
    """Numbers, types, labels, oneofs, maps, enum values and streams are among what is compared."""
    every = facts(inference_pb2) | facts(model_config_pb2)
    assert len(inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods) == 20
    assert every["GRPCInferenceService.ModelStreamInfer"] == (
        "(stream .ModelInferRequest) returns (stream .ModelStreamInferResponse)"
    )
    assert every["ModelInferRequest.raw_input_contents"] == "7 LABEL_REPEATED TYPE_BYTES"
    assert every["ModelInferRequest.parameters"] == ("4 LABEL_REPEATED TYPE_MESSAGE .ModelInferRequest.ParametersEntry")
    assert every["ModelInferRequest.ParametersEntry"] == "map"
    assert every["InferParameter.uint64_param"] == "5 LABEL_OPTIONAL TYPE_UINT64 of parameter_choice"
    assert every["DataType.TYPE_BF16"] == "14"


def test_buf_guards_what_clients_know(tmp_path: Path) -> None:
    """`buf breaking` by our rules passes the protocol as it is and names a field that changed."""
    now, changed = FileDescriptorSet(), FileDescriptorSet()
    for files in (now, changed):
        model_config_pb2.DESCRIPTOR.CopyToProto(files.file.add())
        inference_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    field = next(each for each in changed.file[1].message_type if each.name == "ModelReadyRequest").field[1]
    assert field.name == "version"
    field.number = 3
    (tmp_path / "now.binpb").write_bytes(now.SerializeToString())
    (tmp_path / "changed.binpb").write_bytes(changed.SerializeToString())
    assert breaking(tmp_path / "now.binpb", tmp_path / "now.binpb") == ""
    assert '"version" on message "ModelReadyRequest"' in breaking(tmp_path / "changed.binpb", tmp_path / "now.binpb")


def breaking(new: Path, old: Path) -> str:
    """Return what buf says against the new files."""
    command: list[str | Path] = [BUF, "breaking", "--config", RULES, new, "--against", old]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def facts(module: object) -> dict[str, str]:
    """Return all that a generated module's file declares: what is where, by full name without the package."""
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)  # type: ignore[attr-defined]  # every generated module has one
    assert file.package in PACKAGES
    return dict(_declared(file))


def _declared(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for message in file.message_type:
        yield from _message("", message, file.package)
    for enum in file.enum_type:
        yield from _enum("", enum)
    for service in file.service:
        yield from _calls(service, file.package)


def _message(prefix: str, message: DescriptorProto, package: str) -> Iterator[tuple[str, str]]:
    name = prefix + message.name
    yield name, "map" if message.options.map_entry else "message"
    for field in message.field:
        yield f"{name}.{field.name}", _field(field, message, package)
    for nested in message.nested_type:
        yield from _message(f"{name}.", nested, package)
    for enum in message.enum_type:
        yield from _enum(f"{name}.", enum)


def _field(field: FieldDescriptorProto, message: DescriptorProto, package: str) -> str:
    words = [
        str(field.number),
        FieldDescriptorProto.Label.Name(field.label),
        FieldDescriptorProto.Type.Name(field.type),
    ]
    if field.type_name:
        words.append(field.type_name.removeprefix(f".{package}"))
    if field.HasField("oneof_index"):
        words += ["of", message.oneof_decl[field.oneof_index].name]
    if field.options.HasField("packed"):
        words.append(f"packed={field.options.packed}")
    return " ".join(words)


def _enum(prefix: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    yield prefix + enum.name, "enum"
    for value in enum.value:
        yield f"{prefix}{enum.name}.{value.name}", str(value.number)


def _calls(service: ServiceDescriptorProto, package: str) -> Iterator[tuple[str, str]]:
    for method in service.method:
        takes = "stream " * method.client_streaming + method.input_type.removeprefix(f".{package}")
        gives = "stream " * method.server_streaming + method.output_type.removeprefix(f".{package}")
        yield f"{service.name}.{method.name}", f"({takes}) returns ({gives})"

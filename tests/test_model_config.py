"""A model's configuration: what is read, what is told about it, and what is held against the graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from server import config_fields, config_text, model_config
from server.config_fields import ACTED_ON, FIELDS, REFUSED, WARNED
from server.errors import ExecutionError, ModelLoadError
from server.pb import model_config_pb2 as pb
from server.placement import Placement, placement_of
from server.providers import SessionOptions
from server.reshape import Reshape, contradiction
from server.session import open_session
from server.tuning import tuning_of
from tests import graphs

TENSOR = 'name: "x" data_type: TYPE_FP32'


def parse(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def written(directory: Path, text: str) -> Path:
    """Write a config.pbtxt into a model's directory."""
    (directory / "config.pbtxt").write_text(text, encoding="utf-8")
    return directory


def completed(path: Path, text: str) -> pb.ModelConfig:
    """Fill a configuration in from a graph."""
    return model_config.complete(parse(text), "scale", open_session(path, SessionOptions("cpu", 1)))


def refusal(path: Path, text: str) -> str:
    """Return why a configuration does not go with a graph."""
    with pytest.raises(ModelLoadError) as caught:
        completed(path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNKNOWN = {
    "max_batch_size: 4": [],
    "colour: RED": ["colour"],
    'name: "a" "b" # colour: 1\nshade { of: [ 1, 2 ] a < b: "}" > }; size: -1.5': ["shade", "size"],
    'input [ { name: "x" hue: 1 reshape { shape: [ ] tone: "x" \'y\' } }, { name: "y" hue: 2 } ]': [
        "input.hue",
        "input.reshape.tone",
    ],
    'parameters { key: "a" value { string_value: "b" other: 1 } }': ["parameters.value.other"],
    'list_of: [ { a: 1 }, { b: "]" } ] input { dims: [ -1, 4 ] }': ["list_of"],
}


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_fields_of_the_file_are_named(tmp_path: Path, text: str) -> None:
    """A field that this server does not know is no error, wherever it stands: it is named, once."""
    (tmp_path / "ab").mkdir()
    directory = written(tmp_path / "ab", text)
    model_config.read(directory)
    assert model_config.unknown(directory) == UNKNOWN[text]


def test_what_surrounds_an_unknown_field_is_read(tmp_path: Path) -> None:
    """Only the field itself is passed over."""
    text = 'shade { of { it: 1 } } max_batch_size: 3 input { hue: [ 1 ] name: "x" dims: [ -1, 4 ] }'
    assert model_config.read(written(tmp_path, text)) == parse('max_batch_size: 3 input { name: "x" dims: [ -1, 4 ] }')


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("max_batch_size: four", "1:17"),
        ('name: "x"\ninput {', "2:7"),
        ('\n\nname: "x', "3:7"),
        ("max_batch_size: 99999999999", "1:17"),
        ("shade { ", "1:9"),
        ("}", "1:1"),
        ("instance_group { kind: KIND_ABACUS }", "KIND_ABACUS"),
        ("a: " + "{ a " * 5000, "recursion"),
        ('name: "\\xff"', "1:"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused(tmp_path: Path, text: str, place: str) -> None:
    """A real error stays one, in one line that says where; nothing is then said of unknown fields."""
    directory = written(tmp_path, text)
    with pytest.raises(ModelLoadError, match=r"^config\.pbtxt cannot be read: ") as caught:
        model_config.read(directory)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model_config.unknown(directory) == []


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a directory in the file's place, are one line each."""
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ModelLoadError, match="cannot be read: 'utf-8'"):
        model_config.read(tmp_path)
    (tmp_path / "config.pbtxt").unlink()
    (tmp_path / "config.pbtxt").mkdir()
    with pytest.raises(ModelLoadError, match="cannot be read"):
        model_config.read(tmp_path)


def test_a_configuration_as_json(caplog: pytest.LogCaptureFixture) -> None:
    """JSON in either spelling of the names; unknown fields are named in a warning; the checks are the file's."""
    text = """{"name": "m", "maxBatchSize": 4, "version_policy": {"specific": {"versions": ["1"]}}, "colour": "RED",
        "input": [{"name": "x", "dataType": "TYPE_FP32", "dims": ["-1", 4], "hue": 1}],
        "parameters": {"a": {"string_value": "b", "other": 1}}, "instance_group": null,
        "modelWarmup": [{"name": "w", "inputs": {"x": {"zeroData": true, "z": 1}}}]}"""
    assert model_config.from_json(text, "m") == parse(
        'name: "m" max_batch_size: 4 version_policy { specific { versions: 1 } } '
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } parameters { key: "a" value { string_value: "b" } } '
        'model_warmup { name: "w" inputs { key: "x" value { zero_data: true } } }'
    )
    (record,) = caplog.records
    assert record.message.endswith("not acted on: colour, input.hue, model_warmup.inputs.x.z, parameters.a.other")


def test_a_warning_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a Load call names its fields, the log has one line of them, and not a very long one."""
    model_config.from_json('{"a\\nERROR made up": 1, "\\u001b[31m": 2, "' + "b" * 5000 + '": 3}', "m")
    model_config.from_json("{" + ", ".join(f'"f{number:03}": 1' for number in range(50)) + "}", "m")
    first, second = (record.message for record in caplog.records)
    assert first == rf"model m: config: not acted on: \x1b[31m, a\nERROR made up, {'b' * 100}"
    assert second.endswith("f019, and 30 more")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ('{"name": 3}', "config cannot be read"),
        ('{"max_batch_size": "many"}', "config cannot be read"),
        ('{"name": "\\ud800"}', "config cannot be read"),
        ('{"a": ' * 5000, "config cannot be read"),
        ('{"name": "other"}', "config says name 'other'"),
        ('{"backend": "python"}', "config asks for platform '', backend 'python'"),
        ('{"ensemble_scheduling": {}}', "config has ensemble_scheduling"),
    ],
)
def test_json_that_is_no_configuration_is_refused(text: str, why: str) -> None:
    """One line, and no other exception."""
    with pytest.raises(ModelLoadError) as caught:
        model_config.from_json(text, "m")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_may_be_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text beyond the bound is not parsed."""
    monkeypatch.setattr(config_text, "LONGEST_CHARACTERS", 10)
    with pytest.raises(ModelLoadError, match="17 characters; expected at most 10"):
        model_config.read(written(tmp_path, "max_batch_size: 4"))


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        ('platform: "onnxruntime_onnx"', True),
        ('backend: "onnxruntime"', True),
        ('platform: "onnxruntime_onnx" backend: "onnxruntime"', True),
        ('platform: "tensorrt_plan"', False),
        ('platform: "onnxruntime_onnx" backend: "openvino"', False),
        ('platform: "ensemble"', False),
    ],
)
def test_platform_and_backend(tmp_path: Path, text: str, accepted: bool) -> None:
    """ONNX Runtime by either word, or by none; another runtime is refused."""
    directory = written(tmp_path, text)
    if accepted:
        assert model_config.read(directory) == parse(text)
    else:
        with pytest.raises(ModelLoadError, match="this server runs 'onnxruntime_onnx', 'onnxruntime'"):
            model_config.read(directory)


def paths(kind: Any, above: str = "") -> Iterator[str]:
    """Walk down the protocol's message until the table says something, or to its leaves."""
    for field in kind.fields:
        path = above + field.name
        if path in FIELDS or field.message_type is None:
            yield path
        else:
            yield from paths(field.message_type, f"{path}.")


def test_the_table_has_every_field_once() -> None:
    """No field of ModelConfig is left without a decision, and no decision is of a field that is not there."""
    assert sorted(paths(pb.ModelConfig.DESCRIPTOR)) == sorted(FIELDS)
    assert len(FIELDS) == len(ACTED_ON) + len(WARNED) + len(REFUSED)


def only(path: str) -> pb.ModelConfig:
    """Return a configuration in which this field alone is set, to something that is not its default."""
    config: Any = pb.ModelConfig()
    message = config
    *above, last = path.split(".")
    for name in above:
        part = getattr(message, name)
        message = part.add() if message.DESCRIPTOR.fields_by_name[name].is_repeated else part
    field, value = message.DESCRIPTOR.fields_by_name[last], getattr(message, last)
    if field.message_type is None:
        scalar = {field.CPPTYPE_STRING: "1", field.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)
        setattr(message, last, scalar) if not field.is_repeated else value.append(scalar)
    elif not field.message_type.GetOptions().map_entry:
        value.add() if field.is_repeated else value.SetInParent()
    elif field.message_type.fields_by_name["value"].message_type is None:
        value["1"] = "1"
    else:
        value.get_or_create("1" if field.message_type.fields_by_name["key"].cpp_type == field.CPPTYPE_STRING else 1)
    return config  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", sorted(FIELDS))
def test_decisions_are_kept(path: str) -> None:
    """A field that is set is named if it is warned of, refused if it is refused, and neither if it is acted on."""
    config = only(path)
    assert config != pb.ModelConfig()
    found = {"warned": config_fields.ignored(config), "refused": config_fields.refused(config)}
    expected: dict[str, list[str]] = {"warned": [], "refused": []} | (
        {FIELDS[path]: [path]} if FIELDS[path] != "acted on" else {}
    )
    if path == "parameters":
        expected["warned"] = ["parameters.1"]
    assert found == expected


def test_refused_fields_are_one_line(tmp_path: Path) -> None:
    """What a model cannot have here is named, all of it."""
    text = 'model_operations { op_library_filename: "a.so" } input { allow_ragged_batch: true } batch_input { }'
    with pytest.raises(
        ModelLoadError, match=r"has input\.allow_ragged_batch, model_operations, batch_input, which this"
    ):
        model_config.read(written(tmp_path, text))
    harmless = "model_transaction_policy { decoupled: false } input { is_shape_tensor: false }"
    assert config_fields.refused(model_config.read(written(tmp_path, harmless))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Placement()),
        ("instance_group { }", Placement(count=1)),
        ("instance_group { count: 2 } instance_group { count: 3 }", Placement(count=5)),
        ("instance_group { kind: KIND_CPU count: 2 }", Placement(count=2, cpu_only=True)),
        ("instance_group { kind: KIND_GPU gpus: 1 }", Placement(count=1, gpu=True, device=1)),
        (
            "instance_group { kind: KIND_GPU gpus: [ 2, 0 ] }",
            Placement(count=1, gpu=True, device=2, ignored=("instance_group.gpus beyond the first, 2",)),
        ),
        (
            "instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }",
            Placement(count=2, gpu=True, ignored=("instance_group.kind KIND_CPU beside other kinds",)),
        ),
        ("instance_group { kind: KIND_MODEL }", Placement(count=1, ignored=("instance_group.kind KIND_MODEL",))),
    ],
)
def test_placement(text: str, expected: Placement) -> None:
    """Groups add up; the CPU is kept to where every group is for it."""
    assert placement_of(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("count: -1", "count -1; expected 1 or more"),
        ("kind: KIND_CPU gpus: 0", r"kind KIND_CPU and gpus \[0\]; remove either"),
        ("kind: KIND_GPU gpus: -1", r"gpus \[-1\]; expected numbers from 0 on"),
    ],
)
def test_groups_that_contradict_themselves(text: str, why: str) -> None:
    """One line names the field and both sides."""
    with pytest.raises(ModelLoadError, match=why):
        placement_of(parse(f"instance_group {{ {text} }}"))


def test_instances_are_bounded() -> None:
    """Each instance is a thread: a slip of the pen does not start millions."""
    with pytest.raises(ModelLoadError, match="asks for 1025 instances; expected at most 1024"):
        placement_of(parse("instance_group { count: 1024 } instance_group { }"))


def test_a_named_gpu_is_an_option_of_the_providers() -> None:
    """The first of gpus becomes device_id, of CUDA and of TensorRT, unless the model names one itself."""
    trt = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'
    tuning = tuning_of(parse(trt), 1)
    assert (tuning.cuda, tuning.trt) == ({"device_id": "1"}, {"device_id": "1"})
    own = 'parameters { key: "device_id" value { string_value: "0" } }'
    assert tuning_of(parse(own), 1).cuda == {"device_id": "0"}


@pytest.mark.parametrize(("given", "value"), [("true", "1"), ("OFF", "0"), ("1", "1")])
def test_switches_in_tritons_words(given: str, value: str) -> None:
    """A session's switch is true, on, 1 or the opposite."""
    text = f'parameters {{ key: "enable_mem_pattern" value {{ string_value: "{given}" }} }}'
    assert tuning_of(parse(text)).session == {"enable_mem_pattern": value}


@pytest.mark.parametrize(
    ("dims", "graph", "why"),
    [
        ((1,), (), ""),
        ((3, 224, 224), (1, 3, 224, 224), ""),
        ((2, 4, -1, 6), (8, -1, 1, 6), ""),
        ((-1, -1), (-1, 1, -1), ""),
        ((), (), ""),
        ((2,), (), "2 elements against 1"),
        ((3, 4), (11,), "12 elements against 11"),
        ((2, -1, 6), (6, -1, 2), "2 elements against 6"),
        ((-1,), (4,), "1 open extents against 0"),
        ((0,), (0,), "extents are 1 or more, or -1"),
        ((-2,), (-2,), "extents are 1 or more, or -1"),
    ],
)
def test_contradicting_shapes(dims: tuple[int, ...], graph: tuple[int, ...], why: str) -> None:
    """Triton's rule: as many elements before, between and after open extents, of which there are as many."""
    assert contradiction(dims, graph) == why


@pytest.mark.parametrize("batches", [True, False])
def test_reshapes_go_both_ways(batches: bool) -> None:
    """What goes to the graph and comes back is what it was; nothing is copied."""
    reshape = Reshape((2, -1, 6), (1, 2, -1, 3, 2), batches=batches)
    array = np.arange(60 * (3 if batches else 1)).reshape(*([3] if batches else []), 2, 5, 6)
    there = reshape.to_graph(array)
    assert there.shape == (*([3] if batches else []), 1, 2, 5, 3, 2)
    assert there.base is array.base
    np.testing.assert_array_equal(reshape.to_caller(there), array)


def test_a_graph_that_gives_another_shape_is_told() -> None:
    """An output that is not of the shape that the configuration says is an error, not a wrong answer."""
    with pytest.raises(ExecutionError, match=r"came as \[2,3\] where the configuration's reshape is \[3,2\]"):
        Reshape((6,), (3, 2), batches=True).to_caller(np.zeros((4, 2, 3)))


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    """Everything that is left open is there afterwards, and the text of it is a whole configuration."""
    full = completed(graphs.scale(tmp_path), "")
    assert full == parse(
        'name: "scale" platform: "onnxruntime_onnx" backend: "onnxruntime" default_model_filename: "model.onnx" '
        "version_policy { latest { num_versions: 1 } } max_batch_size: 32 instance_group { count: 1 } "
        'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 4 } '
        "dynamic_batching { }"
    )
    assert completed(graphs.scale(tmp_path), text_format.MessageToString(full)) == full


@pytest.mark.parametrize("size", [0, 5])
def test_scalars_are_of_one_extent(tmp_path: Path, size: int) -> None:
    """As Triton does: what has no extent is [1] to callers, with an empty reshape; dims [1] alone say the same."""
    path = graphs.identity(tmp_path, "scale", TensorProto.FLOAT, ["batch"] if size else [])
    for text in ("", f"input {{ {TENSOR} dims: 1 }}", f"input {{ {TENSOR} dims: 1 reshape {{ }} }}"):
        full = completed(path, f"max_batch_size: {size} {text}")
        tensors: list[Any] = [*full.input, *full.output]
        for tensor in tensors:
            assert (list(tensor.dims), tensor.HasField("reshape"), list(tensor.reshape.shape)) == ([1], True, [])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 32),
        (f"input {{ {TENSOR} dims: 4 }}", 32),
        (f"input {{ {TENSOR} dims: [ -1, 4 ] }}", 0),
        (f'input {{ {TENSOR} dims: [ -1, 4 ] }} output {{ name: "y" data_type: TYPE_FP32 dims: [ 8, 4 ] }}', 0),
        ("max_batch_size: 3", 3),
    ],
)
def test_an_open_batch_size(tmp_path: Path, text: str, size: int) -> None:
    """Where nothing is said of the batch, the rank of what is listed tells whether it leaves the batch out."""
    assert completed(graphs.scale(tmp_path), text).max_batch_size == size


CONTRADICTIONS = {
    f"max_batch_size: 4 input {{ {TENSOR} dims: [ -1, 4 ] }}": (
        "input 'x' has dims [-1,4]; the graph has [4] without the batch; leave the batch out of dims"
    ),
    f'input {{ {TENSOR} dims: 4 }} output {{ name: "y" data_type: TYPE_FP32 dims: 4 }}': (
        "input 'x' has dims [4]; the graph has [-1,4]; say max_batch_size, or begin dims with -1"
    ),
    f"max_batch_size: 4 input {{ {TENSOR} dims: -1 }}": "input 'x' has dims [-1]; the graph has [4] without the batch",
    f"max_batch_size: 4 input {{ {TENSOR} dims: 5 }}": "input 'x' has dims [5]; the graph has [4] without the batch",
    f"max_batch_size: 4 input {{ {TENSOR} dims: [ 2, 2 ] reshape {{ shape: 5 }} }}": (
        "input 'x' has dims [2,2] and reshape [5]: 4 elements against 5"
    ),
    f"max_batch_size: 4 input {{ {TENSOR} dims: 4 reshape {{ shape: [ 2, 2 ] }} }}": (
        "input 'x' has reshape [2,2]; the graph has [4] without the batch"
    ),
    f"max_batch_size: 4 input {{ {TENSOR} dims: 4 }} input {{ {TENSOR} dims: 4 }}": "has input 'x' twice",
    'max_batch_size: 4 input { name: "x" dims: 4 }': "input 'x' is TYPE_INVALID; the graph has FP32",
    "max_batch_size: 4 input { dims: 4 }": "has input ''; the graph has x",
    f"max_batch_size: 4 input {{ {TENSOR} dims: 4 format: FORMAT_NHWC }}": (
        "input 'x' has format FORMAT_NHWC and dims [4]; expected three dims"
    ),
    'max_batch_size: 4 output { name: "y" data_type: TYPE_STRING dims: 4 }': (
        "output 'y' is TYPE_STRING; the graph has FP32"
    ),
    "max_batch_size: -1": "says max_batch_size -1; expected 0 or more",
}


@pytest.mark.parametrize("text", CONTRADICTIONS)
def test_contradictions_name_both_sides(tmp_path: Path, text: str) -> None:
    """What the configuration says and what the graph has stand in one line, with advice where it is a known slip."""
    assert CONTRADICTIONS[text] in refusal(graphs.scale(tmp_path), text)


def test_numbers_that_no_enumeration_has_are_refused(tmp_path: Path) -> None:
    """JSON may carry any number for a data type, a format or a kind."""
    tensor = pb.ModelInput(name="x", dims=[4])
    for fields, why in (
        ({"data_type": 77}, "input 'x' is data_type 77; the graph has FP32"),
        ({"data_type": pb.TYPE_FP32, "format": 9}, "input 'x' has format 9"),
    ):
        given = pb.ModelInput(**fields)  # type: ignore[arg-type]
        given.MergeFrom(tensor)
        config = pb.ModelConfig(max_batch_size=4, input=[given])
        assert why in refusal(graphs.scale(tmp_path), text_format.MessageToString(config))
    with pytest.raises(ModelLoadError, match="instance_group has kind 9"):
        placement_of(pb.ModelConfig(instance_group=[pb.ModelInstanceGroup(kind=9)]))  # type: ignore[arg-type]


def test_an_input_that_is_not_optional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An input that the graph needs is needed, whatever the configuration says; a warning tells so."""
    full = completed(graphs.scale(tmp_path), f"max_batch_size: 4 input {{ {TENSOR} dims: 4 optional: true }}")
    assert not full.input[0].optional
    assert "input 'x' is optional, but the graph has no value for it" in caplog.text


def test_a_weight_has_no_batch(tmp_path: Path) -> None:
    """A weight can be an input of a model that takes no batches only."""
    path = graphs.save(
        tmp_path / "model.onnx",
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4]), ("w", TensorProto.FLOAT, [4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"w": np.ones(4, np.float32)},
    )
    listed = f'input {{ {TENSOR} dims: 4 }} input {{ name: "w" data_type: TYPE_FP32 dims: 4 optional: true }}'
    assert "input 'w'" in refusal(path, f"max_batch_size: 4 {listed}")
    unbatched = listed.replace("dims: 4 }", "dims: [ -1, 4 ] }", 1)
    assert [each.optional for each in completed(path, unbatched).input] == [False, True]

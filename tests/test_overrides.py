"""What a Load call carries: which parameters are taken, and where files go."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from server import overrides
from server.errors import InvalidArgumentError, ModelLoadError, UnavailableError
from server.pb import inference_pb2 as pb

Parameter = pb.ModelRepositoryParameter
CONFIG = Parameter(string_param='{"max_batch_size": 4, "versionPolicy": {"all": {}}}')


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private directories are made."""
    made = tmp_path / "tmp"
    made.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(made))
    return made


def test_files_live_as_long_as_their_source(tmp_path: Path, temporary: Path) -> None:
    """Files are written below a private directory named as the model, and go with the source."""
    files = {"file:1/model.onnx": b"graph", "file:labels.txt": b"a\n", "file:1/sub/weights": b"w"}
    given = overrides.read({"config": CONFIG, **{name: Parameter(bytes_param=raw) for name, raw in files.items()}})
    source = given.source(tmp_path / "scale")
    (private,) = temporary.iterdir()
    assert source.directory == private / "scale"
    assert private.stat().st_mode & 0o777 == 0o700
    assert (source.directory / "1" / "model.onnx").read_bytes() == b"graph"
    assert (source.directory / "labels.txt").read_bytes() == b"a\n"
    assert source.configuration().max_batch_size == 4
    assert source.chosen()[1] == ["1"]
    gc.disable()  # it goes at once, not some time
    del source
    gc.enable()
    assert list(temporary.iterdir()) == []


def test_a_configuration_alone_keeps_the_files(tmp_path: Path, temporary: Path) -> None:
    """Without files the model's own directory stays; without anything, its configuration too."""
    assert overrides.read({}).source(tmp_path / "scale").config is None
    source = overrides.read({"config": CONFIG}).source(tmp_path / "scale")
    assert source.directory == tmp_path / "scale"
    assert source.configuration().HasField("version_policy")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../1/model.onnx", "1/../../2/model.onnx", "..", ".", "", "1//model.onnx", "1/", "1/\0", "a\\b"],
)
def test_paths_that_lead_out_are_refused(path: str) -> None:
    """A path goes down from the model's directory, step by step, or is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgumentError, match=r"parameter file:.*expected a path below the model's directory"):
        overrides.read({"config": CONFIG, f"file:{path}": Parameter(bytes_param=b"")})


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"file:1/model.onnx": Parameter(bytes_param=b"")}, "need the parameter 'config' beside them"),
        ({"config": Parameter(bytes_param=b"{}")}, "parameter config came as bytes_param; expected JSON text"),
        ({"config": Parameter(string_param=" ")}, "parameter config came as string_param; expected JSON text"),
        ({"config": CONFIG, "file:1/a": Parameter(string_param="")}, "'file:1/a' came as string_param; expected bytes"),
        ({"file": Parameter(bytes_param=b"")}, "parameter 'file' is unknown; expected 'config' or 'file:VERSION"),
        ({"config": Parameter()}, "parameter config came as None"),
    ],
)
def test_parameters_that_are_refused(parameters: dict[str, Parameter], text: str) -> None:
    """Unknown parameters, wrong types, and files without a configuration."""
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        overrides.read(parameters)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_kept_leaves_nothing_behind(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken configuration, a file in another file's place, and a full disk: an error, and no directory stays."""

    def source(config: str, *names: str) -> None:
        files = {f"file:{name}": Parameter(bytes_param=b"") for name in names}
        overrides.read({"config": Parameter(string_param=config), **files}).source(tmp_path / "scale")

    with pytest.raises(ModelLoadError, match="config cannot be read"):
        source("{", "1/model.onnx")
    with pytest.raises(ModelLoadError, match="config says name 'other'"):
        source('{"name": "other"}')
    with pytest.raises(ModelLoadError, match="is a directory of another file"):
        source("{}", "1", "1/model.onnx")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UnavailableError, match=r"cannot be kept in .*: No space left on device"):
            source("{}", "1/model.onnx")
    assert list(temporary.iterdir()) == []

"""What lies on disk, which versions are served, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from onnx import TensorProto
from prometheus_client import CollectorRegistry

from server.config import Settings
from server.control import Control
from server.errors import InvalidArgumentError, ModelLoadError, NotFoundError, StartError, UnavailableError
from server.metrics import Metrics
from server.pb import model_config_pb2 as pb
from server.repository import Repository, VersionStatus
from server.source import choose_versions
from tests import graphs

Load = Callable[..., Repository]


@pytest.fixture
def statuses() -> list[VersionStatus]:
    """Every change that the repository told."""
    return []


@pytest.fixture
def load(tmp_path: Path, statuses: list[VersionStatus]) -> Iterator[Load]:
    """Load the repository in tmp_path."""
    opened: list[Control] = []

    def loaded(**settings: object) -> Repository:
        metrics = Metrics(CollectorRegistry())
        made = Repository(metrics, statuses.append)
        control = Control(Settings(repository=tmp_path, **settings), metrics, made)  # type: ignore[arg-type]
        opened.append(control)
        control.scan()
        control.load_all()
        return made

    yield loaded
    for each in opened:
        each.close()


def configure(repository: Path, name: str, text: str) -> None:
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")


def test_the_newest_version_is_served(tmp_path: Path, load: Load, statuses: list[VersionStatus]) -> None:
    """Without a policy the newest version alone is loaded; its state goes LOADING, READY."""
    for version in (1, 2, 10):
        graphs.scale(tmp_path, version=version)
    repository = load()
    assert repository.get("scale").version == "10"
    assert [(each.version, each.state) for each in statuses] == [("10", "LOADING"), ("10", "READY")]
    with pytest.raises(NotFoundError, match="no version 1; it has 10"):
        repository.get("scale", "1")
    assert repository.ready()


def test_versions_by_policy(tmp_path: Path, load: Load) -> None:
    """version_policy chooses; an unnamed version is the newest one that is READY."""
    for version in (1, 2, 3):
        graphs.scale(tmp_path, version=version, factor=version)
    configure(tmp_path, "scale", "version_policy { specific { versions: [ 1, 2 ] } }")
    repository = load()
    assert repository.ready_versions("scale") == ["1", "2"]
    assert repository.get("scale").version == "2"
    assert repository.get("scale", "1").version == "1"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("latest { num_versions: 9 }", [1, 2, 3]),
        ("all { }", [1, 2, 3]),
        ("specific { versions: [ 3, 1 ] }", [1, 3]),
    ],
)
def test_choose_versions(policy: str, expected: list[int]) -> None:
    """Each policy's choice among versions 1, 2 and 3."""
    assert choose_versions([1, 2, 3], text_format.Parse(policy, pb.ModelVersionPolicy())) == expected


def test_a_named_version_must_be_there() -> None:
    """A policy that names a version that is not on disk is refused."""
    with pytest.raises(ModelLoadError, match=r"names version 7; on disk are \[1\]"):
        choose_versions([1], text_format.Parse("specific { versions: 7 }", pb.ModelVersionPolicy()))


def test_what_is_not_there(tmp_path: Path, load: Load) -> None:
    """Unknown models, and versions that are no positive integers, are told apart."""
    graphs.scale(tmp_path)
    repository = load()
    with pytest.raises(NotFoundError, match="model 'nosuch' is unknown; this server has scale"):
        repository.get("nosuch")
    for version in ("0", "-1", "one", "1.0", "\u0661"):
        with pytest.raises(InvalidArgumentError, match="expected a positive integer"):
            repository.get("scale", version)


CONTRADICTIONS = {
    'name: "other"': "says name 'other', its directory says 'scale'",
    'platform: "tensorflow_graphdef"': "asks for platform 'tensorflow_graphdef'",
    'backend: "python"': "backend 'python'",
    'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }': (
        r"input 'x' has dims \[4\]; the graph has \[-1,4\]; say max_batch_size"
    ),
    'max_batch_size: 4 input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }': "has input 'z'; the graph has x",
    'max_batch_size: 4 input { name: "x" data_type: TYPE_FP16 dims: [ 4 ] }': "is TYPE_FP16; the graph has FP32",
    'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 4, 4 ] }': r"has dims \[4,4\]; the graph has \[4\]",
    'max_batch_size: 4 output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }': r"output 'y' has dims \[3\]",
    "max_batch_size: -1": "says max_batch_size -1",
    "max_batch_size: four": "cannot be read",
    "ensemble_scheduling { }": "has ensemble_scheduling",
    'output { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] label_filename: "no.txt" }': "label_filename 'no.txt'",
}


@pytest.mark.parametrize("text", CONTRADICTIONS)
def test_contradictions_are_named(tmp_path: Path, load: Load, text: str) -> None:
    """A configuration that contradicts the graph leaves the model UNAVAILABLE, in one line; others are served."""
    graphs.scale(tmp_path)
    graphs.scale(tmp_path, "good")
    configure(tmp_path, "scale", text)
    repository = load()
    status = repository.status("scale")
    assert status.state == "UNAVAILABLE"
    with pytest.raises(UnavailableError, match=CONTRADICTIONS[text]):
        repository.get("scale")
    assert repository.get("good").version == "1"
    assert not repository.ready()


def test_a_fixed_first_dimension_cannot_batch(tmp_path: Path, load: Load) -> None:
    """max_batch_size on a graph without a dynamic first dimension is a contradiction."""
    graphs.identity(tmp_path, "fixed", TensorProto.FLOAT, [3])
    configure(tmp_path, "fixed", "max_batch_size: 2")
    with pytest.raises(UnavailableError, match="has no dynamic first dimension"):
        load().get("fixed")


def test_broken_files(tmp_path: Path, load: Load) -> None:
    """A truncated file, an empty one, one that is not ONNX, and a missing one are each one line."""
    whole = graphs.scale(tmp_path, "whole").read_bytes()
    for name, content in {"truncated": whole[:50], "empty": b"", "text": b"not a model"}.items():
        path = tmp_path / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (tmp_path / "missing" / "1").mkdir(parents=True)
    (tmp_path / "versionless").mkdir()
    repository = load()
    reasons = {each.name: each.reason for each in repository.index() if each.state == "UNAVAILABLE"}
    assert reasons.keys() == {"truncated", "empty", "text", "missing", "versionless"}
    for name in ("truncated", "empty", "text"):
        assert reasons[name].startswith("model.onnx is no ONNX graph that can be read: ")
    assert reasons["missing"] == "version 1 has no model.onnx"
    assert "no version directory" in reasons["versionless"]
    assert all("\n" not in reason for reason in reasons.values())
    assert repository.get("whole").version == "1"


def test_unused_fields_are_named(tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """Fields that are not acted on are named in a warning, and the model is served."""
    graphs.scale(tmp_path)
    configure(
        tmp_path,
        "scale",
        "max_batch_size: 4 optimization { priority: PRIORITY_MAX } dynamic_batching { preserve_ordering: true }",
    )
    load().get("scale")
    (warning,) = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert "dynamic_batching.preserve_ordering, optimization.priority" in warning


def test_the_settings_choose_models(tmp_path: Path, load: Load) -> None:
    """With names in the settings only those are loaded; a name that is not there is refused at the start."""
    for name in ("a", "b"):
        graphs.scale(tmp_path, name)
    assert [each.name for each in load(models=("b",)).index()] == ["b"]
    with pytest.raises(StartError, match=r"model 'c' is not in .*; it has a, b"):
        load(models=("c",))


def test_external_weights_are_served(tmp_path: Path, load: Load) -> None:
    """A graph whose weights lie beside it is loaded, and counted with them."""
    import onnx

    path = graphs.slow(tmp_path, rounds=2)
    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (path.parent / "card.json").write_text("{}")
    repository = load()
    assert repository.get("slow").name == "slow"
    total = path.stat().st_size + (path.parent / "model.onnx.data").stat().st_size
    assert (
        repository._metrics.registry.get_sample_value("netweight_model_file_bytes", {"model": "slow", "version": "1"})
        == total
    )

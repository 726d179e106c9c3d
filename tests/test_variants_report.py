"""export.variants_report: bytes, agreement, accuracy, latency and memory of every variant, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from export import variant_figures, variants_report
from export.variant_figures import Subject, measure
from export.variant_session import latencies, profile
from export.variant_table import markdown
from export.variants import VARIANTS
from models.environment import environment
from tests import graphs

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """LeNet-5, untrained, measured once."""
    return measure(Subject("lenet5"), tmp_path_factory.mktemp("lenet5"), 3)


@pytest.fixture(scope="module")
def part(measured: dict[str, Any]) -> dict[str, Any]:
    machine = {**environment(), "cpu_flags": variants_report.cpu_flags()}
    return {"name": "lenet5", **measured, "seconds": 1.0, "environment": machine}


def test_every_variant_is_measured_beside_fp32(measured: dict[str, Any]) -> None:
    """Each has bytes, agreement, raw samples at both batch sizes and memory; fp32 agrees with itself."""
    rows = {row["variant"]: row for row in measured["variants"]}
    assert list(rows) == ["fp32", *VARIANTS]
    assert (rows["fp32"]["agreement"], rows["fp32"]["max_relative_difference"]) == (1.0, 0.0)
    for name, row in rows.items():
        assert row["file_bytes"] > row["initializer_bytes"] > 0
        assert {batch: len(row["latency_ms"][batch]["samples"]) for batch in ("1", "8")} == {"1": 3, "8": 3}
        assert row["session_seconds"] > 0
        assert row["profile"], name
        assert 0 <= row["max_relative_difference"] <= (VARIANTS[name].tolerance if name in VARIANTS else 0)
    assert rows["fp16"]["initializer_bytes"] < 0.55 * rows["fp32"]["initializer_bytes"]
    assert rows["int8"]["initializer_bytes"] < 0.30 * rows["fp32"]["initializer_bytes"]


def test_untrained_networks_claim_no_accuracy(measured: dict[str, Any]) -> None:
    """Random weights are called untrained, and only agreement is told of them."""
    assert measured["trained"] is False
    assert measured["images"] == f"16 random, seed {variant_figures.SEED}"
    assert all(row["heldout_accuracy"] is None for row in measured["variants"])


def test_profile_sees_the_kernels(measured: dict[str, Any]) -> None:
    """int8 runs on integer kernels, int4-weights on MatMulNBits; the words say what fp32 has not."""
    rows = {row["variant"]: row for row in measured["variants"]}
    assert {"QLinearConv", "QGemm"} <= {each["op"] for each in rows["int8"]["profile"]}
    assert "MatMulNBits" in {each["op"] for each in rows["int4-weights"]["profile"]}
    assert "not in fp32: " in rows["int8"]["seen"]
    assert "not in fp32" not in rows["fp32"]["seen"]
    assert sum(each["share"] for each in rows["fp32"]["profile"]) == pytest.approx(1, abs=0.01)


def test_what_is_missing_for_a_gpu_is_said(measured: dict[str, Any]) -> None:
    """Without CUDA and TensorRT their figures are skipped aloud; where they are, they are there."""
    there = ort.get_available_providers()
    wanted = {"fp32": "CUDAExecutionProvider", "fp16": "CUDAExecutionProvider", "int8": "TensorrtExecutionProvider"}
    for name, provider in wanted.items():
        assert (f"{name}: {provider} is not there" in measured["gpu"]["skipped"]) == (provider not in there)


def test_a_provider_that_refuses_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's provider cannot open is skipped aloud with its own words; the rest is measured."""
    graphs.image_classifier(tmp_path)
    path = next(tmp_path.rglob("model.onnx"))
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    monkeypatch.setattr(variant_figures, "_ON_A_GPU", {"fp32": "CPUExecutionProvider", "int8": "CPUExecutionProvider"})
    found = variant_figures._gpu({"fp32": path, "int8": tmp_path / "broken.onnx"}, np.zeros((8, 8, 8, 1), np.uint8), 3)
    assert list(found["latency_ms"]["8"]) == ["fp32 on CPUExecutionProvider"]
    assert found["skipped"][0].startswith("int8: CPUExecutionProvider refuses it: ")


class Counted:
    """A session that notes when it runs."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]

    def run(self, _outputs: None, _feeds: Mapping[str, Any]) -> None:
        self.notes.append(self.name)


def test_latency_is_taken_in_alternation() -> None:
    """Each round runs every session once, after one round that does not count."""
    notes: list[str] = []
    sessions: Any = {name: Counted(name, notes) for name in "ab"}
    samples = latencies(sessions, np.zeros((1, 2)), rounds=3)
    assert notes == ["a", "b"] * 4
    assert {name: len(each) for name, each in samples.items()} == {"a": 3, "b": 3}


def test_profile_names_operator_and_datatype(tmp_path: Path) -> None:
    """Operators come the longest first, each with the datatype that it ran on."""
    graphs.image_classifier(tmp_path)
    path = next(tmp_path.rglob("model.onnx"))
    (image,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    rows = profile(path, np.zeros((1, *image.shape[1:]), np.uint8), tmp_path)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    assert {row["op"]: row["input"] for row in rows}["Cast"] == "uint8"


def test_report_has_a_row_for_each_variant(part: dict[str, Any], tmp_path: Path) -> None:
    """JSON keeps the raw samples; Markdown has the environment, a table and the words on slower ones."""
    variants_report.write([part], tmp_path)
    report = json.loads((tmp_path / "variants.json").read_text())
    assert report["networks"][0] == json.loads(json.dumps(part))
    text = (tmp_path / "variants.md").read_text()
    for name in ("fp32", *VARIANTS):
        assert f"\n| {name} |" in text
        assert f"\n- {name}" in text
    assert "untrained" in text
    assert part["environment"]["cpu"] in text
    assert markdown([]).endswith("Nothing was measured.\n")


def test_slower_is_told_by_quartiles() -> None:
    """A variant is called slower where its lower quartile is above fp32's upper one, and not for noise."""

    def row(name: str, low: float, high: float) -> dict[str, Any]:
        latency = {"quartiles": [low, high]}
        return {"variant": name, "latency_ms": {"1": latency, "8": latency}, "profile": []}

    rows = [row("fp32", 9, 11), row("int8", 10, 14), row("fp16", 12, 13)]
    variant_figures._explain(rows)
    assert [each["slower_at_batch"] for each in rows] == [[], [], [1, 8]]


def test_what_stands_is_not_measured_again(
    part: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call writes the report from the parts that are kept."""
    monkeypatch.chdir(tmp_path)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "lenet5.json").write_text(json.dumps(part))
    monkeypatch.setattr(variants_report, "_child", lambda *_: pytest.fail("measured again"))
    done = CliRunner().invoke(variants_report.main, ["--untrained", "lenet5", "--trained", "", "--parts", str(parts)])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "docs/results/variants.json").read_text())["networks"][0]["name"] == "lenet5"


def test_missing_run_is_one_line(tmp_path: Path) -> None:
    """A twin that was never trained is named, and nothing is left behind."""
    parts = tmp_path / "parts"
    options = ["--runs", str(tmp_path / "none"), "--parts", str(parts)]
    done = CliRunner().invoke(variants_report.main, ["--part", "lenet5-digits", *options])
    assert done.exit_code == 1
    assert "best.pt" in done.output.splitlines()[-1]
    assert not list(parts.iterdir())

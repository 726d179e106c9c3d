"""Providers: who is insisted on, how options are merged, where TensorRT's engines are kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from google.protobuf import text_format

from server import config_fields, providers
from server.config import Settings
from server.errors import ModelLoadError, StartError
from server.pb import model_config_pb2 as pb
from server.provider_options import CUDA_OPTIONS, TENSORRT_OPTIONS, Tuning, split
from server.providers import CPU, CUDA, TENSORRT, SessionOptions, arguments, check_provider, engine_cache
from server.tuning import tuning_of
from tests import graphs


def config(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def test_the_silent_fall_back_is_caught() -> None:
    """Who insists gets an error that names the cause; who does not goes on, and hears of it."""
    with pytest.raises(ModelLoadError, match=r"provider is cuda, but the model would run on CPU.*: no driver"):
        check_provider("cuda", CUDA, CPU, "no driver")
    with pytest.raises(ModelLoadError, match="provider is tensorrt, but the model would run on CUDA"):
        check_provider("tensorrt", TENSORRT, CUDA)
    assert check_provider("auto", CUDA, CPU, "no driver")
    assert check_provider("cuda", TENSORRT, CUDA, "a configuration asked for TensorRT")
    assert not check_provider("auto", CPU, CPU)
    assert not check_provider("cuda", CUDA, CUDA)


@pytest.mark.parametrize(
    ("setting", "tensorrt", "available", "expected"),
    [
        ("auto", False, [CPU], CPU),
        ("auto", True, [CPU], CPU),
        ("auto", False, [CUDA, CPU], CUDA),
        ("auto", True, [TENSORRT, CUDA, CPU], TENSORRT),
        ("cpu", True, [CUDA, CPU], CPU),
        ("cuda", False, [CPU], CUDA),
        ("cuda", True, [CPU], TENSORRT),
        ("tensorrt", False, [CPU], TENSORRT),
    ],
)
def test_the_wanted_provider(
    setting: Any, tensorrt: bool, available: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting and the model's accelerator choose; cpu means the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    assert providers.wanted(SessionOptions(setting, 1, tuning=Tuning(tensorrt=tensorrt))) == expected


def test_options_are_merged_in_order() -> None:
    """Our defaults, then the server's settings, then its options, then the model's configuration: the last one wins."""
    plain = dict(arguments(SessionOptions("cuda", 1), CUDA, captures=False))
    assert plain == {
        CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
        CPU: {},
    }
    options = SessionOptions(
        "cuda",
        1,
        gpu_memory_limit_bytes=1000,
        provider_options=("cudnn_conv_algo_search=DEFAULT", "gpu_mem_limit=2000", "use_tf32=0", "trt_fp16_enable=1"),
        tuning=Tuning(cuda={"gpu_mem_limit": "3000"}),
    )
    assert dict(arguments(options, CUDA, captures=True))[CUDA] == {
        "cudnn_conv_algo_search": "DEFAULT",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "3000",
        "use_tf32": "0",
        "enable_cuda_graph": "1",
    }
    assert arguments(options, CPU, captures=False) == [(CPU, {})]


def test_tensorrt_goes_before_cuda(tmp_path: Path) -> None:
    """TensorRT takes what it can, CUDA the rest; engines and timings are kept; graphs are CUDA's own matter."""
    options = SessionOptions(
        "tensorrt",
        1,
        provider_options=("trt_max_workspace_size=5", "device_id=1"),
        tuning=Tuning(trt={"trt_fp16_enable": "1"}),
        engine_cache=tmp_path / "engines",
    )
    chosen = arguments(options, TENSORRT, captures=True)
    assert [name for name, _ in chosen] == [TENSORRT, CUDA, CPU]
    assert chosen[0][1] == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path / "engines"),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path / "engines"),
        "trt_max_workspace_size": "5",
        "device_id": "1",
        "trt_fp16_enable": "1",
    }
    assert chosen[1][1]["device_id"] == "1"
    assert "enable_cuda_graph" not in chosen[1][1]
    assert (tmp_path / "engines").is_dir()


def test_engines_that_cannot_be_kept_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A repository that cannot be written to costs a warning, not the model."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    options = SessionOptions("tensorrt", 1, engine_cache=tmp_path / "file" / "engines")
    with caplog.at_level(logging.WARNING):
        assert arguments(options, TENSORRT, captures=False)[0] == (TENSORRT, {})
    assert "TensorRT's engines are not kept" in caplog.text


def test_an_engine_does_not_outlive_its_weights(tmp_path: Path) -> None:
    """Engines lie hidden beside the versions, apart for each version and for each state of its files."""
    first, second = graphs.scale(tmp_path, version=1), graphs.scale(tmp_path, version=2)
    place = engine_cache(first)
    assert place.parent == tmp_path / "scale" / ".tensorrt" / "1"
    assert engine_cache(second).parent.name == "2"
    assert engine_cache(first) == place
    os.utime(first, ns=(1, 1))
    assert engine_cache(first) != place


def test_engines_are_no_model_and_no_version(tmp_path: Path) -> None:
    """A scan passes over what TensorRT keeps."""
    from prometheus_client import CollectorRegistry

    from server.control import Control
    from server.metrics import Metrics
    from server.repository import Repository

    engine_cache(graphs.scale(tmp_path)).mkdir(parents=True)
    (tmp_path / ".tensorrt" / "1").mkdir(parents=True)
    metrics = Metrics(CollectorRegistry())
    repository = Repository(metrics, lambda _: None)
    Control(Settings(repository=tmp_path), metrics, repository).scan()
    assert [(each.name, each.version) for each in repository.index()] == [("scale", "1")]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("cudnn_conv_algo", "provider option 'cudnn_conv_algo': expected KEY=VALUE"),
        ("cudnn_conv_algo_search=", "expected KEY=VALUE"),
        ("cudnn_conv_algorithm=1", "provider option 'cudnn_conv_algorithm' is unknown; expected trt_... or one of"),
        ("enable_cuda_graph=1", "provider option 'enable_cuda_graph' is unknown"),
    ],
)
def test_unknown_options_are_refused_at_the_start(word: str, text: str) -> None:
    """A wrong --provider-option ends the start with one line."""
    with pytest.raises(StartError, match=text) as caught:
        Settings(provider_options=(word,))
    assert "\n" not in str(caught.value)


def test_options_hold_equals_signs() -> None:
    """Only the first equals sign separates."""
    assert split(["trt_preview_features=a=b"]) == {"trt_preview_features": "a=b"}


def test_a_configuration_in_tritons_words() -> None:
    """What Triton's onnxruntime backend documents is read under its own names."""
    tuning = tuning_of(
        config("""
            optimization {
              graph { level: 1 }
              cuda { graphs: true }
              input_pinned_memory { enable: false }
              execution_accelerators { gpu_execution_accelerator: [
                { name: "tensorrt"
                  parameters { key: "precision_mode" value: "FP16" }
                  parameters { key: "max_workspace_size_bytes" value: "1073741824" }
                  parameters { key: "trt_builder_optimization_level" value: "5" } },
                { name: "cuda" parameters { key: "cudnn_conv_use_max_workspace" value: "0" } } ] }
            }
            parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }
            parameters { key: "arena_extend_strategy" value { string_value: "0" } }
            parameters { key: "gpu_mem_limit" value { string_value: "4294967200" } }
            parameters { key: "intra_op_thread_count" value { string_value: "2" } }
            """)
    )
    assert (tuning.graph_level, tuning.cuda_graphs, tuning.tensorrt) == (1, True, True)
    assert (tuning.input_pinned, tuning.output_pinned) == (False, True)
    assert tuning.trt == {
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "1073741824",
        "trt_builder_optimization_level": "5",
    }
    assert tuning.cuda == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "gpu_mem_limit": "4294967200",
        "cudnn_conv_use_max_workspace": "0",
    }
    assert tuning.session == {"intra_op_thread_count": "2"}
    assert tuning_of(pb.ModelConfig()) == Tuning()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'gpu_execution_accelerator { name: "tensorrt" parameters { key: "workspace" value: "1" } }',
            "accelerator tensorrt has the option 'workspace'; expected one of",
        ),
        (
            'gpu_execution_accelerator { name: "cuda" parameters { key: "trt_fp16_enable" value: "1" } }',
            "accelerator cuda has the option 'trt_fp16_enable'",
        ),
        (
            'gpu_execution_accelerator { name: "tensorrt" parameters { key: "precision_mode" value: "FP8" } }',
            "precision_mode is 'FP8'; expected FP32, FP16, INT8",
        ),
        ('gpu_execution_accelerator { name: "migraphx" }', "the accelerator 'migraphx'; this server has 'tensorrt'"),
    ],
)
def test_unknown_accelerators_are_refused(text: str, message: str) -> None:
    """What a configuration insists on and is not there is one line."""
    with pytest.raises(ModelLoadError, match=message) as caught:
        tuning_of(config(f"optimization {{ execution_accelerators {{ {text} }} }}"))
    assert "\n" not in str(caught.value)


def test_a_count_that_is_no_number_is_refused() -> None:
    """A session's parameter is a number."""
    wrong = config('parameters { key: "intra_op_thread_count" value { string_value: "many" } }')
    with pytest.raises(ModelLoadError, match="parameter intra_op_thread_count is 'many'; expected a number"):
        tuning_of(wrong)


def test_what_is_not_acted_on_is_named() -> None:
    """The rest of `optimization` and foreign `parameters` are named in the warning; what is acted on is not."""
    names = config_fields.ignored(
        config("""
            optimization { priority: PRIORITY_MAX graph { level: 1 } cuda { graphs: true busy_wait_events: true }
              execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
            parameters { key: "gpu_mem_limit" value { string_value: "1" } }
            parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
            """)
    )
    assert names == [
        "optimization.priority",
        "optimization.cuda.busy_wait_events",
        "optimization.execution_accelerators.cpu_execution_accelerator",
        "parameters.FORCE_CPU_ONLY_INPUT_TENSORS",
    ]


def test_every_option_has_one_owner() -> None:
    """An option that both providers know is the device's."""
    assert not any(name.startswith("trt_") for name in CUDA_OPTIONS)
    assert {"device_id"} == CUDA_OPTIONS & TENSORRT_OPTIONS

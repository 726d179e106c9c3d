"""A model repository as somebody writes it for Triton's onnxruntime backend: each model stresses several fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests import graphs

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def make(repository: Path) -> Path:
    """Write every model; return the repository."""
    for write in (plain, one_picture, scalars, open_extents, busy, folder, replaceable, texts, later):
        write(repository)
    return repository


def plain(repository: Path) -> None:
    """No config.pbtxt at all: y = 2 x, FP32 [batch, 4]."""
    graphs.scale(repository, "plain")


def one_picture(repository: Path) -> None:
    """A graph whose batch of 1 is written down: callers see [3,2,2] and [2], the graph takes [1,3,2,2] and gives [1,2,1,1].

    Its file has a name of its own; the answer's two classes are the means of channels 0 and 1, and they have labels.
    """
    mean = np.zeros((2, 3, 2, 2), np.float32)
    mean[0, 0] = mean[1, 1] = 0.25
    graphs.save(
        repository / "one_picture" / "1" / "densenet.onnx",
        [helper.make_node("Conv", ["data_0", "mean"], ["fc6_1"])],
        [("data_0", FLOAT, [1, 3, 2, 2])],
        [("fc6_1", FLOAT, [1, 2, 1, 1])],
        {"mean": mean},
    )
    (repository / "one_picture" / "names.txt").write_text("red\ngreen\nof no class\n", encoding="utf-8")
    configure(
        repository,
        "one_picture",
        """
        name: "one_picture"
        platform: "onnxruntime_onnx"
        max_batch_size : 0
        default_model_filename: "densenet.onnx"
        input [ {
          name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 2, 2 ]
          reshape { shape: [ 1, 3, 2, 2 ] }
        } ]
        output [ {
          name: "fc6_1" data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 1, 2, 1, 1 ] }
          label_filename: "names.txt"
        } ]
        instance_group [ { name: "here" kind: KIND_CPU count: 1 }, { kind: KIND_CPU } ]
        """,
    )


def scalars(repository: Path) -> None:
    """One number for each sample: callers see [batch,1], the graph [batch]; total = x + x, INT64."""
    graphs.save(
        repository / "scalars" / "1" / "model.onnx",
        [helper.make_node("Add", ["x", "x"], ["total"])],
        [("x", INT64, ["batch"])],
        [("total", INT64, ["batch"])],
    )
    configure(
        repository,
        "scalars",
        """
        backend: "onnxruntime"
        max_batch_size: 8
        input { name: "x" data_type: TYPE_INT64 dims: 1 reshape { } }
        output { name: "total" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }
        dynamic_batching { max_queue_delay_microseconds: 20000 }
        """,
    )


def open_extents(repository: Path) -> None:
    """Callers see [batch,2,-1,6], the graph [batch,1,2,-1,2,3]: open extents are matched in order."""
    graphs.identity(repository, "open_extents", FLOAT, ["batch", 1, 2, "rows", 2, 3])
    configure(
        repository,
        "open_extents",
        """
        max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [ 2, -1, 6 ] reshape { shape: [ 1, 2, -1, 2, 3 ] } }
        output { name: "y" data_type: TYPE_FP32 dims: [ 2, -1, 3, 2 ] reshape { shape: [ 1, 2, -1, 2, 3 ] } }
        model_warmup {
          name: "three rows" batch_size: 2
          inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 2, 3, 6 ] zero_data: true } }
        }
        """,
    )


def busy(repository: Path) -> None:
    """Everything that schedules and tunes; versions 1 and 3 of 1 to 3 (y = version * x), warmed up three ways."""
    for version in (1, 2, 3):
        graphs.scale(repository, "busy", version=version, factor=version)
    (repository / "busy" / "warmup").mkdir()
    np.arange(8, dtype=np.float32).tofile(repository / "busy" / "warmup" / "raw_x")  # more than the sample needs
    configure(
        repository,
        "busy",
        """
        # as the guides write it
        name: "busy"
        platform: "onnxruntime_onnx"
        backend: "onnxruntime"
        max_batch_size: 8
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
        version_policy: { specific { versions: [ 1, 3 ] } }
        instance_group [ { count: 1 kind: KIND_CPU }, { count: 1 kind: KIND_CPU } ]
        dynamic_batching {
          preferred_batch_size: [ 4, 8 ]
          max_queue_delay_microseconds: 100
          preserve_ordering: false
          priority_levels: 2
          default_priority_level: 2
          default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5000000 max_queue_size: 100 }
          priority_queue_policy { key: 1 value { timeout_action: DELAY allow_timeout_override: true } }
        }
        optimization {
          graph { level: 1 }
          input_pinned_memory { enable: true }
          execution_accelerators {
            gpu_execution_accelerator: [ { name: "tensorrt"
              parameters { key: "precision_mode" value: "FP16" }
              parameters { key: "max_workspace_size_bytes" value: "1073741824" } } ]
          }
        }
        parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
        parameters { key: "enable_mem_arena" value: { string_value: "true" } }
        model_warmup [
          { name: "zeros" batch_size: 8
            inputs: { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } } },
          { name: "random" batch_size: 1 count: 3
            inputs: { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } } },
          { name: "file" batch_size: 2
            inputs: { key: "x" value: { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "raw_x" } } }
        ]
        """,
    )


def folder(repository: Path) -> None:
    """model.onnx is a directory, with the graph and its weights in it."""
    path = graphs.scale(repository, "folder", factor=5)
    model = onnx.load(path)
    path.unlink()
    path.mkdir()
    onnx.save(model, path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)


def replaceable(repository: Path) -> None:
    """A weight that a request may replace: y = x * factor, where factor is 3 if it is not given."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "test",
        [helper.make_tensor_value_info(name, FLOAT, [2]) for name in ("x", "factor")],
        [helper.make_tensor_value_info("y", FLOAT, [2])],
        [onnx.numpy_helper.from_array(np.full(2, 3, np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", graphs.OPSET)], ir_version=10)
    (repository / "replaceable" / "1").mkdir(parents=True)
    onnx.save(model, repository / "replaceable" / "1" / "model.onnx")
    configure(
        repository,
        "replaceable",
        """
        backend: "onnxruntime"
        input [
          { name: "x" data_type: TYPE_FP32 dims: [ 2 ] },
          { name: "factor" data_type: TYPE_FP32 dims: [ 2 ] optional: true }
        ]
        model_warmup { name: "bare" batch_size: 1 inputs {
          key: "x" value { data_type: TYPE_FP32 dims: 2 random_data: true } } }
        """,
    )


def texts(repository: Path) -> None:
    """Texts with an open extent, warmed up from a file of the wire's form; only the output is listed."""
    graphs.identity(repository, "texts", STRING, ["batch", "words"])
    (repository / "texts" / "warmup").mkdir()
    (repository / "texts" / "warmup" / "words").write_bytes(b"\x03\0\0\0one\x05\0\0\0three")
    configure(
        repository,
        "texts",
        """
        output { name: "y" data_type: TYPE_STRING dims: [ -1 ] }
        model_warmup { name: "two words" batch_size: 3 inputs {
          key: "x" value { data_type: TYPE_STRING dims: 2 input_data_file: "words" } } }
        """,
    )


def later(repository: Path) -> None:
    """Fields that change no answer, fields of a Triton that is yet to come, and one of a GPU that may not be there."""
    graphs.scale(repository, "later", factor=7)
    configure(
        repository,
        "later",
        """
        max_batch_size: 2
        input { name: "x" data_type: TYPE_FP32 dims: 4 colour: BLUE }
        output { name: "y" data_type: TYPE_FP32 dims: 4 }
        instance_group { kind: KIND_GPU gpus: [ 0, 1 ] rate_limiter { priority: 2 } }
        response_cache { enable: true }
        metric_tags { key: "team" value: "vision" }
        optimization { priority: PRIORITY_MAX }
        parameters { key: "TRITON_UNHEARD_OF" value { string_value: "1" } }
        scheduling_of_tomorrow { lanes: [ 1, 2 ] lane { name: "}" } }
        """,
    )


def configure(repository: Path, name: str, text: str) -> None:
    """Write a model's config.pbtxt."""
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")

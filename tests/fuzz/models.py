"""Good models to begin from: a graph, its configuration, its card."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from server.pb import inference_pb2 as pb
from server.pb import model_config_pb2
from tests import graphs

VICTIM = "victim"
"""The model that is loaded and loaded anew; `scale` stays as it is, and shows that the server goes on."""
DATA = "weights.data"
WORDS = (
    VICTIM,
    "x",
    "y",
    "model.onnx",
    "labels.txt",
    "onnxruntime",
    "onnxruntime_onnx",
    "config",
    "file:1/model.onnx",
    "file:2/model.onnx",
    "file:config.pbtxt",
    "file:1",
    "file:../escaped",
    "file:/tmp/escaped",
    "file:1/../../escaped",
    "{}",
    '{"max_batch_size": 2}',
    '{"name": "other"}',
    '{"version_policy": {"all": {}}}',
    "intra_op_thread_count",
    "cudnn_conv_algo_search",
    "enable_mem_arena",
    "execution_mode",
    "tensorrt",
    "cuda",
    "1",
)
"""Names that mean something in a configuration or a Load."""
WORDS_OF_GRAPHS = (
    "x",
    "y",
    "factor",
    "yes",
    "then",
    "Mul",
    "Identity",
    "If",
    "Loop",
    "pads",
    "kernel",
    "Scan",
    "Reshape",
    "Gather",
    "Conv",
    "ConstantOfShape",
    "Expand",
    "then_branch",
    "value",
    "location",
    "offset",
    "length",
    "ai.onnx.ml",
    "com.microsoft",
    "batch",
)
"""Names that mean something in a graph."""
LONG_DELAY_MICROSECONDS = 10**5


@cache
def graph() -> bytes:
    """Return y = factor * x with a branch and an attribute that holds a tensor: many kinds of ONNX's messages."""
    branch = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["then"])], "then", [], [_value("then", ["batch", 4])]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["else"])], "else", [], [_value("else", ["batch", 4])]
    )
    one = helper.make_tensor("one", TensorProto.BOOL, [], [True])
    with tempfile.TemporaryDirectory() as directory:
        path = graphs.save(
            Path(directory) / "model.onnx",
            [
                helper.make_node("Constant", [], ["yes"], value=one),
                helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other),
            ],
            [("x", TensorProto.FLOAT, ["batch", 4])],
            [("y", TensorProto.FLOAT, ["batch", 4])],
            {"factor": np.float32(2)},
        )
        return path.read_bytes()


@cache
def shapes() -> bytes:
    """Return a graph whose shapes are computed, so that spoilt numbers become spoilt sizes."""
    with tempfile.TemporaryDirectory() as directory:
        path = graphs.save(
            Path(directory) / "model.onnx",
            [
                helper.make_node("Reshape", ["x", "square"], ["h"]),
                helper.make_node("Conv", ["h", "kernel"], ["c"], pads=[0, 0, 0, 0], strides=[1, 1]),
                helper.make_node("Pad", ["c", "pads"], ["p"]),
                helper.make_node("Slice", ["p", "starts", "ends"], ["s"]),
                helper.make_node("ConstantOfShape", ["four"], ["zeros"]),
                helper.make_node("Reshape", ["s", "row"], ["r"]),
                helper.make_node("Add", ["r", "zeros"], ["y"]),
            ],
            [("x", TensorProto.FLOAT, ["batch", 4])],
            [("y", TensorProto.FLOAT, ["batch", 4])],
            {
                "square": np.array([-1, 1, 2, 2]),
                "kernel": np.full((1, 1, 1, 1), 2, np.float32),
                "pads": np.array([0, 0, 0, 0, 0, 0, 0, 1]),
                "starts": np.array([0, 0, 0, 0]),
                "ends": np.array([2**62, 1, 2, 2]),
                "four": np.array([4]),
                "row": np.array([-1, 4]),
            },
        )
        return path.read_bytes()


@cache
def config() -> model_config_pb2.ModelConfig:
    """Return a configuration that says much and fits the graph."""
    message = model_config_pb2.ModelConfig(name=VICTIM, platform="onnxruntime_onnx", max_batch_size=4)
    message.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[4])
    message.output.add(name="y", data_type=model_config_pb2.TYPE_FP32, dims=[4], label_filename="labels.txt")
    message.version_policy.latest.num_versions = 1
    message.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    message.dynamic_batching.preferred_batch_size.append(2)
    message.dynamic_batching.priority_levels = 2
    message.dynamic_batching.default_priority_level = 1
    message.dynamic_batching.priority_queue_policy[1].max_queue_size = 4
    message.optimization.graph.level = 1
    message.parameters["intra_op_thread_count"].string_value = "1"
    warmup = message.model_warmup.add(name="zeros", batch_size=1, count=1)
    warmup.inputs["x"].CopyFrom(
        model_config_pb2.ModelWarmup.Input(data_type=model_config_pb2.TYPE_FP32, dims=[4], zero_data=True)
    )
    return message


@cache
def card() -> str:
    """Return a card as the export writes it, as far as the server reads it."""
    values: dict[str, Any] = {"height": 8, "width": 8, "channels": 1, "resize": None, "interpolation": "bilinear"}
    return json.dumps({"preprocessing": values})


@cache
def loads() -> list[pb.RepositoryModelLoadRequest]:
    """Return good Load calls: as it lies there, with a configuration, with files."""
    plain = pb.RepositoryModelLoadRequest(model_name=VICTIM)
    configured = pb.RepositoryModelLoadRequest(model_name=VICTIM)
    configured.parameters[
        "config"
    ].string_param = '{"max_batch_size": 2, "input": [{"name": "x", "dims": [4], "data_type": "TYPE_FP32"}]}'
    filed = pb.RepositoryModelLoadRequest(model_name="fresh")
    filed.parameters["config"].string_param = "{}"
    filed.parameters["file:1/model.onnx"].bytes_param = graph()
    return [plain, configured, filed]


def _value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

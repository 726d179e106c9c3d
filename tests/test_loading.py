"""How a version becomes a model that serves: its threads, its instances, its scheduling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from server import loading
from server.batcher import QueuePolicy
from server.config import Settings
from server.decoders import Decoders
from server.errors import ModelLoadError
from server.loading import TINY_MODEL_BYTES, Plan, plan
from server.machine import usable_cpus
from server.metrics import Metrics
from server.model import Model, Tensors
from server.session import Session
from server.tensors import Array
from server.timeouts import Timeouts
from server.wire import InferRequest
from tests import graphs

LARGE = 10 * TINY_MODEL_BYTES
Load = Callable[..., Model]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load version 1 of a model in tmp_path."""
    opened: list[Model] = []
    timeouts = Timeouts()
    decoders = Decoders(1, 1, 1)

    def loaded(name: str = "scale", config: str = "", **settings: object) -> Model:
        if config:
            (tmp_path / name / "config.pbtxt").write_text(config, encoding="utf-8")
        given = Settings(repository=tmp_path, provider="cpu", **settings)  # type: ignore[arg-type]
        opened.append(loading.load(tmp_path / name, 1, given, Metrics(CollectorRegistry()), timeouts, decoders))
        return opened[-1]

    yield loaded
    for each in opened:
        each.close()
    timeouts.close()
    decoders.close()


class Caller:
    """Waits for one answer."""

    arrived = 0.0

    def __init__(self) -> None:
        self.outcome: Tensors | BaseException | None = None
        self.thread = ""
        self.answered = threading.Event()

    def prepare(self, outcome: Tensors | BaseException) -> str:
        self.outcome = outcome
        self.thread = threading.current_thread().name
        return "OK"

    def answer(self, _: object) -> None:
        self.answered.set()


def ask(model: Model, *inputs: Array) -> list[Caller]:
    """Send requests one after the other, flush, and return their answered callers."""
    callers = [Caller() for _ in inputs]
    for caller, x in zip(callers, inputs, strict=True):
        model.submit(InferRequest(model.name, "", "", {"x": x}, (), 0.0), caller)
    model.flush()
    for caller in callers:
        assert caller.answered.wait(20)
    return callers


@pytest.mark.parametrize(
    ("cpus", "model_bytes", "threads", "instances", "expected"),
    [
        (1, LARGE, 0, 0, Plan(1, 1, 1)),
        (2, LARGE, 0, 0, Plan(1, 2, 2)),
        (8, LARGE, 0, 0, Plan(1, 8, 8)),
        (8, LARGE, 0, 1, Plan(8, 1, 8)),
        (8, LARGE, 0, 2, Plan(4, 2, 8)),
        (8, LARGE, 0, 3, Plan(2, 3, 8)),
        (2, LARGE, 0, 4, Plan(1, 4, 2)),
        (8, LARGE, 2, 0, Plan(2, 4, 2)),
        (8, LARGE, 2, 3, Plan(2, 3, 2)),
        (2, LARGE, 4, 0, Plan(4, 1, 4)),
        (8, TINY_MODEL_BYTES - 1, 0, 0, Plan(1, 8, 1)),
        (8, TINY_MODEL_BYTES - 1, 0, 1, Plan(8, 1, 8)),
        (8, TINY_MODEL_BYTES, 0, 0, Plan(1, 8, 8)),
    ],
)
def test_the_plan(cpus: int, model_bytes: int, threads: int, instances: int, expected: Plan) -> None:
    """An instance for each CPU, with all threads for a batch alone, unless the settings or the model ask otherwise."""
    assert plan(cpus, model_bytes, threads=threads, instances=instances) == expected


def test_a_tiny_graph_runs_inline(tmp_path: Path, load: Load) -> None:
    """A graph that is done in microseconds runs in the thread that flushes."""
    graphs.scale(tmp_path)
    model = load()
    assert model.inline
    (caller,) = ask(model, np.ones((1, 4), np.float32))
    assert caller.thread == threading.current_thread().name


def test_zero_microseconds_make_none_inline(tmp_path: Path, load: Load) -> None:
    """--inline-microseconds 0: every batch has a thread of its model's."""
    graphs.scale(tmp_path)
    model = load(inline_microseconds=0)
    assert not model.inline
    (caller,) = ask(model, np.ones((1, 4), np.float32))
    assert caller.thread.startswith("scale-1-")
    assert model.config.instance_group[0].count == usable_cpus()


@pytest.mark.parametrize(("rows", "inline"), [(1_000, True), (TINY_MODEL_BYTES // 16, False)])
def test_a_large_graph_does_not_run_inline(tmp_path: Path, load: Load, rows: int, inline: bool) -> None:
    """A file of a megabyte is no tiny model, however quick it is: here, a table of which one row is read."""
    graphs.save(
        tmp_path / "table" / "1" / "model.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch"])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"table": np.ones((rows, 4), np.float32)},
    )
    assert load("table").inline == inline


def test_a_slow_graph_does_not_run_inline(tmp_path: Path, load: Load) -> None:
    """A small file that keeps a CPU busy is not run by the thread that reads every call."""
    graphs.slow(tmp_path, rounds=400, width=128)
    assert not load("slow").inline


@pytest.mark.parametrize(
    "config", ["instance_group { count: 1 }", "dynamic_batching { max_queue_delay_microseconds: 2000 }"]
)
def test_who_asks_for_a_thread_gets_it(tmp_path: Path, load: Load, config: str) -> None:
    """A model with an instance_group, or whose requests wait for others, is not inline; a lone request is answered."""
    graphs.scale(tmp_path)
    model = load(config=f"max_batch_size: 4\n{config}")
    assert not model.inline
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    (caller,) = ask(model, x)
    assert isinstance(caller.outcome, dict)
    np.testing.assert_array_equal(caller.outcome["y"], 2 * x)


@pytest.mark.parametrize("inline_microseconds", [0, 10**6])
def test_answers_are_the_same_both_ways(tmp_path: Path, load: Load, inline_microseconds: int) -> None:
    """Requests of many sizes, split or not, have their own answers whichever thread runs them."""
    graphs.scale(tmp_path, factor=3)
    model = load(config="max_batch_size: 5", inline_microseconds=inline_microseconds)
    assert model.inline == bool(inline_microseconds)
    chosen = np.random.default_rng(0)
    inputs = [chosen.normal(size=(int(chosen.integers(1, 6)), 4)).astype(np.float32) for _ in range(100)]
    for x, caller in zip(inputs, ask(model, *inputs), strict=True):
        assert isinstance(caller.outcome, dict)
        np.testing.assert_array_equal(caller.outcome["y"], 3 * x)


def test_scheduling_is_read_from_the_configuration(tmp_path: Path, load: Load) -> None:
    """What dynamic_batching says is acted on; where it says nothing, the server's settings hold."""
    graphs.scale(tmp_path)
    config = """max_batch_size: 8
    instance_group { count: 3 }
    dynamic_batching {
      preferred_batch_size: [ 8, 4 ]
      max_queue_delay_microseconds: 1500
      priority_levels: 3
      default_priority_level: 2
      default_queue_policy { default_timeout_microseconds: 2000000 max_queue_size: 7 }
      priority_queue_policy { key: 3 value { timeout_action: DELAY allow_timeout_override: true } }
    }"""
    scheduling = load(config=config, max_queue_size=100, queue_timeout_seconds=5)._scheduling
    assert (scheduling.max_batch_size, scheduling.instances) == (8, 3)
    assert (scheduling.preferred_batch_sizes, scheduling.max_queue_delay_seconds) == ((4, 8), 0.0015)
    assert (scheduling.levels, scheduling.default_level) == (3, 2)
    assert scheduling.policy == QueuePolicy(7, 2.0, timeout_delays=False, allow_timeout_override=False)
    assert scheduling.policies == {3: QueuePolicy(100, 5.0, timeout_delays=True, allow_timeout_override=True)}


def test_without_a_configuration_the_settings_hold(tmp_path: Path, load: Load) -> None:
    """One level, its bound and its timeout the server's; a request may ask for a shorter timeout."""
    graphs.scale(tmp_path)
    scheduling = load(max_queue_size=9, queue_timeout_seconds=3)._scheduling
    assert (scheduling.levels, scheduling.default_level, scheduling.policies) == (1, 1, {})
    assert scheduling.policy == QueuePolicy(9, 3.0)
    assert not scheduling.waits_for_more


@pytest.mark.parametrize(
    ("batching", "text"),
    [
        ("preferred_batch_size: [ 4, 9 ]", "preferred_batch_size [4, 9]; expected 1 to max_batch_size 8"),
        ("preferred_batch_size: [ 0 ]", "preferred_batch_size [0]; expected 1 to max_batch_size 8"),
        ("priority_levels: 2 default_priority_level: 3", "priority_levels 2 and default_priority_level 3; expected"),
        ("priority_levels: 2", "priority_levels 2 and default_priority_level 0; expected"),
        ("priority_levels: 5000 default_priority_level: 1", "at most 1000 levels"),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } }",
            "priority_queue_policy for level 3; expected 1 to 2",
        ),
        ("priority_queue_policy { key: 1 value { } }", "priority_queue_policy for level 1"),
    ],
)
def test_contradicting_scheduling_is_refused_in_one_line(tmp_path: Path, load: Load, batching: str, text: str) -> None:
    """Sizes and levels that cannot be are named, with what was expected."""
    graphs.scale(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        load(config=f"max_batch_size: 8\ndynamic_batching {{ {batching} }}")
    assert str(caught.value).startswith("config.pbtxt has ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_are_run_on_every_session(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up sample runs on the session of one thread, and on that of all threads where there is one; none is counted."""
    graphs.save(
        tmp_path / "table" / "1" / "model.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1, 4])],
        {"table": np.ones((TINY_MODEL_BYTES // 16, 4), np.float32)},
    )
    ran, run_batch = [], Session.run_batch

    def recorded(session: Session, items: list[Tensors], size: int, **given: Any) -> Tensors:
        ran.append((items[0]["x"].tolist(), size, given["alone"]))
        return run_batch(session, items, size, **given)

    monkeypatch.setattr(Session, "run_batch", recorded)
    sample = 'inputs { key: "x" value { data_type: TYPE_INT64 dims: 1 zero_data: true } }'
    model = load("table", f'max_batch_size: 4 model_warmup {{ name: "two" batch_size: 2 {sample} }}')
    expected = [([[0], [0]], 2, False), ([[0], [0]], 2, True)]
    assert ran == expected[: 1 if model.session.wide is None else 2]
    assert (model.session.wide is None) == (usable_cpus() == 1)
    assert not model.statistics.executions

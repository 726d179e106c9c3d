"""How a version on disk becomes a model that serves: its session, its threads, its batches."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from server import card, config_fields, external_data, model_config, paths
from server.config_text import listed
from server.decoders import Decoders, ImageFiles
from server.errors import ModelLoadError
from server.machine import give_back_memory, usable_cpus
from server.metrics import Spent
from server.model import Model
from server.placement import placement_of
from server.providers import CPU, SessionOptions, engine_cache
from server.scheduling import scheduling_of
from server.session import Session, make_ready, open_session, run_zeros
from server.tuning import IMAGE_FILES, tuning_of
from server.warmup import warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from server.config import Settings
    from server.metrics import Metrics
    from server.pb import model_config_pb2 as pb
    from server.timeouts import Timeouts

log = logging.getLogger(__name__)
TINY_MODEL_BYTES = 10**6
"""Up to here a graph is done before a second thread has woken up."""
INLINE_BATCH_SECONDS = 0.005
"""The thread that reads every call may be held up for so long."""


@dataclass(frozen=True)
class Plan:
    """How a model runs on these CPUs."""

    threads: int
    """Of ONNX Runtime for each batch, when several run side by side."""
    instances: int
    """Batches that run side by side."""
    wide_threads: int
    """Of ONNX Runtime for a batch that has the machine to itself; as many as ``threads``: there is no second session."""


def plan(cpus: int, model_bytes: int, *, threads: int = 0, instances: int = 0) -> Plan:
    """Decide how a model runs on the CPU.

    Several batches of one thread each keep the CPUs busier than one batch on all of them, but a lone caller waits
    shorter when all work for it (MobileNetV2 on 2 cores: 254/s against 227/s, and 4.8 ms against 7.0 ms). So there are
    as many instances as CPUs, on a session of one thread, and beside it a session of all threads for a batch alone.

    Args:
        cpus: that this process may use.
        model_bytes: of the model's files.
        threads: that the settings ask for; 0: nothing.
        instances: that the model's configuration asks for; 0: nothing.
    """
    if threads:
        return Plan(threads, instances or max(1, cpus // threads), threads)
    instances = instances or cpus
    each = max(1, cpus // instances)
    return Plan(each, instances, each if model_bytes < TINY_MODEL_BYTES else cpus)


def load(
    directory: Path,
    version: int,
    settings: Settings,
    metrics: Metrics,
    timeouts: Timeouts,
    decoders: Decoders,
    config: pb.ModelConfig | None = None,
    *,
    spent: Spent | None = None,
) -> Model:
    """Open a version, warm it up and start to serve it.

    Args:
        directory: the model's.
        version: its number.
        settings: the server's.
        metrics: where its requests are counted.
        timeouts: calls back when a request waited too long.
        decoders: make pixels of files.
        config: the model's; by default what lies in its directory.
        spent: told where the time goes.

    Raises:
        ModelLoadError: it cannot be served; the message says why.
    """
    spent = Spent() if spent is None else spent
    config = model_config.read(directory) if config is None else config
    placed = placement_of(config)
    path = model_file(directory / str(version), config)
    external_data.check(path)
    if names := (*config_fields.ignored(config), *placed.ignored, *model_config.unknown(directory)):
        log.warning("model %s: %s: not acted on: %s", directory.name, model_config.FILE, listed(names))
    model_bytes = model_file_bytes(path.parent)
    asked = placed.count
    planned = plan(usable_cpus(), model_bytes, threads=settings.threads, instances=asked)
    options = SessionOptions(
        "cpu" if placed.cpu_only else settings.provider,
        planned.threads,
        settings.gpu_memory_limit_bytes,
        cuda_graphs=settings.cuda_graphs == "auto",
        provider_options=settings.provider_options,
        tuning=tuning_of(config, placed.device),
        engine_cache=engine_cache(path),
    )
    with spent.on("session"):
        session = open_session(path, options)
    full = model_config.complete(config, directory.name, session)
    on_cpu = session.provider == CPU
    if on_cpu and placed.gpu:
        log.warning("model %s: instance_group asks for KIND_GPU, the model runs on the CPU", directory.name)
    instances = planned.instances if on_cpu else asked or 1
    if on_cpu:
        with spent.on("session"):
            session = _widen(path, options, session, planned)
    with spent.on("warm_up"):
        session = make_ready(path, options, session, full.max_batch_size, instances)
    give_back_memory()
    inline_seconds = settings.inline_microseconds / 1e6
    waits = full.dynamic_batching.max_queue_delay_microseconds  # which the thread that reads every call cannot do
    if on_cpu and not asked and not waits and _is_tiny(session, model_bytes, full.max_batch_size, inline_seconds):
        instances = 0
    if not asked:
        full.instance_group[0].count = max(1, instances)
    scheduling = scheduling_of(full, instances, settings.max_queue_size, settings.queue_timeout_seconds)
    images = card.preprocessing(directory / str(version))
    full.parameters.pop(IMAGE_FILES, None)
    if not isinstance(images, str):
        full.parameters[IMAGE_FILES].string_value = ",".join(card.FORMATS)
    model = Model(
        version,
        full,
        session,
        labels(directory, full),
        scheduling,
        metrics.of(full.name, str(version)),
        timeouts,
        files=ImageFiles(images, decoders),
    )
    with spent.on("warm_up"):
        warm_up(model, directory)
    model.start()
    return model


def model_file(version: Path, config: pb.ModelConfig) -> Path:
    """Return a version's graph; where that is a directory, as external data may be kept, the model.onnx in it.

    Raises:
        ModelLoadError: there is none, or its name leads elsewhere.
    """
    name = config.default_model_filename or model_config.DEFAULT_FILENAME
    paths.check_file_name(name, "default_model_filename")
    path = version / name
    if path.is_dir():
        path /= model_config.DEFAULT_FILENAME
    if not path.is_file():
        raise ModelLoadError(f"version {version.name} has no {path.relative_to(version)}")
    return path


def model_file_bytes(directory: Path) -> int:
    """Return the bytes of a version's model files: the graph and its external data, not the card."""
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file() and each.suffix != ".json")


def labels(directory: Path, config: pb.ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return the labels of each output that has a file of them.

    Raises:
        ModelLoadError: the file cannot be read.
    """
    found = {}
    for output in config.output:
        if output.label_filename:
            paths.check_file_name(output.label_filename, "label_filename")
            path = directory / output.label_filename
            try:
                found[output.name] = tuple(path.read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise ModelLoadError(f"label_filename {output.label_filename!r} cannot be read: {error}") from error
    return found


def _widen(path: Path, options: SessionOptions, session: Session, planned: Plan) -> Session:
    """Open the second session, of all threads.

    What opening leaves behind is given back before the first run needs memory: the peak is what a start costs.
    """
    give_back_memory()
    if planned.wide_threads == planned.threads or "intra_op_thread_count" in options.tuning.session:
        return session
    wide = open_session(path, replace(options, threads=planned.wide_threads))
    give_back_memory()
    return replace(session, wide=wide.runtime)


def _is_tiny(session: Session, model_bytes: int, max_batch_size: int, inline_seconds: float) -> bool:
    """Whether a run is shorter than the way to another thread and back, and a whole batch holds nobody up.

    Measured, as the best of a few runs: anything else that the machine does only adds to them.
    """
    if model_bytes >= TINY_MODEL_BYTES or not inline_seconds:
        return False
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        if not run_zeros(session, 1, max_batch_size):
            return False
        seconds.append(time.perf_counter() - began)
    return min(seconds) <= inline_seconds and min(seconds) * max(1, max_batch_size) <= INLINE_BATCH_SECONDS

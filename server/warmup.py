"""Warm-up samples of a model's configuration: requests that are run before the model is READY."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from server import model_config, paths
from server.errors import InvalidArgumentError, ModelLoadError, ServerError
from server.tensors import NUMPY, Array, show
from server.tuning import FILE
from server.wire import from_raw

if TYPE_CHECKING:
    from pathlib import Path

    from server.model import Model, Tensors
    from server.pb import model_config_pb2 as pb

log = logging.getLogger(__name__)
FOLDER = "warmup"
"""Of the model's directory, where the samples' files lie."""
MOST_ELEMENTS = 2**26
"""Of one input."""
MOST_RUNS = 10_000
"""Of one sample."""


@dataclass(frozen=True)
class Sample:
    """One request, and how often it is run."""

    inputs: Tensors
    """With the batch in front, if the model batches."""
    count: int = 1


def warm_up(model: Model, directory: Path) -> None:
    """Run each sample of a model's configuration as often as it says, in this thread.

    Args:
        model: not started yet.
        directory: with a folder of the samples' files.

    Raises:
        ModelLoadError: a sample contradicts itself, does not fit the model, or fails; the message names it.
    """
    for given in model.config.model_warmup:
        if not given.batch_size:  # as Triton does
            log.warning("model %s: %s has batch_size 0: it is not run", model.name, _where(given.name))
            continue
        sample = _sample(given, model.config.max_batch_size, directory / FOLDER)
        try:
            for _ in range(sample.count):
                model.rehearse(sample.inputs)
        except ServerError as error:
            raise ModelLoadError(f"{_where(given.name)}: {error}") from error


def _sample(given: pb.ModelWarmup, max_batch_size: int, folder: Path) -> Sample:
    where = _where(given.name)
    most = max(1, max_batch_size)
    if given.batch_size > most:
        limit = f"1 to max_batch_size {most}" if max_batch_size else "1, the model takes no batches"
        raise ModelLoadError(f"{where} has batch_size {given.batch_size}; expected {limit}")
    if given.count > MOST_RUNS:
        raise ModelLoadError(f"{where} has count {given.count}; expected at most {MOST_RUNS}")
    size = given.batch_size if max_batch_size else 0
    inputs = {
        name: _input(f"{where}: input {name!r}", given.inputs[name], folder, size) for name in sorted(given.inputs)
    }
    return Sample(inputs, max(1, given.count))


def _input(where: str, given: Any, folder: Path, size: int) -> Array:
    """Return one input: the same element for each of a batch of ``size``; 0: as it is.

    Args:
        where: names it in messages.
        given: a `pb.ModelWarmup.Input`.
        folder: where its file lies.
        size: of the batch.
    """
    datatype, shape = model_config.datatype(given.data_type), tuple(given.dims)
    if datatype not in NUMPY:
        raise ModelLoadError(f"{where} has data_type {datatype}; expected one of {', '.join(NUMPY)}")
    if any(extent < 1 for extent in shape):
        raise ModelLoadError(f"{where} has dims {show(shape)}; a sample's extents are 1 or more")
    if math.prod(shape) * max(1, size) > MOST_ELEMENTS:
        raise ModelLoadError(
            f"{where} has dims {show(shape)} in a batch of {size}; expected at most {MOST_ELEMENTS} elements"
        )
    element = _element(where, given, datatype, shape, folder)
    return np.repeat(element[np.newaxis], size, axis=0) if size else element


def _element(where: str, given: Any, datatype: str, shape: tuple[int, ...], folder: Path) -> Array:
    match given.WhichOneof("input_data_type"):
        case "zero_data":
            return _zeros(datatype, shape)
        case "random_data":
            return _random(datatype, shape)
        case "input_data_file":
            return _from_file(where, given.input_data_file, datatype, shape, folder)
    raise ModelLoadError(f"{where} has no data; expected zero_data, random_data or input_data_file")


def _zeros(datatype: str, shape: tuple[int, ...]) -> Array:
    return np.full(shape, b"", np.object_) if datatype == "BYTES" else np.zeros(shape, NUMPY[datatype])


def _random(datatype: str, shape: tuple[int, ...]) -> Array:
    """Return any bits for whole numbers, 0 to 1 for others, and empty texts; the same ones each time."""
    dtype, source = NUMPY[datatype], np.random.default_rng(0)
    if dtype.kind == "f":
        return np.asarray(source.random(shape)).astype(dtype)
    if datatype == "BF16":  # the upper half of FP32
        bits = np.asarray(source.random(shape, np.float32)).view("<u4") >> 16
        return bits.astype("<u2").view(dtype)
    if dtype.kind == "b":
        return np.asarray(source.integers(0, 2, shape)).astype(dtype)
    if dtype.kind == "O":
        return _zeros(datatype, shape)
    limits = np.iinfo(dtype.name)
    drawn = source.integers(limits.min, limits.max, shape, dtype.newbyteorder("="), endpoint=True)
    return np.asarray(drawn).astype(dtype)


def _from_file(where: str, name: str, datatype: str, shape: tuple[int, ...], folder: Path) -> Array:
    """Return what a file holds, as the wire has it; but for BYTES it may hold more."""
    path = paths.inside(folder, name, f"{where}: input_data_file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"{where}: {FOLDER}/{name} cannot be read: {error.strerror}") from error
    needed = math.prod(shape) * NUMPY[datatype].itemsize
    try:
        return from_raw(f"{where}: {FOLDER}/{name}", datatype, shape, raw if datatype == "BYTES" else raw[:needed])
    except InvalidArgumentError as error:
        raise ModelLoadError(str(error)) from error


def _where(name: str) -> str:
    return f"{FILE}: model_warmup {name!r}"

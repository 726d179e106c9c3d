"""The comparison itself: every model measured through a server that really serves it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compare.card import Card, model_names, read_card, read_max_batch_size
from compare.images import HeldOut, InputTensor, fit, input_tensor, random_images, read_held_out
from compare.load import Load, Window, closed_loop, one_at_a_time, serialise
from compare.measure import Accuracy, Latency, Row, Throughput
from compare.metrics_page import ModelFigures, read_figures
from compare.process import NETWEIGHT
from compare.report import say
from compare.server_process import ServerProcess
from models.spec import NetweightError
from server.client import Client, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

BATCH_SIZES = (1, 8, 1, 16)
"""Accuracy: images in each request, in turn; sizes not below a model's max batch size are left out."""
DISTINCT_INPUTS = 64
MIN_LATENCY_SAMPLES = 200
WARM_UP_SECONDS = 0.5
LONGEST_WINDOW = 4
"""The latency window lasts up to this many times as long where MIN_LATENCY_SAMPLES need it."""


def compare(  # noqa: PLR0913 - each is one option of the command line
    models: Sequence[str] = (),
    *,
    repository: Path,
    address: str | None = None,
    metrics_url: str | None = None,
    heldout: str | None = None,
    callers: Sequence[int] = (32,),
    seconds: float = 2.0,
    report: Callable[[str], None] = say,
    command: Sequence[str] = NETWEIGHT,
) -> list[Row]:
    """Measure models of a repository through a server, and return one row for each in the order of their names given.

    Each model in turn: accuracy, which also warms it; latency of one caller; then throughput for each number of callers.
    Without a running server each model gets one of its own, started for it alone: resident memory that one model gained
    would otherwise hold what another had left free.

    Args:
        models: names; none: every model of the repository that has a card.
        repository: where the cards are, and what servers that are started serve.
        address: HOST:PORT of a running server; None: one is started for each model, and stopped after it.
        metrics_url: the running server's metrics page; without it load seconds and memory stay unknown.
        heldout: path with ``{model}`` in it to each model's ``heldout.npz``; where there is none, accuracy stays unknown
            and random images are sent.
        callers: numbers of callers for throughput; the last one's is the row's.
        seconds: how long each window lasts (the latency window up to four times as long, until it has 200 samples).
        report: is told what is being measured, line by line.
        command: how netweight is called to start a server.

    Raises:
        NetweightError: an unknown model, a server that does not answer or dies, held-out images of another shape.
    """
    names = list(models) or model_names(repository)
    if not names:
        raise NetweightError(f"repository {repository}: no model with a card.json; make one with netweight export")
    held_out = {name: _held_out(heldout, name) for name in names}
    for name in names:
        read_card(repository, name)
    rows = []
    for name in names:
        started = _start(name, repository, command, report) if address is None else nullcontext((address, metrics_url))
        with started as (where, page), Client(where) as client:
            figures = read_figures(page) if page else {}
            try:
                rows.append(
                    _Measurement(client, repository, figures, callers, seconds, report).row(name, held_out[name])
                )
            except ClientError as error:
                raise NetweightError(f"server at {where}: {error.code.name}: {error}") from error
    return rows


@contextmanager
def _start(
    model: str, repository: Path, command: Sequence[str], report: Callable[[str], None]
) -> Iterator[tuple[str, str | None]]:
    """Start a server of one model; give its gRPC address and its metrics page."""
    with ServerProcess(repository, models=[model], command=command) as server:
        report(f"{model}: server ready in {server.ready_seconds:.1f} s")
        yield server.address, server.metrics_url


@dataclass(frozen=True)
class _Measurement:
    """What stays the same from model to model."""

    client: Client
    repository: Path
    figures: dict[tuple[str, str], ModelFigures]
    callers: Sequence[int]
    seconds: float
    report: Callable[[str], None]

    @property
    def warm_up_seconds(self) -> float:
        """Of each window, kept apart."""
        return min(WARM_UP_SECONDS, self.seconds)

    def row(self, model: str, held_out: HeldOut | None) -> Row:
        """Measure one model."""
        metadata = self.client.metadata(model)
        version = max(metadata.versions, key=int)
        card = read_card(self.repository, model, int(version))
        tensor = input_tensor(model, metadata.inputs)
        if held_out is None:
            images, accuracy = random_images(tensor, DISTINCT_INPUTS), None
        else:
            images = fit(held_out.images, tensor, card.preprocessing)
            accuracy = self._accuracy(tensor, images, held_out.labels)
        requests = serialise(model, images[:DISTINCT_INPUTS], input_name=tensor.name, datatype=tensor.datatype)
        one = self._latency(model, requests)
        loads = [self._throughput(model, requests, callers) for callers in self.callers]
        return _row(card, self.figures.get((model, version), ModelFigures()), one, loads, accuracy)

    def _accuracy(self, tensor: InputTensor, images: NDArray[Any], labels: NDArray[np.int64]) -> Accuracy:
        """Send every image once, single ones and batches in turn, and count the labels that come back first."""
        max_batch_size = read_max_batch_size(self.repository, tensor.model)
        sizes = cycle([size for size in BATCH_SIZES if size < max_batch_size] or [1])
        correct = start = 0
        while start < len(images):
            stop = start + next(sizes)
            outputs = self.client.infer(tensor.model, {tensor.name: images[start:stop]}).outputs
            scores = outputs.get("probabilities", next(iter(outputs.values())))
            correct += int(np.sum(np.argmax(scores, axis=1) == labels[start:stop]))
            start = stop
        accuracy = Accuracy(correct, len(images))
        self.report(f"{tensor.model}: {correct} of {len(images)} held-out images right ({accuracy.top1:.1%})")
        return accuracy

    def _latency(self, model: str, requests: Sequence[bytes]) -> Load:
        window = Window(self.seconds, MIN_LATENCY_SAMPLES, LONGEST_WINDOW * self.seconds)
        load = one_at_a_time(self.client.address, requests, window, warm_up_seconds=self.warm_up_seconds)
        latency = Latency(load.latencies)
        self.report(f"{model}: 1 caller, p50 {_ms(latency.p50_seconds)}, p99 {_ms(latency.p99_seconds)}{_errors(load)}")
        return load

    def _throughput(self, model: str, requests: Sequence[bytes], callers: int) -> Load:
        window = Window(self.seconds)
        load = closed_loop(self.client.address, requests, callers, window, warm_up_seconds=self.warm_up_seconds)
        rate = Throughput(callers, load.count, load.seconds).per_second
        self.report(f"{model}: {callers} callers, {rate:,.0f} inferences/s{_errors(load)}")
        return load


def _row(card: Card, figures: ModelFigures, one: Load, loads: Sequence[Load], accuracy: Accuracy | None) -> Row:
    latency = Latency(one.latencies)
    throughputs = tuple(Throughput(load.callers, load.count, load.seconds) for load in loads)
    return Row(
        network=card.name,
        title=card.title,
        version=card.version,
        trained=card.trained,
        adaptation=card.adaptation,
        parameters=card.parameters,
        checkpoint_bytes=card.checkpoint_bytes,
        onnx_bytes=card.onnx_bytes,
        load_seconds=figures.load_seconds,
        resident_bytes=figures.resident_bytes,
        provider=figures.provider,
        latency_p50_seconds=latency.p50_seconds,
        latency_p90_seconds=latency.p90_seconds,
        latency_p99_seconds=latency.p99_seconds,
        latency_samples=one.count,
        throughput_per_second=throughputs[-1].per_second if throughputs else None,
        callers=throughputs[-1].callers if throughputs else 0,
        throughputs=throughputs,
        accuracy=accuracy.top1 if accuracy else None,
        accuracy_correct=accuracy.correct if accuracy else None,
        accuracy_images=accuracy.images if accuracy else None,
        errors=sum(load.error_count for load in (one, *loads)),
    )


def _held_out(template: str | None, model: str) -> HeldOut | None:
    if template is None:
        return None
    path = Path(template.replace("{model}", model))
    return read_held_out(path) if path.is_file() else None


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.2f} ms"


def _errors(load: Load) -> str:
    return f"; {load.error_count} requests failed, first {load.first_error}" if load.error_count else ""

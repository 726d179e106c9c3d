"""A model that is measured: what stays the same from round to round, found out before the first one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from compare.answers import predictions
from compare.card import read_max_batch_size
from compare.images import fit, input_tensor, random_images
from compare.place import max_batch_size
from compare.requests import DISTINCT_IMAGES, batches, fits
from compare.told_card import card_of
from server.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compare.card import Card
    from compare.images import HeldOut, InputTensor
    from compare.place import Place
    from compare.plan import Plan

PACE_REQUESTS = 5


@dataclass(frozen=True, eq=False)
class Subject:
    """One model under measurement.

    Attributes:
        card: what its repository says.
        version: that the server answers with.
        tensor: its input.
        requests: serialised, by batch size; 1 is among them, the largest is for Offline.
        callers: at saturation.
        predictions: the class answered first for each held-out image; None: there are none.
    """

    card: Card
    version: str
    tensor: InputTensor
    requests: dict[int, list[bytes]]
    callers: int
    predictions: NDArray[np.int64] | None

    @property
    def name(self) -> str:
        """In the repository."""
        return self.card.name

    @property
    def single(self) -> list[bytes]:
        """Requests with one sample each."""
        return self.requests[1]

    @property
    def largest_batch(self) -> int:
        """Of its requests."""
        return max(self.requests)


def prepare(place: Place, model: str, repository: Path, held_out: HeldOut | None, plan: Plan) -> Subject:
    """Ask a server about a model, have it answer the held-out images, and choose what to send it.

    Which batch sizes and how many callers depends on how long one answer takes, so that a slow model is not asked for
    minutes; it is chosen once, so that each round measures the same.
    """
    with Client(place.address) as client:
        metadata = client.metadata(model)
        version = max(metadata.versions, key=int)
        card = card_of(client, place, repository, model, int(version))
        tensor = input_tensor(model, metadata.inputs)
        told = max_batch_size(place.address, model)
        most = read_max_batch_size(repository, model) if told is None else told
        answered = None
        if held_out is None:
            images = random_images(tensor, DISTINCT_IMAGES)
        else:
            images = fit(held_out.images, tensor, card.preprocessing)
            answered = predictions(client, tensor, images, most)
        pace = _pace_seconds(client, tensor, images)
    sizes = batch_sizes(plan, most, pace)
    requests = {size: batches(tensor, images, size) for size in sizes if size == 1 or fits(images, size)}
    return Subject(card, version, tensor, requests, callers(plan, pace), answered)


def batch_sizes(plan: Plan, max_batch_size: int, pace_seconds: float) -> list[int]:
    """Return 1, and those of the plan that the model takes and answers soon enough."""
    most = min(max_batch_size, plan.wait_seconds / pace_seconds)
    return [1, *(size for size in plan.batch_sizes if size <= most)]


def callers(plan: Plan, pace_seconds: float) -> int:
    """Return how many callers saturate a model that answers one request in so many seconds: a power of two or the plan's.

    In steps, since another number of callers is another figure: two comparisons would not be alike by chance.
    """
    wanted = 1 << math.floor(math.log2(max(1.0, plan.wait_seconds / pace_seconds)))
    return min(plan.callers, max(plan.fewest_callers, wanted))


def _pace_seconds(client: Client, tensor: InputTensor, images: NDArray[Any]) -> float:
    """Return how long one answer takes, roughly; the first request, to a cold model, does not count."""
    seconds = []
    for _ in range(1 + PACE_REQUESTS):
        began = time.perf_counter()
        client.infer(tensor.model, {tensor.name: images[:1]})
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])

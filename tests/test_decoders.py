"""The threads that decode: order, bounds, and what becomes of requests that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from server.card import Preprocessing
from server.decoders import Decoders, Decoding, Tensors
from server.errors import InvalidArgumentError, UnavailableError
from tests.pictures import DIGITS, encoded, grey_png, scene

HOW = Preprocessing(**DIGITS)  # type: ignore[arg-type]
SOUND = encoded(scene(40, 30), "PNG")
MOST_PIXELS = 10**6


class Owner:
    """A model: notes what it is told."""

    def __init__(self) -> None:
        self.flushed = threading.Semaphore(0)
        self.queued: list[Tensors] = []
        self.refused: list[Exception] = []

    def flush(self) -> None:
        self.flushed.release()


class Held(bytes):
    """A file that is not decoded before it is let go; decoding asks first how it begins."""

    gate: threading.Event
    begun: threading.Event

    def startswith(self, *arguments: Any) -> bool:
        self.begun.set()
        assert self.gate.wait(30)
        return super().startswith(*arguments)


def held() -> Held:
    file = Held(SOUND)
    file.gate, file.begun = threading.Event(), threading.Event()
    return file


def decoding(owner: Owner, *files: bytes) -> Decoding:
    inputs = {"image": np.array([*files, None], np.object_)[:-1], "scale": np.ones(len(files), np.float32)}
    return Decoding(owner, "model m version 1", inputs, ("image",), HOW, owner.queued.append, owner.refused.append)


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    """One thread; three requests may wait."""
    made = Decoders(1, 3, MOST_PIXELS)
    yield made
    made.close()


@pytest.fixture
def owner() -> Owner:
    return Owner()


def finished(owner: Owner, count: int = 1) -> None:
    for _ in range(count):
        assert owner.flushed.acquire(timeout=30)


def test_files_become_pixels(decoders: Decoders, owner: Owner) -> None:
    """A request is queued with pixels in place of its files, in their order; other inputs stay."""
    decoders.submit(decoding(owner, SOUND, encoded(scene(40, 30), "JPEG", quality=95), SOUND))
    finished(owner)
    (inputs,) = owner.queued
    assert inputs["image"].shape == (3, 32, 32, 1)
    assert inputs["image"].dtype == np.uint8
    np.testing.assert_array_equal(inputs["image"][0], inputs["image"][2])
    assert (inputs["image"][0] != inputs["image"][1]).any()
    np.testing.assert_array_equal(inputs["scale"], np.ones(3))
    decoders.finish(owner)
    assert decoders.unfinished(owner) == 0


def test_a_bad_file_refuses_its_request(decoders: Decoders, owner: Owner) -> None:
    """The message says which image of which input; the thread goes on."""
    decoders.submit(decoding(owner, SOUND, SOUND[:50], SOUND))
    decoders.submit(decoding(owner, SOUND))
    finished(owner, 2)
    (error,) = owner.refused
    assert isinstance(error, InvalidArgumentError)
    assert str(error).startswith("model m version 1: input 'image': image 1 cannot be decoded")
    assert len(owner.queued) == 1


def test_what_the_queue_refuses(decoders: Decoders, owner: Owner) -> None:
    """A request that finds the model's queue full when it is decoded is answered with that."""

    def full(_: Tensors) -> None:
        raise UnavailableError("full")

    refused = decoding(owner, SOUND)
    refused.queue = full
    decoders.submit(refused)
    finished(owner)
    assert [str(each) for each in owner.refused] == ["full"]
    assert not refused.queued


def test_how_many_wait_is_bounded(decoders: Decoders, owner: Owner) -> None:
    """Beyond the bound a request is refused; one that is withdrawn makes room at once, and is never called."""
    first = held()
    decoders.submit(decoding(owner, first))
    assert first.begun.wait(30)
    waiting = [decoding(owner, SOUND) for _ in range(3)]
    for each in waiting:
        decoders.submit(each)
    with pytest.raises(UnavailableError, match="model m version 1: 3 requests wait for their images"):
        decoders.submit(decoding(owner, SOUND))
    assert decoders.unfinished(owner) == 4
    assert decoders.withdraw(waiting[1])
    assert not decoders.withdraw(waiting[1])
    assert waiting[1].inputs == {}
    assert decoders.unfinished(owner) == 3
    decoders.submit(decoding(owner, SOUND))
    first.gate.set()
    finished(owner, 4)
    assert len(owner.queued) == 4
    assert not owner.refused


def test_a_withdrawn_request_is_decoded_no_further(decoders: Decoders, owner: Owner) -> None:
    """What is withdrawn while one of its files is decoded leaves the others, and nobody is called."""
    first, second = held(), held()
    request = decoding(owner, first, second)
    decoders.submit(request)
    assert first.begun.wait(30)
    assert decoders.withdraw(request)
    first.gate.set()
    finished(owner)
    assert not second.begun.is_set()
    assert (owner.queued, owner.refused) == ([], [])


def test_a_finished_request_is_not_withdrawn(decoders: Decoders, owner: Owner) -> None:
    """Once a request was queued or refused it cannot be withdrawn here."""
    for file in (SOUND, b"text"):
        request = decoding(owner, file)
        decoders.submit(request)
        finished(owner)
        assert not decoders.withdraw(request)
        assert request.queued == (file is SOUND)


def test_a_model_waits_for_its_own(decoders: Decoders, owner: Owner) -> None:
    """Waiting for a model's requests ends with the last of them, whatever others have."""
    first, other = held(), Owner()
    decoders.submit(decoding(owner, SOUND))
    decoders.submit(decoding(other, first))
    decoders.finish(owner)
    assert len(owner.queued) == 1
    assert decoders.unfinished(other) == 1
    first.gate.set()
    decoders.finish(other)


def test_closing_decodes_what_waits(owner: Owner) -> None:
    """What waits is finished, what comes later refused."""
    decoders = Decoders(2, 9, MOST_PIXELS)
    for _ in range(5):
        decoders.submit(decoding(owner, SOUND))
    decoders.close()
    assert len(owner.queued) == 5
    with pytest.raises(UnavailableError):
        decoders.submit(decoding(owner, SOUND))


def test_large_images_take_turns(owner: Owner) -> None:
    """No more pixels are decoded at once than one image may have, and a large image is not overtaken for ever."""
    decoders = Decoders(4, 99, MOST_PIXELS)
    at_once: list[int] = []
    lock = threading.Lock()
    room = decoders.room

    def watched(pixels: int) -> Any:
        with lock:
            at_once.append(decoders._pixels)
        return room(pixels)

    decoders.room = watched  # type: ignore[method-assign]
    files = [grey_png(1000, 1000), grey_png(500, 500), grey_png(900, 900)]
    for each in range(30):
        decoders.submit(decoding(owner, files[each % 3]))
    decoders.close()
    assert len(owner.queued) == 30
    assert max(at_once) <= MOST_PIXELS
    assert decoders._pixels == 0

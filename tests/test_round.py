"""One round, its windows and its server, and how rounds become a card; a fake server of known service time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard

from compare import assemble, energy, server_scenario
from compare.card import Card
from compare.cold_start import Start, cut, first_answer_seconds
from compare.cost import Accuracy, Disk
from compare.disk import compressed_bytes
from compare.held_memory import Held
from compare.images import InputTensor
from compare.metrics_page import ModelFigures, ProcessFigures
from compare.place import Place, Places, index, unload
from compare.poisson import Arrivals
from compare.requests import batches, fits
from compare.round import Conditions, Measured, measure, order
from compare.subject import Subject, batch_sizes, callers
from compare.windows import Windows
from compare.work import request_sizes
from models.spec import NetweightError
from server.client import ClientError
from server.pb import inference_pb2
from tests.known_server import known_server
from tests.plans import SHORT
from tests.published import card_values, publish

SERVICE_SECONDS = 0.02
SUBJECT = Subject(
    card=Card.from_dict(card_values("tiny")),
    version="1",
    tensor=InputTensor("tiny", "image", "UINT8", (8, 8, 1)),
    requests={1: [b"one"], 4: [b"four"]},
    callers=4,
    predictions=None,
)
CONDITIONS = Conditions(replace(SHORT, seconds=0.4, offline_seconds=0.4, curve_seconds=0.2), 2.0, 7, energy.meter())


@pytest.fixture(scope="module")
def measured() -> Measured:
    """Measure a server that takes 20 ms for each request, several at once."""
    with known_server(lambda _: SERVICE_SECONDS) as server:
        return measure(Place(server.address, None), SUBJECT, CONDITIONS, [])


def test_latency_is_the_service_time(measured: Measured) -> None:
    """No latency is shorter than the service time; the median is not many times as long."""
    assert min(measured.latencies) >= SERVICE_SECONDS
    for p50 in (measured.batches[1][0], measured.batches[4][0]):
        assert SERVICE_SECONDS <= p50 < 4 * SERVICE_SECONDS
    assert SERVICE_SECONDS <= measured.p50_seconds <= measured.p99_seconds


def test_throughput_is_callers_over_service_time(measured: Measured) -> None:
    """Four callers reach at most 200/s, and not much less; a batch of four counts as four inferences."""
    most = SUBJECT.callers / SERVICE_SECONDS
    assert 0.25 * most < measured.per_second <= 1.001 * most
    most = 4 / SERVICE_SECONDS
    assert 0.25 * most < measured.batches[4][1] <= 1.001 * most
    most = measured.offline_callers * 4 / SERVICE_SECONDS
    assert 0.2 * most < measured.offline_per_second <= 1.001 * most


def test_search_keeps_its_books(measured: Measured) -> None:
    """The search begins at 0.7 of saturation, its seeds are those of the round, and the highest rate is one that met."""
    first = measured.probes[0]
    assert first.rate == pytest.approx(0.7 * measured.per_second)
    assert [probe.seed for probe in measured.probes] == [7 + number for number in range(len(measured.probes))]
    assert measured.highest_per_second in [0.0, *(probe.rate for probe in measured.probes if probe.met)]


def test_what_a_foreign_server_does_not_tell(measured: Measured) -> None:
    """Without a process of ours and a metrics page nothing is made up."""
    assert (measured.start, measured.memory, measured.gpu_memory) == (None, None, None)
    assert (measured.single.cpu_seconds, measured.saturated.joules) == (None, None)
    assert measured.figures == ModelFigures()


def test_later_rounds_begin_where_the_last_one_ended(measured: Measured) -> None:
    """The first try of the second round is the first round's result, with seeds of its own."""
    earlier = replace(measured, highest_per_second=30.0)
    with known_server(lambda _: SERVICE_SECONDS) as server:
        later = measure(Place(server.address, None), SUBJECT, CONDITIONS, [earlier])
    assert (later.probes[0].rate, later.probes[0].seed, later.probes[0].round) == (30.0, 1007, 1)


def test_a_server_that_answers_nothing(measured: Measured) -> None:
    """A window without a single answer fails, with the server's own reason."""
    import grpc

    with known_server(status=lambda _: grpc.StatusCode.INTERNAL) as server:
        windows = Windows(Place(server.address, None), SUBJECT, SHORT, energy.meter())
        with pytest.raises(NetweightError, match=r"tiny: expected replies, got none, first INTERNAL: request \d"):
            windows.one_caller()
        with pytest.raises(NetweightError, match="INTERNAL"):
            first_answer_seconds(server.address, b"one")
    assert windows.errors > 0


def test_order_turns_around() -> None:
    """Over two rounds each model has the same mean position, so that an even drift hits all alike."""
    models = ["a", "b", "c"]
    rounds = [order(models, number) for number in range(4)]
    assert rounds == [models, models[::-1]] * 2
    assert {sum(each.index(model) for each in rounds[:2]) for model in models} == {2}


def test_a_start_is_cut_without_a_gap() -> None:
    """What the server's own parts leave of the time until it was ready is told as other; a page without them as None."""
    process = ProcessFigures({"process": 0.25, "imports": 0.5, "other": 0.0625})
    model = ModelFigures(session_seconds=0.25, warm_up_seconds=0.125)
    assert cut(1.5, 0.5, process, model) == Start(0.25, 0.5, 0.25, 0.125, 0.375, 0.5, 2.0)
    assert cut(1.5, 0.5, ProcessFigures(), model) is None
    assert cut(1.5, 0.5, process, ModelFigures(session_seconds=0.25)) is None


@pytest.mark.parametrize(
    ("max_batch_size", "pace_seconds", "sizes"),
    [(32, 0.001, [1, 2, 4]), (64, 0.001, [1, 2, 4, 64]), (0, 0.001, [1]), (32, 0.3, [1, 2]), (32, 5.0, [1])],
)
def test_batch_sizes(max_batch_size: int, pace_seconds: float, sizes: list[int]) -> None:
    """Batches that the model does not take, or that would take longer than a second, are left out; 1 never is."""
    assert batch_sizes(SHORT, max_batch_size, pace_seconds) == sizes


@pytest.mark.parametrize(("pace_seconds", "count"), [(0.001, 32), (0.03, 32), (0.1, 8), (0.5, 4), (30.0, 4)])
def test_callers(pace_seconds: float, count: int) -> None:
    """A slow model has fewer callers, in powers of two; callers that the user named are kept for every model."""
    plan = replace(SHORT, callers=32, fewest_callers=4)
    assert callers(plan, pace_seconds) == count
    assert callers(replace(plan, callers=7, fewest_callers=7), pace_seconds) == 7


def test_requests_hold_whole_batches() -> None:
    """Each request has so many samples; images are used again where there are too few, and too large ones are known."""
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
    requests = batches(SUBJECT.tensor, images, 32)
    assert len(requests) == 2
    request = inference_pb2.ModelInferRequest.FromString(requests[1])
    assert (request.model_name, list(request.inputs[0].shape)) == ("tiny", [32, 8, 8, 1])
    sent = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(32, 8, 8, 1)
    assert np.array_equal(sent, images[np.arange(32, 64) % 3])
    large = np.zeros((1, 2**20), np.uint8)
    assert (fits(large, 60), fits(large, 61)) == (True, False)


def test_few_request_sizes_stand_for_all() -> None:
    """Of sizes of one power of two the largest counts; of many the smallest and the very largest stay."""
    assert request_sizes([1057, 1040, 3111, 150_600]) == [1057, 3111, 150_600]
    assert request_sizes([10, 100, 1000, 10_000, 100_000]) == [10, 100, 1000, 100_000]


def test_compressed_bytes(tmp_path: Path) -> None:
    """Graph and weights are compressed each by itself, the card is not shipped; a file that changed is read again."""
    for name, content in (("model.onnx", b"a" * 10_000), ("weights.bin", bytes(range(256)) * 50), ("card.json", b"{}")):
        (tmp_path / name).write_bytes(content)
    files = [(tmp_path / name).read_bytes() for name in ("model.onnx", "weights.bin")]
    expected = sum(len(zstandard.ZstdCompressor(level=3).compress(each)) for each in files)
    assert compressed_bytes(tmp_path) == pytest.approx(expected, abs=64)
    (tmp_path / "model.onnx").write_bytes(np.random.default_rng(0).bytes(10_000))
    assert compressed_bytes(tmp_path) > 10_000


def test_a_try_that_is_not_whole_does_not_meet_the_bound() -> None:
    """A p99 within the bound, every request answered: met. One unanswered: the p99 is unknown, and it is not met."""
    due = np.linspace(0.0, 1.0, 100)
    lateness = np.full(100, 0.001)
    fast = Arrivals(100.0, due, np.full(100, 0.05), lateness, {}, None)
    told = server_scenario.probe(fast, 0.1, 2, 11)
    assert (told.met, told.p99_seconds, told.sent, told.answered, told.round, told.seed) == (
        True,
        0.05,
        100,
        100,
        2,
        11,
    )
    assert not server_scenario.probe(fast, 0.04, 2, 11).met
    latencies = np.full(100, 0.05)
    latencies[:2] = np.inf
    lost = server_scenario.probe(replace(fast, latencies=latencies, errors={"UNAVAILABLE": 2}), 0.1, 0, 0)
    assert (lost.met, lost.p99_seconds, lost.answered) == (False, None, 98)


def test_where_the_search_begins() -> None:
    """Below saturation; where a lone caller waits longer than the bound, with a few requests that show it."""
    assert server_scenario.begin_with(100.0, 0.01, 0.1, 2.0) == pytest.approx(70.0)
    assert server_scenario.begin_with(100.0, 0.2, 0.1, 2.0) == pytest.approx(5.0)
    assert server_scenario.begin_with(4.0, 0.2, 0.1, 2.0) == pytest.approx(2.8)


def test_rounds_become_a_card(measured: Measured) -> None:
    """What only some rounds know is kept of those; errors add up; a million inferences cost by the median rate."""
    start = Start(0.1, 0.2, 0.3, 0.1, 0.1, 0.2, 1.0)
    first = replace(measured, start=start, memory=Held(100, 200, None, -5), per_second=100.0, errors=2)
    second = replace(measured, memory=Held(300, 400, None, 7), per_second=300.0, errors=1)
    accuracy = Accuracy(9, 10)
    card = assemble.card(
        SUBJECT, [first, second], disk=Disk(1100), accuracy=accuracy, bound_seconds=2.0, hourly_price=7.2
    )
    assert card.cold_start is not None
    assert card.cold_start.total.rounds == (1.0,)
    assert card.memory is not None
    assert (card.memory.added_bytes.rounds, card.memory.peak_bytes) == ((100, 300), None)
    assert card.memory.given_back_bytes is not None
    assert list(card.memory.given_back_bytes.rounds) == [-5, 7]
    assert (card.errors, card.accuracy) == (3, accuracy)
    assert card.price_per_million == pytest.approx(10.0)
    assert card.gpu_memory is None
    assert assemble.price_per_million(None, 5.0) is None


def test_unloading_a_model(tmp_path: Path) -> None:
    """A server of our own loads its one model and lets it be unloaded; no server is told in one line."""
    publish(tmp_path, "tiny")
    with Places(tmp_path).serve("tiny") as place:
        assert index(place.address) == [("tiny", "1", "READY")]
        unload(place.address, "tiny")
        assert [state for _, _, state in index(place.address)] == ["UNAVAILABLE"]
    with pytest.raises(ClientError, match=r"server at 127.0.0.1:1: UNAVAILABLE"):
        unload("127.0.0.1:1", "tiny")

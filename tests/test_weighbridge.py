"""Cost cards: what they say, and how they are watched, over a real gRPC server before cards that the test gives."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

import netweight
from server import card_table, weighbridge
from server.card_facts import Facts, Layer, Parity, Published
from server.card_watches import SNAPSHOT_SECONDS, CardWatches, Snapshots, Watch
from server.client import Client, ClientError
from server.errors import NotFoundError, ServerError
from server.infer_call import INTERNAL
from server.metrics import Load, Metrics, Spent
from server.pb import netweight_pb2 as pb
from server.repository import Repository, VersionStatus
from server.statistics import BATCHES, Histogram, Stamps
from tests.waiting import eventually

WATCH = "/netweight.v1.Weighbridge/WatchCards"
FACTS = Facts(
    title="A toy",
    variant="int8",
    reference="toy",
    trained=False,
    parameters=10,
    multiply_accumulates=2_000_000,
    layers=(Layer("a", "Conv", 10, 40, 2_000_000),),
    heldout_accuracy=0.0,
    heldout_images=360,
    published=(Published(70.5, None, "ImageNet-1K", "somebody"),),
    parity=Parity(0.3, None, within_tolerance=True),
)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([1] * 10, 0.5, 0.5),  # within the first bucket, which begins at 0
        ([1] * 10, 1.0, 1.0),
        ([3, 3, 3, 3], 0.25, 2.5),  # within 2 to 4
        ([1, 3], 0.5, 1.0),
        ([1, 3], 0.75, 3.0),
        ([100, 1000], 0.99, 128.0),  # beyond the last bound: that bound
        ([1] * 98 + [8, 8], 0.99, 6.0),
    ],
)
def test_quantiles_are_prometheus(values: list[float], share: float, expected: float | None) -> None:
    """By linear interpolation within the bucket of that rank, as histogram_quantile does it."""
    histogram = Histogram(BATCHES)
    for each in values:
        histogram.observe(each)
    assert histogram.quantile(share) == expected


class Shelf:
    """A repository and metrics, without models."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.repository = Repository(self.metrics, lambda _: None)

    def put(self, name: str, state: Any = "READY", version: str = "1", reason: str = "") -> None:
        self.repository.set(VersionStatus(name, version, state, reason))

    def cards(self, name: str = "") -> list[pb.Card]:
        return weighbridge.cards(self.repository, self.metrics, name)


@pytest.fixture
def shelf() -> Shelf:
    """Nothing is served yet."""
    return Shelf()


def test_a_card_says_what_is_known(shelf: Shelf) -> None:
    """What the card.json tells, what loading took, and what became of requests; accuracy 0 is known, not absent."""
    shelf.put("toy.int8")
    load = Load(2.5, Spent(2.0, 0.25), 5_000_000, 900, "CPUExecutionProvider", fell_back=True, facts=FACTS)
    shelf.metrics.loaded("toy.int8", "1", load)
    statistics = shelf.metrics.of("toy.int8", "1")
    statistics.answered(Stamps(arrived=0, queued=0.001, started=0.003, assembled=0.003, ran=0.007, answered=0.008))
    statistics.failed("UNAVAILABLE", 0.008)
    statistics.executed(4, 0, 1, 2, 3)
    (card,) = shelf.cards("toy.int8")
    assert (card.model, card.version, card.state) == ("toy.int8", "1", "READY")
    assert (card.facts.title, card.facts.variant, card.facts.reference) == ("A toy", "int8", "toy")
    assert card.facts.HasField("heldout_accuracy")
    assert card.facts.HasField("trained")
    assert not card.facts.HasField("onnx_bytes")
    assert card.facts.published == [pb.PublishedAccuracy(top1_percent=70.5, data="ImageNet-1K", source="somebody")]
    assert card.facts.parity == pb.Parity(max_absolute=0.3, within_tolerance=True)
    assert [(each.name, each.parameters) for each in card.facts.layers] == [("a", 10)]
    assert (card.load.seconds, card.load.session_seconds, card.load.warm_up_seconds) == (2.5, 2.0, 0.25)
    assert (card.load.file_bytes, card.load.resident_bytes, card.load.fell_back) == (900, 5_000_000, True)
    assert not card.load.HasField("gpu_bytes")
    traffic = card.traffic
    assert dict(traffic.requests) == {"OK": 1, "UNAVAILABLE": 1}
    assert (traffic.inferences, traffic.executions, traffic.mean_batch_size) == (4, 1, 4)
    assert traffic.latency.sum_seconds == pytest.approx(0.016)
    assert 0.005 < traffic.latency.p50_seconds <= traffic.latency.p99_seconds <= 0.01
    seconds = [traffic.input_seconds, traffic.queue_seconds, traffic.compute_seconds, traffic.output_seconds]
    assert seconds == pytest.approx([0.001, 0.002, 0.004, 0.001])
    assert abs(traffic.last_inference - time.time()) < 60


def test_a_card_says_nothing_of_what_is_not_known(shelf: Shelf) -> None:
    """A version that is not in memory has a state and a reason, and neither facts nor load; nothing is 0 instead."""
    shelf.put("toy", "UNAVAILABLE", reason="broken")
    (card,) = shelf.cards()
    assert (card.state, card.reason) == ("UNAVAILABLE", "broken")
    assert not card.HasField("facts")
    assert not card.HasField("load")
    assert not card.traffic.HasField("latency")
    assert not card.traffic.HasField("mean_batch_size")
    assert not card.traffic.HasField("last_inference")


def test_an_unloaded_version_keeps_its_counts(shelf: Shelf) -> None:
    """What loading took goes with the version; what became of its requests stays."""
    shelf.put("toy")
    shelf.metrics.loaded("toy", "1", Load(1, Spent(), 1, 1, "CPUExecutionProvider", fell_back=False, facts=FACTS))
    shelf.metrics.of("toy", "1").executed(1, 0, 1, 2, 3)
    shelf.metrics.unloaded("toy", "1")
    shelf.put("toy", "UNAVAILABLE", reason="unloaded")
    (card,) = shelf.cards()
    assert not card.HasField("load")
    assert card.traffic.inferences == 1


@pytest.mark.parametrize("asked", [False, True])
def test_what_waits_is_not_known_while_a_version_drains(shelf: Shelf, asked: bool) -> None:
    """Its last requests may wait still; once it is unloaded none does."""
    load = Load(1, Spent(), 1, 1, "CPUExecutionProvider", fell_back=False)
    shelf.metrics.loaded("toy", "1", load)
    if asked:
        shelf.metrics.of("toy", "1").executed(1, 0, 1, 2, 3)
    shelf.put("toy", "UNLOADING")
    (card,) = shelf.cards()
    assert not card.traffic.HasField("pending")
    shelf.metrics.unloaded("toy", "1")
    shelf.put("toy", "UNAVAILABLE", reason="unloaded")
    (card,) = shelf.cards()
    assert (card.traffic.HasField("pending"), card.traffic.pending) == (True, 0)


def test_a_model_is_asked_for_by_name(shelf: Shelf) -> None:
    """All of its versions and no other's; an unknown one is an error."""
    shelf.put("a")
    shelf.put("a", version="2")
    shelf.put("b")
    assert [(each.model, each.version) for each in shelf.cards()] == [("a", "1"), ("a", "2"), ("b", "1")]
    assert [each.version for each in shelf.cards("a")] == ["1", "2"]
    with pytest.raises(NotFoundError, match="'nosuch' is unknown"):
        shelf.cards("nosuch")


class Cards:
    """Has the cards that a test puts there."""

    def __init__(self) -> None:
        self.cards: dict[str, pb.Card] = {}
        self.failure: Exception | None = None
        self.asked: queue.SimpleQueue[float] = queue.SimpleQueue()

    def ListCards(self, request: pb.ListCardsRequest) -> pb.ListCardsResponse:  # noqa: N802  the protocol's name
        self.asked.put(time.monotonic())
        if self.failure:
            raise self.failure
        if request.model and request.model not in self.cards:
            raise NotFoundError("unknown")
        return pb.ListCardsResponse(cards=[each for each in self.cards.values() if request.model in ("", each.model)])

    def put(self, model: str, pending: int = 0, reason: str = "") -> None:
        card = pb.Card(model=model, version="1", reason=reason, traffic=pb.Traffic(pending=pending))
        self.cards = {**self.cards, model: card}


@pytest.fixture
def service() -> Cards:
    """One card."""
    made = Cards()
    made.put("a")
    return made


@pytest.fixture
def started(service: Cards) -> Iterator[tuple[CardWatches, str]]:
    """A server that takes two streams, and its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    watches = CardWatches(service, 2)
    watches.enable(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield watches, f"127.0.0.1:{port}"
    watches.end()
    server.stop(5).wait()


@pytest.fixture
def client(started: tuple[CardWatches, str]) -> Iterator[Client]:
    """Someone who watches."""
    with Client(started[1]) as made:
        yield made


def told(message: pb.WatchCardsResponse) -> dict[str, int]:
    return {each.model: each.traffic.pending for each in message.cards}


def test_a_watch_tells_what_has_changed(service: Cards, client: Client) -> None:
    """First everything; then only what is new or other, and what is gone; nothing while nothing changes."""
    service.put("b")
    watch = client.watch_cards(interval_ms=100)
    assert told(next(watch)) == {"a": 0, "b": 0}
    asked = service.asked.qsize()
    assert eventually(lambda: service.asked.qsize() >= asked + 3)  # looked, and there was nothing to tell
    service.put("b", pending=3)
    assert told(next(watch)) == {"b": 3}
    service.put("c")
    assert told(next(watch)) == {"c": 0}
    del service.cards["a"]
    message = next(watch)
    assert told(message) == {}
    assert [(each.model, each.version) for each in message.forgotten] == [("a", "1")]


def test_no_cards_are_a_message_too(service: Cards, client: Client) -> None:
    """Who watches an empty server is told so at once, and of what comes then."""
    service.cards = {}
    watch = client.watch_cards(interval_ms=100)
    assert told(next(watch)) == {}
    service.put("a")
    assert told(next(watch)) == {"a": 0}


def test_one_model_is_watched_until_it_is_forgotten_and_after(service: Cards, client: Client) -> None:
    """A model must be known when the watch begins; later it may go, and come back."""
    service.put("b")
    watch = client.watch_cards("b", interval_ms=100)
    assert told(next(watch)) == {"b": 0}
    del service.cards["b"]
    assert [each.model for each in next(watch).forgotten] == ["b"]
    service.put("b", pending=1)
    assert told(next(watch)) == {"b": 1}
    with pytest.raises(ClientError, match="unknown") as refused:
        next(client.watch_cards("nosuch"))
    assert refused.value.code == grpc.StatusCode.NOT_FOUND


def test_many_who_watch_cost_the_cards_once(service: Cards) -> None:
    """All who look within 100 ms share what was made for the first; each of them is told every change."""
    now = [0.0]
    nobody: Any = None
    snapshots = Snapshots(service, lambda: now[0])
    watches = [Watch(snapshots, nobody) for _ in range(50)]
    request = pb.WatchCardsRequest(interval_ms=100).SerializeToString()
    for turn in range(3):
        service.put("a", pending=turn)
        for each in watches:
            assert told(pb.WatchCardsResponse.FromString(each.message(request) or b"")) == {"a": turn}
        service.put("a", pending=100)  # too soon for anybody to see
        assert [each.message(request) for each in watches] == [None] * 50
        assert service.asked.qsize() == turn + 1
        now[0] += SNAPSHOT_SECONDS


def test_cards_that_take_long_are_shared_too(service: Cards) -> None:
    """Who waited while they were made takes them, rather than have them made again; so does every thread."""
    snapshots = Snapshots(service, lambda: 10.0 * service.asked.qsize())  # making them takes 10 s
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: snapshots.cards(""), range(8)))
    assert all(each is found[0] for each in found)
    assert service.asked.qsize() == 1


def test_cards_are_shared_by_those_who_ask_for_the_same(service: Cards) -> None:
    """One model's are not all of them; that a model is unknown is found out anew each time."""
    service.put("b")
    snapshots = Snapshots(service, lambda: 0.0)
    assert [len(snapshots.cards(name)) for name in ("", "b", "", "b")] == [2, 1, 2, 1]
    assert service.asked.qsize() == 2
    for _ in range(2):
        with pytest.raises(NotFoundError):
            snapshots.cards("c")
    service.put("c")
    assert list(snapshots.cards("c")) == [("c", "1")]


def test_messages_are_an_interval_apart(service: Cards, client: Client) -> None:
    """However often something changes, the cards are looked at once in an interval."""
    watch = client.watch_cards(interval_ms=200)
    for pending in range(4):
        service.put("a", pending=pending)
        next(watch)
    looks = [service.asked.get() for _ in range(4)]
    assert all(later - earlier >= 0.19 for earlier, later in pairwise(looks))


@pytest.mark.parametrize("interval", [1, 99, 60_001])
def test_an_interval_out_of_its_range(client: Client, interval: int) -> None:
    """It is refused with the range."""
    with pytest.raises(ClientError, match=f"interval_ms is {interval}; expected 100 to 60000") as refused:
        next(client.watch_cards(interval_ms=interval))
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_streams_have_a_bound(client: Client) -> None:
    """One too many is refused with the setting's name; when one ends there is room again."""
    watches = [client.watch_cards(interval_ms=100) for _ in range(2)]
    for each in watches:
        next(each)
    with pytest.raises(ClientError, match=r"2 streams of cards are open, the limit \(--max-streams\)") as refused:
        next(client.watch_cards())
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    watches.pop().close()  # type: ignore[attr-defined]  # a generator

    def taken() -> bool:
        try:
            return bool(next(client.watch_cards()).cards)
        except ClientError:
            return False

    assert eventually(taken)


def test_a_server_that_stops_ends_its_watches(started: tuple[CardWatches, str], client: Client) -> None:
    """At once, not after the interval; who asks then is told the same."""
    watch = client.watch_cards(interval_ms=60_000)
    next(watch)
    began = time.monotonic()
    started[0].end()
    with pytest.raises(ClientError, match="the server is stopping") as ended:
        next(watch)
    assert time.monotonic() - began < 30
    assert ended.value.code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ClientError, match="the server is stopping"):
        next(client.watch_cards())


def test_a_server_that_stops_cuts_off_who_does_not_read(service: Cards, started: tuple[CardWatches, str]) -> None:
    """Messages that their caller leaves on the way do not hold up the end."""
    with grpc.insecure_channel(started[1], [("grpc.http2.lookahead_bytes", 2**16)]) as channel:
        call = channel.unary_stream(WATCH, pb.WatchCardsRequest.SerializeToString, pb.WatchCardsResponse.FromString)
        stream: Any = call(pb.WatchCardsRequest(interval_ms=100), timeout=20)
        next(stream)
        (watch,) = started[0]._open
        for letter in "abcdefgh":  # until there is no more room on the way
            service.put("a", reason=letter * 2**20)
            time.sleep(0.2)
        assert not watch._idle.is_set()
        started[0].end()
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() == grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (RuntimeError("a secret"), grpc.StatusCode.INTERNAL, INTERNAL),
        (ServerError("the engine is gone"), grpc.StatusCode.INTERNAL, "the engine is gone"),
    ],
)
def test_a_failure_ends_a_watch(
    service: Cards, client: Client, failure: Exception, code: grpc.StatusCode, text: str
) -> None:
    """A defect of ours is told without details; any other failure as it is."""
    watch = client.watch_cards(interval_ms=100)
    next(watch)
    service.failure = failure
    with pytest.raises(ClientError) as ended:
        next(watch)
    assert (ended.value.code, str(ended.value)) == (code, text)


def test_a_message_that_is_none(started: tuple[CardWatches, str]) -> None:
    """Bytes that are no request are an invalid argument."""
    with grpc.insecure_channel(started[1]) as channel, pytest.raises(grpc.RpcError) as refused:
        list(channel.unary_stream(WATCH, bytes, None)(b"\xff\xff", timeout=20))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_who_does_not_read_holds_up_only_himself(service: Cards, started: tuple[CardWatches, str]) -> None:
    """Nothing is kept for a slow caller: his thread waits, and when he reads on he skips to the newest cards soon."""
    long = "x" * 2**20
    with grpc.insecure_channel(started[1], [("grpc.http2.lookahead_bytes", 2**16)]) as channel:
        call = channel.unary_stream(WATCH, pb.WatchCardsRequest.SerializeToString, pb.WatchCardsResponse.FromString)
        stream: Any = call(pb.WatchCardsRequest(interval_ms=100), timeout=60)
        next(stream)
        for turn in range(1, 16):  # each look would find a change, if there were one
            service.put("a", pending=turn, reason=long)
            time.sleep(0.1)
        made = service.asked.qsize()
        assert made < 12
        received = 0
        while told(next(stream))["a"] != 15:
            received += 1
        assert received < 12


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `netweight cards` before these cards."""
    known = [
        pb.Card(
            model="toy",
            version="1",
            state="READY",
            facts=pb.Facts(variant="fp32", parameters=61706, multiply_accumulates=416520),
            load=pb.Load(seconds=0.5, file_bytes=253_219, resident_bytes=12_034_048),
            traffic=pb.Traffic(
                requests={"OK": 2, "INTERNAL": 1}, inferences=4, executions=2, mean_batch_size=2, pending=0
            ),
        ),
        pb.Card(model="bad", version="12", state="UNAVAILABLE", reason="broken"),
    ]
    messages = [
        pb.WatchCardsResponse(cards=known),
        pb.WatchCardsResponse(forgotten=[pb.VersionName(model="bad", version="12")]),
    ]
    monkeypatch.setattr(Client, "list_cards", lambda _, model: [each for each in known if model in ("", each.model)])
    monkeypatch.setattr(Client, "watch_cards", lambda *_, **__: iter(messages))

    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(netweight.main, ["cards", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    return shown


def test_the_table(run: Callable[..., str]) -> None:
    """A line for each card, columns aligned, units in the titles; what is not known is a dash."""
    titles, toy, bad = run().splitlines()
    assert titles.split() == " ".join(card_table.TITLES).split()
    assert toy.split() == [
        "toy",
        "1",
        "READY",
        "fp32",
        "61,706",
        "0.000",
        "0.3",
        "11.5",
        "-",
        "0.500",
        "-",
        "3",
        "4",
        "2.00",
        "0",
        "-",
        "-",
    ]
    assert bad.split() == [
        "bad",
        "12",
        "UNAVAILABLE",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "0",
        "0",
        "-",
        "-",
        "-",
        "-",
    ]
    assert titles.index("state") == toy.index("READY") == bad.index("UNAVAILABLE")
    assert len(titles) == len(toy) == len(bad)
    assert run("bad").splitlines()[1].split()[0] == "bad"


def test_the_cards_as_json(run: Callable[..., str]) -> None:
    """Every field that is known, numbers as numbers; with --watch a line for each message."""
    toy, bad = json.loads(run("--json"))
    assert toy["facts"] == {"variant": "fp32", "parameters": 61706, "multiply_accumulates": 416520}
    assert toy["traffic"]["requests"] == {"OK": 2, "INTERNAL": 1}
    assert bad == {"model": "bad", "version": "12", "state": "UNAVAILABLE", "reason": "broken"}
    first, second = map(json.loads, run("--json", "--watch").splitlines())
    assert [each["model"] for each in first["cards"]] == ["toy", "bad"]
    assert second == {"forgotten": [{"model": "bad", "version": "12"}]}


def test_watching_prints_the_table_again(run: Callable[..., str]) -> None:
    """With each change all that is known now."""
    before, after = run("--watch").strip().split("\n\n")
    assert [len(before.splitlines()), len(after.splitlines())] == [3, 2]

"""Cost cards of a real server: one process, and with front-end processes before it."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from server import card_facts, tokens
from server.access import Access
from server.client import Client, ClientError
from server.pb import inference_pb2, inference_pb2_grpc
from server.pb import netweight_pb2 as pb
from tests import graphs
from tests.servers import RunningServer, running_server
from tests.test_card_facts import CARD

X = np.ones((1, 4), np.float32)
WEIGHBRIDGE = "netweight.v1.Weighbridge"
WATCH = f"/{WEIGHBRIDGE}/WatchCards"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a card, and one whose card is broken."""
    made = tmp_path_factory.mktemp("repository")
    graphs.scale(made)
    (made / "scale" / "1" / "card.json").write_text(json.dumps(CARD))
    graphs.scale(made, "other")
    (made / "other" / "1" / "card.json").write_text('{"parameters": "many", "layers": 7')
    return made


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two front ends"])
def server(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that loads and unloads on request."""
    options = ("--frontends", request.param, "--model-control", "explicit", "--model", "scale", "--max-streams", "4")
    with running_server(repository, tmp_path_factory.mktemp("server"), *options) as started:
        yield started
    assert "Traceback" not in started.log()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """A caller."""
    with Client(server.address) as made:
        yield made


@pytest.fixture
def models(server: RunningServer) -> Iterator[Any]:
    """Who loads and unloads."""
    with grpc.insecure_channel(server.address) as channel:
        yield inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


def states(message: pb.WatchCardsResponse) -> dict[str, str]:
    return {each.model: each.state for each in message.cards}


def test_a_card_is_the_metrics_figures(server: RunningServer, client: Client) -> None:
    """What the card says of loading and of requests is what the metrics page says."""
    before = client.get_card("scale").traffic
    for _ in range(5):
        client.infer("scale", {"x": X})
    with pytest.raises(ClientError):
        client.infer("scale", {"x": np.ones((1, 5), np.float32)})
    card = client.get_card("scale")
    assert card.traffic.requests["OK"] - before.requests.get("OK", 0) == 5
    assert card.traffic.requests["INVALID_ARGUMENT"] - before.requests.get("INVALID_ARGUMENT", 0) == 1
    assert card.traffic.inferences - before.inferences == 5
    assert 0 < card.traffic.latency.p50_seconds <= card.traffic.latency.p99_seconds
    assert card.facts.parameters == server.metric("netweight_model_parameters", model="scale") == 110
    assert card.facts.heldout_accuracy == server.metric("netweight_model_heldout_accuracy", model="scale") == 0.975
    assert server.metric("netweight_model_multiply_accumulates", model="scale") == 1000
    assert len(card.facts.layers) == 2
    for field, name in {
        "seconds": "load_seconds",
        "session_seconds": "session_seconds",
        "warm_up_seconds": "warm_up_seconds",
        "file_bytes": "file_bytes",
        "resident_bytes": "resident_bytes",
    }.items():
        assert getattr(card.load, field) == server.metric(f"netweight_model_{name}", model="scale"), name
    assert 0 < card.load.session_seconds + card.load.warm_up_seconds <= card.load.seconds
    for code, count in card.traffic.requests.items():
        assert server.metric("netweight_requests_total", model="scale", code=code) == count


def test_cards_are_no_inferences(server: RunningServer, client: Client) -> None:
    """Asking for cards, and failing to, counts nowhere as a ModelInfer."""
    every = [("scale", "OK"), ("", "NOT_FOUND"), ("scale", "NOT_FOUND")]
    before = [server.metric("netweight_requests_total", model=model, code=code) for model, code in every]
    client.list_cards()
    with pytest.raises(ClientError):
        client.get_card("nosuch")
    assert [server.metric("netweight_requests_total", model=model, code=code) for model, code in every] == before


@pytest.mark.parametrize(
    ("model", "version", "code", "text"),
    [
        ("nosuch", "", grpc.StatusCode.NOT_FOUND, "model 'nosuch' is unknown"),
        ("scale", "2", grpc.StatusCode.NOT_FOUND, "model scale has no version 2"),
        ("scale", "one", grpc.StatusCode.INVALID_ARGUMENT, "got version 'one'; expected a positive integer"),
        ("scale", "-1", grpc.StatusCode.INVALID_ARGUMENT, "got version '-1'; expected a positive integer"),
    ],
)
def test_what_is_not_there(client: Client, model: str, version: str, code: grpc.StatusCode, text: str) -> None:
    """As the protocol's calls: unknown is NOT_FOUND, a version that is none INVALID_ARGUMENT."""
    with pytest.raises(ClientError, match=text) as refused:
        client.get_card(model, version)
    assert refused.value.code == code
    assert client.get_card("scale", "1") == client.get_card("scale")


def test_a_watch_sees_a_load_an_unload_and_requests(client: Client, models: Any) -> None:
    """First all that there is; a model comes, answers requests, and goes; a broken card only has nothing to tell."""
    watch = client.watch_cards(interval_ms=100)
    first = next(watch)
    assert states(first)["scale"] == "READY"
    models.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="other"))
    loaded = next(each for each in watch if states(each).get("other") == "READY")
    card = next(each for each in loaded.cards if each.model == "other")
    assert card.load.provider == "CPUExecutionProvider"
    assert card.load.file_bytes > 0
    assert card.facts == pb.Facts()
    assert "scale" not in states(loaded)
    started = card.traffic.inferences
    for _ in range(3):
        client.infer("other", {"x": X})
    seen = [started]
    while seen[-1] < started + 3:
        seen += [each.traffic.inferences for each in next(watch).cards if each.model == "other"]
    assert seen == sorted(seen)
    models.RepositoryModelUnload(inference_pb2.RepositoryModelUnloadRequest(model_name="other"))
    gone = next(each for each in watch if states(each).get("other") == "UNAVAILABLE")
    card = next(each for each in gone.cards if each.model == "other")
    assert (card.reason, card.HasField("load")) == ("unloaded", False)
    assert card.traffic.inferences >= started + 3
    with pytest.raises(ClientError, match="is UNAVAILABLE: unloaded") as refused:
        client.get_card("other")
    assert refused.value.code == grpc.StatusCode.UNAVAILABLE


def test_reflection_tells_of_it_once(server: RunningServer) -> None:
    """It is listed under our name and no other, and can be called by what reflection says alone."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = list(database.get_services())
        assert [each for each in services if "Weighbridge" in each] == [WEIGHBRIDGE]
        pool = descriptor_pool.DescriptorPool(database)
        with pytest.raises(KeyError):
            pool.FindServiceByName("inference.Weighbridge")
        method = pool.FindServiceByName(WEIGHBRIDGE).methods_by_name["GetCard"]
        request: Any = message_factory.GetMessageClass(method.input_type)(model="scale")
        answer = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(f"/{WEIGHBRIDGE}/GetCard", lambda each: each.SerializeToString(), answer.FromString)
        got: Any = call(request, timeout=20)
        assert got.card.facts.title == "Two layers"
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/inference.GRPCInferenceService/ListCards", bytes, bytes)(b"", timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_streams_have_the_settings_bound(server: RunningServer) -> None:
    """Beyond --max-streams on each front end a watch is refused; ordinary calls go on meanwhile."""
    with Client(server.address) as client:  # one connection, so one front end
        watches = [client.watch_cards() for _ in range(4)]
        for each in watches:
            next(each)
        with pytest.raises(ClientError) as refused:
            next(client.watch_cards())
        assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.list_cards("scale")


def test_the_command(server: RunningServer) -> None:
    """`netweight cards` prints a table or JSON; an unknown model is one line."""

    def cards(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "netweight", "cards", "--address", server.address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    titles, *rows = cards("scale").stdout.splitlines()
    assert titles.startswith("model")
    assert [row.split()[:5] for row in rows] == [["scale", "1", "READY", "int8", "110"]]
    (card,) = json.loads(cards("scale", "--json").stdout)
    assert card["facts"]["heldout_accuracy"] == 0.975
    failed = cards("nosuch")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: model 'nosuch' is unknown")


def test_watching_goes_on_until_it_is_interrupted(server: RunningServer) -> None:
    """`netweight cards --watch` prints at once, and ends by Ctrl-C with exit code 130 and without a word."""
    command = [sys.executable, "-m", "netweight", "cards", "--watch", "--json", "--address", server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "scale" in {each["model"] for each in json.loads(process.stdout.readline())["cards"]}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")


def test_the_start_is_told_in_phases(server: RunningServer) -> None:
    """Process, imports, loading and the rest add up to what the ready line says."""
    phase = {
        each: server.metric("netweight_startup_seconds", phase=each)
        for each in ("process", "imports", "other", "total")
    }
    assert phase["total"] == pytest.approx(server.ready_seconds, abs=0.006)
    assert all(seconds > 0 for seconds in phase.values())
    loading = server.metric("netweight_model_load_seconds", model="scale")
    assert phase["process"] + phase["imports"] + phase["other"] + loading == pytest.approx(phase["total"], abs=0.02)


def test_the_metrics_say_that_the_server_is_ready(server: RunningServer, client: Client) -> None:
    """As ServerReady answers."""
    assert (client.ready(), server.metric("netweight_ready")) == (True, 1)


def test_the_metrics_say_that_the_server_is_not_ready(tmp_path: Path) -> None:
    """One model that it needs has failed, another is served."""
    graphs.scale(tmp_path / "repository")
    graphs.scale(tmp_path / "repository", "broken").write_bytes(b"no graph")
    with running_server(tmp_path / "repository", tmp_path) as server, Client(server.address) as client:
        assert (server.models_ready, client.ready(), server.metric("netweight_ready")) == (1, False, 0)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model whose card makes a message of nearly 1 MB."""
    graphs.scale(tmp_path / "large")
    layer = CARD["layers"][0] | {"name": "x" * card_facts.LONGEST_TEXT}
    card = CARD | {"layers": [layer] * card_facts.MOST_LAYERS}
    (tmp_path / "large" / "scale" / "1" / "card.json").write_text(json.dumps(card))
    return tmp_path / "large"


@pytest.mark.parametrize("frontends", ["1", "2"])
def test_a_server_that_drains_ends_its_watches(large: Path, tmp_path: Path, frontends: str) -> None:
    """It does not wait for who watches, and says that it stops; nor for who does not read what it sends."""
    lookahead = [("grpc.http2.lookahead_bytes", 2**16)]
    with (
        running_server(large, tmp_path, "--frontends", frontends) as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address, lookahead) as channel,
    ):
        stuck: Any = channel.unary_stream(WATCH, pb.WatchCardsRequest.SerializeToString, bytes)(pb.WatchCardsRequest())
        stuck.initial_metadata()  # it comes with the first message, which is on its way from here on
        watch = client.watch_cards(interval_ms=60_000)
        assert set(states(next(watch)).values()) == {"READY"}
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15  # it would wait 20 s for calls in flight
        with pytest.raises(ClientError, match="the server is stopping") as ended:
            next(watch)
        assert ended.value.code == grpc.StatusCode.UNAVAILABLE
        assert "Traceback" not in server.log()


def test_cards_need_a_token_where_calls_do(repository: Path, tmp_path: Path) -> None:
    """Who may infer may see cards, by any of the three calls; others are refused before anything is read."""
    made, file = tokens.make("infer"), tmp_path / "tokens"
    file.write_text(made.line + "\n")
    with running_server(repository, tmp_path, "--tokens", str(file)) as server:
        with Client(server.address, access=Access(token=made.token)) as client:
            assert len(client.list_cards()) == 2
            assert client.get_card("scale").state == "READY"
            assert len(next(client.watch_cards()).cards) == 2
        with Client(server.address) as stranger:
            for call in (
                stranger.list_cards,
                lambda: stranger.get_card("scale"),
                lambda: next(stranger.watch_cards()),
            ):
                with pytest.raises(ClientError) as refused:
                    call()
                assert refused.value.code == grpc.StatusCode.UNAUTHENTICATED


def test_every_phase_is_counted_by_the_console_script_too(repository: Path, tmp_path: Path) -> None:
    """`netweight serve`, as installed, tells the same phases as `python -m netweight serve`."""
    script = Path(sys.executable).with_name("netweight")
    options = ["serve", "--repository", str(repository), "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen([script, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"metrics=(\S+)", process.stdout.readline())
        assert found
        server = RunningServer(process, "", found[1], 0, 0, 0, tmp_path)
        shares = [server.metric("netweight_startup_seconds", phase=each) for each in ("process", "imports", "total")]
        process.terminate()
    assert all(each > 0 for each in shares)
    assert all(earlier < shares[-1] for earlier in itertools.islice(shares, 2))

"""JPEG and PNG files sent to the real process, by tritonclient and by our own command."""

from __future__ import annotations

import json
import queue
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import netweight
from server.card import Preprocessing
from server.images import decode
from server.pb import inference_pb2 as pb
from server.pb import inference_pb2_grpc
from tests import graphs
from tests.pictures import DIGITS, IMAGENET, Pixels, echo, encoded, grey_png, noise, png, scene
from tests.servers import RunningServer, running_server

MOST_PIXELS = 8_000_000
JPEG, PNG, GREY = encoded(scene(500, 375), "JPEG"), encoded(noise(300, 400), "PNG"), encoded(scene(64, 48), "PNG")
SLOW = grey_png(2800, 2800)
"""Some 8 KB that take tens of milliseconds to decode."""


def publish(repository: Path) -> None:
    """Publish echoes: one whose runs are inline, one with a thread, one of grey images, and some that take no files."""
    echo(repository, "grey", DIGITS)
    echo(repository, "inline", {**DIGITS, "channels": 3})
    echo(repository, "threaded", IMAGENET, "max_batch_size: 8 instance_group { count: 1 }")
    echo(repository, "single", DIGITS, batch=1)
    echo(repository, "no_card", None)
    echo(repository, "other_card", {**IMAGENET, "channels": 1})
    card = repository / "other_card" / "1" / "card.json"
    card.write_text(card.read_text().replace('"channels": 1', '"channels": 3'))
    graphs.image_classifier(repository)
    (repository / "tiny" / "1" / "card.json").write_text(
        json.dumps({"preprocessing": {**DIGITS, "height": 8, "width": 8}})
    )


@pytest.fixture(scope="module", params=["--way direct", "--way ordinary", "--frontends 2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of these models."""
    repository = tmp_path_factory.mktemp("repository")
    publish(repository)
    options = [*request.param.split(), "--max-image-pixels", str(MOST_PIXELS)]
    with running_server(repository, tmp_path_factory.mktemp("server"), *options) as started:
        yield started


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


def tensor(array: Any) -> triton.InferInput:
    made = triton.InferInput("image", array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def files(*given: bytes, column: bool = False) -> triton.InferInput:
    """Return BYTES [n], or [n,1]."""
    array = np.array([*given, None], np.object_)[:-1]
    return tensor(array[:, None] if column else array)


def pixels(values: dict[str, Any], *given: bytes) -> Pixels:
    """Return what a client would have sent in place of these files; tests/test_images.py holds it against torchvision."""
    return np.stack([decode(each, Preprocessing(**values), MOST_PIXELS) for each in given])


def refusal(
    client: triton.InferenceServerClient, model: str, sent: triton.InferInput, **wishes: Any
) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [sent], **wishes)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


MODELS: dict[str, dict[str, Any]] = {"grey": DIGITS, "inline": {**DIGITS, "channels": 3}, "threaded": IMAGENET}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("column", [False, True])
def test_the_graph_gets_pixels(client: triton.InferenceServerClient, model: str, column: bool) -> None:
    """Files of any size and either format, one or several, reach the graph as the pixels that a client would send."""
    values = MODELS[model]
    for given in ((JPEG,), (PNG,), (JPEG, PNG, GREY, JPEG)):
        answer = client.infer(model, [files(*given, column=column)]).as_numpy("y")
        np.testing.assert_array_equal(answer, pixels(values, *given))


def test_a_model_of_one_image(client: triton.InferenceServerClient) -> None:
    """A model that takes no batches takes a file too."""
    answer = client.infer("single", [files(JPEG)]).as_numpy("y")
    np.testing.assert_array_equal(answer, pixels(DIGITS, JPEG))


def test_others_are_answered_meanwhile(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """While a request's images are decoded, requests of arrays are answered, of the same model too."""
    array = pixels(DIGITS, PNG)
    with ThreadPoolExecutor(1) as pool, triton.InferenceServerClient(server.address) as another:
        slow = pool.submit(another.infer, "grey", [files(*[SLOW] * 32)])
        eventually(lambda: server.metric("netweight_pending_requests", model="grey") == 1)
        np.testing.assert_array_equal(client.infer("grey", [tensor(array)]).as_numpy("y"), array)
        assert not slow.done()
        assert len(slow.result(60).as_numpy("y")) == 32


def test_typed_contents(server: RunningServer) -> None:
    """Files may come as bytes_contents too."""
    import grpc

    message = pb.ModelInferRequest(model_name="grey")
    message.inputs.add(name="image", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([PNG, JPEG])
    with grpc.insecure_channel(server.address) as channel:
        answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)  # type: ignore[no-untyped-call]
    assert answer.raw_output_contents[0] == pixels(DIGITS, PNG, JPEG).tobytes()


@pytest.mark.parametrize("model", ["inline", "threaded"])
def test_files_and_arrays_together(server: RunningServer, model: str) -> None:
    """Requests of files and of arrays, of several sizes, from many callers at once: each gets its own answer."""
    values = MODELS[model]

    def call(caller: int) -> None:
        with triton.InferenceServerClient(server.address) as client:
            for turn in range(6):
                given = [(JPEG, PNG, GREY)[(caller + turn + each) % 3] for each in range(1 + turn % 3)]
                expected = pixels(values, *given)
                sent = files(*given) if (caller + turn) % 2 else tensor(expected)
                np.testing.assert_array_equal(client.infer(model, [sent]).as_numpy("y"), expected)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, range(6)))


def test_what_the_model_says(client: triton.InferenceServerClient) -> None:
    """Metadata and configuration say UINT8; the configuration names the files' formats, where they are taken."""
    assert client.get_model_metadata("grey").inputs[0].datatype == "UINT8"
    config = client.get_model_config("grey").config
    assert config.input[0].data_type == 2
    assert config.parameters["image_files"].string_value == "JPEG,PNG"
    assert "image_files" not in client.get_model_config("no_card").config.parameters


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "image 1 is no JPEG or PNG file: it is empty"),
        (b"hello", "image 1 is no JPEG or PNG file: it begins with b'hello'"),
        (encoded(scene(9, 9), "GIF"), "image 1 is no JPEG or PNG file"),
        (JPEG[:2000], "image 1 cannot be decoded: image file is truncated"),
        (png(30_000, 30_000, bytes(30_001)), f"image 1 has 30000x30000 pixels; expected at most {MOST_PIXELS}"),
    ],
    ids=["empty", "text", "GIF", "truncated", "bomb"],
)
@pytest.mark.parametrize("model", ["grey", "threaded"])
def test_hostile_files(client: triton.InferenceServerClient, model: str, file: bytes, reason: str) -> None:
    """A file that cannot be decoded is INVALID_ARGUMENT in one line with model, input and image; the server goes on."""
    status, message = refusal(client, model, files(PNG, file))
    assert status == "INVALID_ARGUMENT"
    assert message.startswith(f"model {model} version 1: input 'image': {reason}")
    assert "\n" not in message
    np.testing.assert_array_equal(client.infer(model, [files(PNG)]).as_numpy("y"), pixels(MODELS[model], PNG))


@pytest.mark.parametrize(
    ("model", "given", "reason"),
    [
        ("threaded", files(*[b"not looked at"] * 9), "got batch size 9; expected 1 to max_batch_size 8"),
        ("threaded", tensor(np.full((2, 2), PNG, np.object_)), r"BYTES \[2,2\]; .*BYTES \[-1\] or \[-1,1\]"),
        ("single", files(PNG, PNG), r"got input 'image' as BYTES \[2\]; expected image: UINT8 \[1,32,32,1\]"),
        ("no_card", files(PNG), r"got input 'image' as BYTES \[1\]; expected image: UINT8 .*: there is no card.json"),
        ("other_card", files(PNG), r"card.json is of images \[224,224,3\]"),
    ],
)
def test_files_that_are_not_taken(
    client: triton.InferenceServerClient, model: str, given: triton.InferInput, reason: str
) -> None:
    """Too many files, files of another shape, and files for a model without a fitting card are INVALID_ARGUMENT."""
    status, message = refusal(client, model, given)
    assert status == "INVALID_ARGUMENT"
    assert message.startswith(f"model {model} version 1: ")
    assert re.search(reason, message)


def test_the_callers_deadline(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """A deadline that passes while images are decoded is answered and counted, and the rest of them is left."""

    def gone() -> float:
        codes = ("DEADLINE_EXCEEDED", "CANCELLED")  # the client hangs up at the same moment
        return sum(server.metric("netweight_requests_total", model="grey", code=code) for code in codes)

    before, ran = gone(), server.metric("netweight_inferences_total", model="grey")
    status, _ = refusal(client, "grey", files(*[SLOW] * 32), client_timeout=0.3)
    assert status == "DEADLINE_EXCEEDED"
    eventually(lambda: gone() == before + 1)
    eventually(lambda: server.metric("netweight_pending_requests", model="grey") == 0)
    client.infer("grey", [files(PNG)])
    assert server.metric("netweight_inferences_total", model="grey") == ran + 1


def test_a_request_that_waits_too_long(client: triton.InferenceServerClient) -> None:
    """The time that a request may wait begins before its images are decoded."""
    status, message = refusal(client, "inline", files(*[SLOW] * 8), timeout=20_000)
    assert (status, message) == (
        "UNAVAILABLE",
        "model inline version 1: waited 0.02 s in the queue: try again later",
    )


def test_files_on_a_stream(client: triton.InferenceServerClient) -> None:
    """On a stream files are taken too, and answered in the order of the requests, though some take longer."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    for given in ((SLOW,), (PNG,), (b"text",), (JPEG, PNG)):
        client.async_stream_infer("grey", [files(*given)])
    found = [answers.get(timeout=30) for _ in range(4)]
    client.stop_stream()
    np.testing.assert_array_equal(found[1].as_numpy("y"), pixels(DIGITS, PNG))
    assert "image 0 is no JPEG or PNG file" in str(found[2])
    np.testing.assert_array_equal(found[3].as_numpy("y"), pixels(DIGITS, JPEG, PNG))


def test_decoding_counts_as_input(server: RunningServer, client: triton.InferenceServerClient) -> None:
    """Input, queue, compute and output are the whole time of requests whose images were decoded; most of it is input."""
    for _ in range(5):
        client.infer("tiny", [files(SLOW)])
    (figures,) = client.get_inference_statistics("tiny").model_stats
    stats = figures.inference_stats
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert [each.count for each in parts] == [5] * 4
    assert stats.success.ns == pytest.approx(sum(each.ns for each in parts), abs=4)
    seconds = server.metric("netweight_request_duration_seconds_sum", model="tiny")
    assert seconds == pytest.approx(stats.success.ns / 1e9, rel=0.05)
    assert stats.compute_input.ns > stats.success.ns / 2


def test_the_command_sends_the_file(server: RunningServer, tmp_path: Path) -> None:
    """`netweight infer MODEL FILE` has the server decode a JPEG or PNG, and prints the labels."""
    picture = np.zeros((16, 48), np.uint8)
    picture[12:] = 255
    picture[4:8, 40:] = 255  # squeezed by the card, which does not crop, it does not outweigh
    (tmp_path / "picture.png").write_bytes(encoded(picture[:, :16], "PNG"))
    (tmp_path / "cut.png").write_bytes(encoded(picture, "PNG")[:60])
    arguments = ["--address", server.address, "--top", "3"]
    shown = CliRunner().invoke(netweight.main, ["infer", "tiny", str(tmp_path / "picture.png"), *arguments])
    assert shown.exit_code == 0, shown.output
    assert len(shown.output.splitlines()) == 3
    assert "row " in shown.output
    refused = CliRunner().invoke(netweight.main, ["infer", "tiny", str(tmp_path / "cut.png"), *arguments])
    assert refused.exit_code == 1
    assert "model tiny version 1: input 'image': image 0 cannot be decoded" in refused.output


def eventually(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_waiting_line(tmp_path: Path) -> None:
    """Requests beyond the bound are UNAVAILABLE while others are decoded; those that wait are answered."""
    publish(tmp_path / "repository")
    outcomes: list[str] = []

    def call(address: str) -> None:
        with triton.InferenceServerClient(address) as client:
            try:
                client.infer("threaded", [files(*[SLOW] * 8)])
                outcomes.append("OK")
            except InferenceServerException as error:
                outcomes.append(str(error.message()))

    with (
        running_server(tmp_path / "repository", tmp_path, "--max-queue-size", "1") as narrow,
        ThreadPoolExecutor(16) as pool,
    ):
        list(pool.map(call, [narrow.address] * 16))
    refused = [each for each in outcomes if each != "OK"]
    assert "OK" in outcomes
    assert refused
    assert all("1 requests wait" in each for each in refused)


@pytest.mark.parametrize("options", [(), ("--frontends", "2")])
def test_stopping_waits_for_decoding(tmp_path: Path, options: tuple[str, ...]) -> None:
    """SIGTERM lets requests whose images are being decoded finish."""
    publish(tmp_path / "repository")
    answers: list[Pixels] = []
    with (
        running_server(tmp_path / "repository", tmp_path, *options) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        client.infer("threaded", [files(PNG)])

        def call() -> None:
            answers.append(client.infer("threaded", [files(*[SLOW] * 8)]).as_numpy("y"))

        caller = threading.Thread(target=call)
        caller.start()
        eventually(lambda: server.metric("netweight_pending_requests", model="threaded") == 1)
        assert server.stop(signal.SIGTERM) == 0
        caller.join(10)
    assert [each.shape for each in answers] == [(8, 224, 224, 3)]


@pytest.mark.parametrize("options", [(), ("--frontends", "2")])
def test_unloading_waits_for_decoding(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A model that is unloaded, or loaded anew, finishes the requests whose images are being decoded."""
    publish(tmp_path / "repository")
    explicit = ("--model-control", "explicit", "--model", "threaded", *options)
    with (
        running_server(tmp_path / "repository", tmp_path, *explicit) as server,
        triton.InferenceServerClient(server.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.infer, "threaded", [files(*[SLOW] * 8)])
        eventually(lambda: server.metric("netweight_pending_requests", model="threaded") == 1)
        client.unload_model("threaded")
        np.testing.assert_array_equal(answer.result(30).as_numpy("y"), pixels(IMAGENET, *[SLOW] * 8))
        status, _ = refusal(client, "threaded", files(PNG))
        assert status in ("NOT_FOUND", "UNAVAILABLE")


def peak_mib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A bomb takes next to nothing; the largest images that are allowed, many at once, take what the docs say."""
    publish(tmp_path / "repository")
    with (
        running_server(tmp_path / "repository", tmp_path, "--max-image-pixels", str(MOST_PIXELS)) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        process = psutil.Process(server.process.pid)
        for _ in range(3):
            client.infer("threaded", [files(PNG)])
        before = peak_mib(process)
        for bomb in (png(40_000, 40_000, bytes(40_001)), grey_png(9000, 9000)):
            refusal(client, "threaded", files(bomb))
        after_bombs = peak_mib(process)
        assert after_bombs - before < 10

        def call(address: str) -> None:
            with triton.InferenceServerClient(address) as another:
                another.infer("threaded", [files(*[SLOW] * 4)])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(call, [server.address] * 6))
        assert peak_mib(process) - after_bombs < 8 * MOST_PIXELS / 2**20 + 30
        largest = encoded(scene(2000, 4000), "JPEG")  # as many pixels as are allowed, of three colours
        assert len(client.infer("threaded", [files(*[largest] * 3)]).as_numpy("y")) == 3
        eventually(lambda: process.memory_info().rss / 2**20 < after_bombs + 20)

"""The whole comparison, through real servers, on a tiny model whose answers are known."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from compare import comparison as comparisons
from compare.comparison import Comparison
from compare.cost import Accuracy, CostCard, Layer, Published
from compare.plan import DEMO, PLANS
from compare.run import UnfinishedError, choose, compare
from compare.server_process import ServerProcess
from models.spec import NetweightError
from tests.plans import ONCE, SHORT
from tests.published import held_out, publish


def silent(line: str) -> None:
    pass


def publish_broken(repository: Path, name: str) -> None:
    """Publish a model whose file no server can load."""
    (publish(repository, name) / "model.onnx").write_bytes(b"broken")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a model, a variant of it that has images, a twin of the variant, and a broken model."""
    directory = tmp_path_factory.mktemp("work")
    repository = directory / "repository"
    publish(repository, "tiny")
    publish(repository, "tiny.int8", variant="int8", reference="tiny")
    publish(repository, "twin", reference="tiny.int8", trained=False, checkpoint_bytes=None)
    publish_broken(repository, "broken")
    held_out(directory / "runs" / "tiny.int8.npz", 101, wrong=7)
    return directory


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def unfinished(work: Path, lines: list[str]) -> UnfinishedError:
    """Compare them all in two rounds; one of them fails."""
    with pytest.raises(UnfinishedError) as caught:
        compare(
            ["t*.int8", "broken", "twin"],
            repository=work / "repository",
            plan=SHORT,
            heldout=str(work / "runs" / "{model}.npz"),
            bound_seconds=5.0,
            hourly_price=3.6,
            report=lines.append,
        )
    return caught.value


@pytest.fixture(scope="module")
def measured(unfinished: UnfinishedError) -> Comparison:
    return unfinished.comparison


@pytest.fixture(scope="module")
def tiny(measured: Comparison) -> CostCard:
    return measured.cards[0]


def test_a_failing_model_keeps_the_others(unfinished: UnfinishedError, lines: list[str]) -> None:
    """A model that cannot be loaded is named with its reason, in one line; the others are measured in every round."""
    assert [card.model for card in unfinished.comparison.cards] == ["tiny.int8", "twin"]
    assert not unfinished.interrupted
    assert str(unfinished).startswith(
        "1 of 3 models failed: broken: model broken version 1 is UNAVAILABLE: model.onnx is no"
    )
    assert "\n" not in str(unfinished)
    assert sum(line.startswith("broken: FAILED: ") for line in lines) == 1


def test_rounds_alternate(lines: list[str]) -> None:
    """Each round goes through all models, every second one from the last to the first."""
    told = [line.split(":")[:2] for line in lines if line.startswith("round ")]
    assert told == [
        *(["round 1 of 2", f" {name}"] for name in ("tiny.int8", "twin")),
        *(["round 2 of 2", f" {name}"] for name in ("twin", "tiny.int8")),
    ]


def test_what_the_card_of_the_export_tells(tiny: CostCard, measured: Comparison, work: Path) -> None:
    """Names, sizes, layers and published accuracy (the best) are those of card.json; a variant names its reference."""
    path = work / "repository" / "tiny.int8" / "1" / "model.onnx"
    assert (tiny.model, tiny.title, tiny.version, tiny.family) == ("tiny.int8", "Tiny.Int8", 1, "Tiny")
    assert (tiny.parameters, tiny.multiply_accumulates, tiny.input) == (192, 192, "UINT8 [8, 8, 1]")
    assert (tiny.disk.onnx_bytes, tiny.disk.checkpoint_bytes) == (path.stat().st_size, 1000)
    assert 0 < (tiny.disk.compressed_bytes or 0) < path.stat().st_size
    assert tiny.disk.layers == (Layer("fc", "Gemm", 192, 768, 192),)
    assert tiny.published == Published(73.0, None, "ImageNet-1K", "second")
    assert tiny.provider == "CPUExecutionProvider"
    twin = measured.cards[1]
    assert [(card.variant, card.reference) for card in (tiny, twin)] == [("int8", "tiny"), ("fp32", "tiny.int8")]
    assert [(card.trained, card.disk.checkpoint_bytes) for card in (tiny, twin)] == [(True, 1000), (False, None)]


def test_accuracy_and_agreement_are_exact(tiny: CostCard, measured: Comparison) -> None:
    """Seven of 101 labels are wrong, so 94 answers are right; equal graphs agree on all of them.

    The variant's reference is not compared and was asked just for that; the twin's images are those of its reference.
    """
    assert tiny.accuracy == Accuracy(94, 101, 101, "tiny")
    assert measured.cards[1].accuracy == Accuracy(94, 101, 101, "tiny.int8")


def test_a_cold_start_is_cut_without_a_gap(measured: Comparison) -> None:
    """In each round the parts, none of them negative, add up to what the one who waits counted."""
    for card in measured.cards:
        assert card.cold_start is not None
        parts = ("process", "imports", "session", "warm_up", "other", "first_answer")
        for number, total in enumerate(card.cold_start.total.rounds):
            seconds = [getattr(card.cold_start, part).rounds[number] for part in parts]
            assert min(seconds) >= 0
            assert sum(seconds) == pytest.approx(total, abs=0.001)
            assert 0 < total < 60
        assert len(card.cold_start.total.rounds) == 2


def test_memory(tiny: CostCard) -> None:
    """The process holds no less than was added, its peak is no less than what it held when it was ready."""
    memory = tiny.memory
    assert memory is not None
    assert memory.process_bytes
    assert memory.peak_bytes
    assert memory.given_back_bytes
    assert all(added >= 0 for added in memory.added_bytes.rounds)
    assert all(peak >= held for peak, held in zip(memory.peak_bytes.rounds, memory.process_bytes.rounds, strict=True))
    assert tiny.gpu_memory is None


def test_every_scenario_is_there(tiny: CostCard, measured: Comparison) -> None:
    """One caller, batches that the model takes, saturation, Offline and Poisson, each with a value for each round."""
    assert tiny.single_stream is not None
    assert [len(samples) >= 2 for samples in tiny.single_stream.latency.rounds] == [True, True]
    assert tiny.single_stream.cpu_seconds
    assert tiny.saturation is not None
    assert tiny.saturation.callers == 4
    assert len(tiny.saturation.inferences_per_second.rounds) == 2
    assert [point.batch for point in tiny.batches] == [1, 2, 4]
    assert all(len(point.p50_seconds.rounds) == 2 for point in tiny.batches)
    assert tiny.offline is not None
    assert tiny.offline.batch == 4
    assert tiny.server is not None
    assert tiny.server.bound_seconds == 5.0
    assert len(tiny.server.highest_per_second.rounds) == 2
    assert {probe.round for probe in tiny.server.probes} == {0, 1}
    assert tiny.server.probes[0].seed == measured.cards[1].server.probes[0].seed  # type: ignore[union-attr]
    assert tiny.errors == 0


def test_price(tiny: CostCard) -> None:
    """3.60 an hour are 0.001 a second, so that a million inferences cost 1000 through the rate at saturation."""
    assert tiny.saturation is not None
    assert tiny.price_per_million == pytest.approx(1000 / tiny.saturation.inferences_per_second.median)


def test_what_a_reader_must_know(measured: Comparison, tmp_path: Path) -> None:
    """Settings, machine, what else it did, and the caller's own ceiling stand in it; it is written and read whole."""
    settings = measured.settings
    assert (settings.plan, settings.rounds, settings.seconds, settings.callers) == ("short", 2, 0.05, 4)
    assert (settings.bound_seconds, settings.hourly_price, settings.own_server) == (5.0, 3.6, True)
    assert measured.environment["cores"]
    assert measured.busy is not None
    (caller,) = measured.callers
    assert caller.request_bytes > 64
    assert caller.requests_per_second > 0
    comparisons.write(tmp_path / "comparison.json", measured)
    assert comparisons.read(tmp_path / "comparison.json").settings == settings


def test_running_server(work: Path) -> None:
    """A running server is measured as it is, serves on, and is not asked what only a start of ours could tell."""
    repository = work / "repository"
    with ServerProcess(repository, models=["tiny"]) as server:
        address = server.address
        told = compare(["tiny"], repository=repository, address=address, metrics_url=server.metrics_url, plan=ONCE, report=silent)  # fmt: skip
        (card,) = told.cards
        assert not told.settings.own_server
        assert card.cold_start is None
        assert card.memory is not None
        assert (card.memory.process_bytes, card.memory.peak_bytes, card.memory.given_back_bytes) == (None,) * 3
        assert card.accuracy is None
        (card,) = compare(["tiny"], repository=repository, address=address, plan=ONCE, report=silent).cards
        assert (card.memory, card.single_stream and card.single_stream.cpu_seconds) == (None, None)
        assert card.saturation is not None
        (seen,) = compare(["t*"], repository=work / "none", address=address, plan=ONCE, report=silent).cards
        assert (seen.model, seen.title, seen.family, seen.parameters) == ("tiny", "Tiny", "Tiny", 192)
        assert (seen.disk, seen.published) == (
            replace(card.disk, compressed_bytes=None, checkpoint_bytes=None),
            card.published,
        )
        assert [point.batch for point in seen.batches] == [1, 2, 4]
        with pytest.raises(NetweightError, match=rf"twin: no model of that name or .* ready at {address}, .*tiny"):
            compare(["twin"], repository=repository, address=address, plan=ONCE, report=silent)


def test_interrupt_keeps_what_was_measured(work: Path, tmp_path: Path) -> None:
    """Ctrl-C ends the command with exit code 130; the rounds that were measured are shown and written."""
    code = (
        "import netweight; from compare.plan import PLANS; from tests.plans import ONCE\n"
        "PLANS['quick'] = ONCE; netweight.main()"
    )
    options = ["--quick", "--rounds", "1000", "--repository", str(work / "repository"), "--output", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", code, "compare", "tiny", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert any(line.startswith("round 1 of 1000") for line in child.stdout)
        os.killpg(child.pid, signal.SIGINT)
        shown = child.stdout.read()
        assert child.stderr.read().startswith("interrupted: ")
        assert child.wait(30) == 130
    assert "ONNX" in shown
    (card,) = comparisons.read(tmp_path / "comparison.json").cards
    assert card.saturation is not None
    assert 1 <= len(card.saturation.inferences_per_second.rounds) < 1000


def test_a_server_that_dies_keeps_the_rounds_before(work: Path) -> None:
    """A server killed in the second round is told as such; the card of the model has the first round's figures."""

    def kill_the_next_server() -> None:
        while True:
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "serve" in child.cmdline():
                        child.kill()
                        return
            time.sleep(0.01)

    def report(line: str) -> None:
        if line.startswith("round 1 of 2: tiny"):
            threading.Thread(target=kill_the_next_server, daemon=True).start()

    with pytest.raises(UnfinishedError, match=r"1 of 1 models failed: tiny: the server .* exit code -9") as caught:
        compare(["tiny"], repository=work / "repository", plan=replace(ONCE, rounds=2), report=report)
    (card,) = caught.value.comparison.cards
    assert card.saturation is not None
    assert len(card.saturation.inferences_per_second.rounds) == 1


def test_patterns(work: Path, tmp_path: Path) -> None:
    """Names keep their order, patterns bring theirs in alphabetical order, none comes twice; others are one line."""
    repository = work / "repository"
    assert choose([], repository) == ["broken", "tiny", "tiny.int8", "twin"]
    assert choose(["twin", "tiny*", "t*"], repository) == ["twin", "tiny", "tiny.int8"]
    with pytest.raises(NetweightError, match=r"^vgg\*: no card.json .* which has broken, tiny, .*; export it first$"):
        choose(["tiny", "vgg*"], repository)
    with pytest.raises(NetweightError, match="no model with a card"):
        compare(repository=tmp_path, report=silent)


def test_plans_grow() -> None:
    """Quick measures less than standard, standard less than full, in every respect; the demo's least of all."""
    plans = [DEMO, *(PLANS[name] for name in ("quick", "standard", "full"))]
    for name in ("rounds", "seconds", "replies", "curve_seconds", "tries", "later_tries", "try_seconds"):
        values = [getattr(plan, name) for plan in plans]
        assert values == sorted(values), name
    assert list(PLANS) == [plan.name for plan in plans[1:]]

"""The server beside the limit: requests/s, latency, CPU, memory and start, beside plain ONNX Runtime on the same model.

``python -m compare.bench`` exports five models with random weights and measures them; with ``--repository DIR MODEL...``
it measures those of a repository. Each model gets servers of its own. Server and limit are measured in turn, several
rounds in the same run, so that what else the machine does hits both alike. At one caller the limit is one caller's (batch
1, best setting); above, it is the best of all settings and batches that `compare.limit` tries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from compare import h2load, process_tree
from compare.bench_row import ModelFacts, Sample, Samples, load_table, make_row, notes, start_table
from compare.card import model_names, read_card, versions
from compare.demo import run_to_end
from compare.files import write_text
from compare.load import Load, Window, closed_loop, one_at_a_time
from compare.measure import Throughput
from compare.metrics_page import Counts, read_counts
from compare.process import INTERRUPTED, NETWEIGHT
from compare.server_process import ServerProcess
from compare.startup import measure_startup, sample_request
from compare.targets import judge
from models.environment import environment
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.bench_row import BenchRow

SCHEMA = "netweight-bench/2"
DIRECTORY = Path("out/bench")
CALLERS = (1, 8, 32)
TINY_CALLERS = (1, 16, 64)
WARM_UP_SECONDS = 0.5
IDLE_TIMEOUT_SECONDS = 20.0
WIDTH = 100
"""Columns that the tables take at most."""
AGAIN = 3
"""Settings of the limit that are measured in each round after the first: as many of the fastest, one caller's best one."""


@dataclass(frozen=True)
class Case:
    """A model and how it is loaded: each number of callers with each number of front ends."""

    network: str
    callers: tuple[int, ...] = CALLERS
    frontends: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Plan:
    """How long and how often everything is measured."""

    seconds: float = 3.0
    """A window lasts this long at least."""
    rounds: int = 3
    starts: int = 3
    turns: int = 3
    """... and as long as the limit takes for this many requests of each caller; the warm-up for one of each."""
    caller: str = "netweight"
    """``h2load`` or ``netweight``."""


QUICK = Plan(seconds=1.0, rounds=1, turns=2)


@dataclass(frozen=True)
class Export:
    """A model that the benchmark makes for itself: random weights, UINT8 pixels or the normalised FP32 tensor."""

    name: str
    network: str
    datatype: str = "uint8"


EXPORTS = (
    Export("lenet5", "lenet5"),
    Export("mobilenet_v2", "mobilenet_v2"),
    Export("mobilenet_v2.float32", "mobilenet_v2", "float32"),
    Export("resnet50", "resnet50"),
    Export("vgg16", "vgg16"),
)


def prepare(repository: Path, exports: Sequence[Export] = EXPORTS, command: Sequence[str] = NETWEIGHT) -> None:
    """Export the models that the repository does not have yet."""
    for each in exports:
        if versions(repository, each.name):
            continue
        _say(f"{each.name}: export with random weights (untrained), once")
        words = ("--name", each.name, "--input", each.datatype, "--repository", str(repository))
        code = run_to_end([*command, "export", each.network, *words])
        if code:
            raise NetweightError(
                f"netweight export {each.network} failed with exit code {code}; mend what it says above"
            )


def bench(cases: Sequence[Case], repository: Path, plan: Plan) -> list[BenchRow]:
    """Measure models through servers and without, in turn; return a row for each number of front ends and callers."""
    for case in cases:
        if not versions(repository, case.network):
            raise NetweightError(f"{case.network}: not in repository {repository}; export it first")
    return [row for case in cases for row in _Measurement(case, repository, plan).rows()]


def limit(model_file: Path, seconds: float, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `compare.limit` prints for a model file, run as a process of its own."""
    command = [sys.executable, "-P", "-m", "compare.limit", str(model_file), "--seconds", str(seconds)]
    command += [word for setting in chosen for word in ("--setting", setting)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
        raise NetweightError(f"{model_file}: plain ONNX Runtime failed with exit code {ended.returncode}: {said}")
    values: dict[str, Any] = json.loads(ended.stdout)
    return values


def best_settings(answer: dict[str, Any]) -> list[str]:
    """Return the fastest settings of a limit's answer, and one caller's best: those worth measuring again."""
    fastest = sorted(answer["settings"], key=lambda result: -result["inferences_per_second"])[:AGAIN]
    again = {result["setting"] for result in [*fastest, answer["best_one_caller"]]}
    return [result["setting"] for result in answer["settings"] if result["setting"] in again]


class _Measurement:
    """One model: its starts, then rounds of the limit and of every load."""

    def __init__(self, case: Case, repository: Path, plan: Plan) -> None:
        self.case = case
        self.repository = repository
        self.plan = plan
        self.samples = Samples()
        self.folder = repository / case.network / str(versions(repository, case.network)[-1])

    def rows(self) -> list[BenchRow]:
        """Measure everything."""
        name, plan = self.case.network, self.plan
        _say(f"{name}: start {plan.starts} times, and once beside another")
        request = sample_request(self.repository, name)
        startups = {
            frontends: measure_startup(self.repository, name, request, starts=plan.starts, options=_options(frontends))
            for frontends in self.case.frontends
        }
        self._rounds(request)
        card = read_card(self.repository, name)
        file_bytes = sum(path.stat().st_size for path in self.folder.glob("model.onnx*"))
        facts = ModelFacts(name, card.trained is not False, file_bytes, len(request))
        return [
            make_row(facts, startups[frontends], self.samples, callers=callers, frontends=frontends, caller=plan.caller)
            for frontends, callers in self.samples.windows
        ]

    def _rounds(self, request: bytes) -> None:
        name, plan, limits = self.case.network, self.plan, self.samples.limits
        with ExitStack() as stack:
            servers = {
                frontends: stack.enter_context(
                    ServerProcess(self.repository, models=[name], options=_options(frontends))
                )
                for frontends in self.case.frontends
            }
            for number in range(1, plan.rounds + 1):
                _say(f"{name}: round {number} of {plan.rounds}")
                chosen = best_settings(limits[0]) if limits else []
                limits.append(limit(self.folder / "model.onnx", plan.seconds / 2, chosen))
                for frontends, server in servers.items():
                    for callers in self.case.callers:
                        window = self._window(server, request, callers, frontends)
                        self.samples.windows.setdefault((frontends, callers), []).append(window)

    def _window(self, server: ServerProcess, request: bytes, callers: int, frontends: int) -> Sample:
        """Load one server for one window; count its CPU seconds and its answers over all of it, warm-up included."""
        turn = callers / self.samples.limits[0]["best"]["inferences_per_second"]
        seconds = max(self.plan.seconds, self.plan.turns * turn)
        warm_up = min(max(WARM_UP_SECONDS, turn), seconds)
        name, page = self.case.network, server.metrics_url
        before, used = read_counts(page, name), process_tree.cpu_seconds(server.pid)
        drive = _drive_h2load if self.plan.caller == h2load.PROGRAM else _drive_own
        sent = drive(server.address, request, callers, seconds, warm_up, frontends)
        process_tree.wait_until_idle(server.pid, IDLE_TIMEOUT_SECONDS)
        used = process_tree.cpu_seconds(server.pid) - used
        return sent.sample(read_counts(page, name).since(before), used, callers)


@dataclass(frozen=True, eq=False)
class _H2loadWindow:
    """What h2load saw: the whole run, and the replies after the warm-up."""

    summary: h2load.Summary
    replies: h2load.Replies

    def sample(self, counts: Counts, cpu_seconds: float, callers: int) -> Sample:
        """Return the window, with a problem where the server's counters tell another story."""
        problem = h2load.check_counts(self.summary, self.replies.refused, counts, callers)
        failed = sum(count for code, count in counts.requests.items() if code not in ("OK", "CANCELLED"))
        rate = h2load.steady_rate(self.replies.ends)
        return Sample(rate, self.replies.latencies, _each(cpu_seconds, counts), failed + self.replies.refused, problem)


@dataclass(frozen=True, eq=False)
class _OwnWindow:
    """What our own callers saw, each reply's status included."""

    load: Load

    def sample(self, counts: Counts, cpu_seconds: float, callers: int) -> Sample:
        """Return the window, with a problem where a reply was not OK."""
        load = self.load
        problem = (
            f"{load.error_count} of {callers} callers' requests failed: {load.first_error}" if load.errors else None
        )
        rate = Throughput(load.callers, load.count, load.seconds).per_second
        return Sample(rate, load.latencies, _each(cpu_seconds, counts), load.error_count, problem)


def _drive_h2load(
    address: str, request: bytes, callers: int, seconds: float, warm_up_seconds: float, frontends: int
) -> _H2loadWindow:
    summary, replies = h2load.drive(address, request, callers, warm_up_seconds + seconds, processes=frontends)
    return _H2loadWindow(summary, replies.after(warm_up_seconds))


def _drive_own(
    address: str, request: bytes, callers: int, seconds: float, warm_up_seconds: float, frontends: int
) -> _OwnWindow:
    window = Window(seconds)
    if callers == 1:
        return _OwnWindow(one_at_a_time(address, [request], window, warm_up_seconds=warm_up_seconds))
    connections = h2load.connections(callers, frontends)
    return _OwnWindow(
        closed_loop(address, [request], callers, window, warm_up_seconds=warm_up_seconds, connections=connections)
    )


def _each(cpu_seconds: float, counts: Counts) -> float | None:
    return cpu_seconds / counts.inferences if counts.inferences else None


def _options(frontends: int) -> tuple[str, ...]:
    """Return the server's options; one process needs none, so that a server without front ends is measured too."""
    return () if frontends == 1 else ("--frontends", str(frontends))


def _default_cases(callers: Sequence[int] | None, frontends: Sequence[int] | None) -> list[Case]:
    """Return how the benchmark's own models are loaded: the tiny one by more callers, and with two front ends too."""
    several = frontends or ((1, 2) if _has_frontends() else (1,))
    return [
        Case(each.name, tuple(callers or TINY_CALLERS), tuple(several))
        if each.name == "lenet5"
        else Case(each.name, tuple(callers or CALLERS), tuple(frontends or (1,)))
        for each in EXPORTS
    ]


def _has_frontends() -> bool:
    told = subprocess.run([*NETWEIGHT, "serve", "--help"], capture_output=True, text=True, check=False)
    return "--frontends" in told.stdout


def main(arguments: list[str] | None = None) -> None:
    """Measure the models that are named, print the tables and the targets, write results.json."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    caller = chosen.caller or (h2load.PROGRAM if h2load.available() else "netweight")
    usual = QUICK if chosen.quick else Plan()
    plan = replace(
        usual,
        seconds=chosen.seconds or usual.seconds,
        rounds=chosen.rounds or usual.rounds,
        starts=chosen.starts or usual.starts,
        caller=caller,
    )
    _say(
        f"requests are sent by {'h2load' if caller == h2load.PROGRAM else 'our own caller: h2load would take less CPU'}"
    )
    try:
        rows = bench(*_what(chosen), plan)
    except NetweightError as error:
        parser.exit(1, f"Error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED, "interrupted: nothing was written\n")
    verdicts = judge(rows)
    results = {
        "schema": SCHEMA,
        "environment": environment(),
        "plan": asdict(plan),
        "rows": [asdict(row) for row in rows],
        "targets": [{"target": each.target.title, "measured": each.measured, "met": each.met} for each in verdicts],
    }
    write_text(chosen.output, json.dumps(results, indent=2) + "\n")
    console = Console(width=max(WIDTH, Console().width))  # a pipe would get 80 columns, and figures cut off
    for part in (
        load_table(rows),
        "",
        start_table(rows),
        "",
        *notes(rows),
        "",
        *(verdict.line for verdict in verdicts),
    ):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    _say(f"figures: {chosen.output}")
    if any(row.problem for row in rows):
        parser.exit(1, "Error: some rows do not count; see above\n")


def _what(chosen: argparse.Namespace) -> tuple[list[Case], Path]:
    """Return what is measured and where it lies; the benchmark's own models are exported first."""
    if chosen.repository is not None:
        callers, frontends = tuple(chosen.callers or CALLERS), tuple(chosen.frontends or (1,))
        names = chosen.models or model_names(chosen.repository)
        return [Case(name, callers, frontends) for name in names], chosen.repository
    own = {each.name for each in EXPORTS}
    unknown = [name for name in chosen.models if name not in own]
    if unknown:
        raise NetweightError(f"{unknown[0]}: expected one of {', '.join(sorted(own))}, or --repository DIR beside it")
    cases = [
        case
        for case in _default_cases(chosen.callers, chosen.frontends)
        if not chosen.models or case.network in chosen.models
    ]
    repository = DIRECTORY / "model_repository"
    prepare(repository, [each for each in EXPORTS if each.name in {case.network for case in cases}])
    return cases, repository


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compare.bench", description="The server beside plain ONNX Runtime."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: every model")
    parser.add_argument("--repository", type=Path, help="default: the benchmark's own, in out/bench")
    parser.add_argument("--callers", type=int, nargs="+", metavar="N", help="default 1 8 32; lenet5 1 16 64")
    parser.add_argument("--frontends", type=int, nargs="+", metavar="N", help="front ends; default 1; lenet5 1 2")
    parser.add_argument("--seconds", type=float, help="each number of callers in each round (default 3; quick 1)")
    parser.add_argument("--rounds", type=int, help="default 3; quick 1")
    parser.add_argument("--starts", type=int, help="of the server, for the median of its start (default 3)")
    parser.add_argument("--quick", action="store_true", help="one short round: a first look, not a figure to quote")
    parser.add_argument("--caller", choices=("h2load", "netweight"), help="default: h2load where it is on PATH")
    parser.add_argument("--output", type=Path, default=DIRECTORY / "results.json")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

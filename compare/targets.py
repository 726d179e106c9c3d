"""What netweight is meant to reach on two cores, client included, each target beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.bench_row import MICROSECONDS, MILLISECONDS
from compare.columns import show_number
from compare.cost import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compare.bench_row import BenchRow


@dataclass(frozen=True)
class Target:
    """A bound on one figure of one row; `bound` and the figure in the same unit, `show` writes both."""

    title: str
    network: str
    figure: Callable[[BenchRow], float | None]
    bound: float
    show: Callable[[float], str]
    callers: int | None = None
    """None: a figure of the model's start, the same in each of its rows."""
    frontends: int = 1
    at_least: bool = False


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured; `measured` and `met` are None where no row counts for it."""

    target: Target
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached."""
        if self.measured is None:
            return None
        return self.measured >= self.target.bound if self.target.at_least else self.measured <= self.target.bound

    @property
    def line(self) -> str:
        """The verdict in words."""
        word = {True: "met    ", False: "NOT met", None: "unknown"}[self.met]
        sign = "≥" if self.target.at_least else "≤"
        measured = "not measured" if self.measured is None else self.target.show(self.measured)
        return f"{word}  {self.target.title}: {measured} ({sign} {self.target.show(self.target.bound)})"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _in(unit: str) -> Callable[[float], str]:
    return lambda value: f"{show_number(value)} {unit}"


def _whole(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:,.0f} {unit}"


def _p50_beyond_limit(row: BenchRow) -> float | None:
    if row.latency_p50_seconds is None:
        return None
    return (row.latency_p50_seconds - row.limit_latency_p50_seconds) * MILLISECONDS


def _cpu_beyond_network(row: BenchRow) -> float | None:
    seconds = row.cpu_beyond_network_seconds
    return None if seconds is None else seconds * MICROSECONDS


def _anonymous(row: BenchRow) -> float | None:
    return None if row.anonymous_bytes is None else row.anonymous_bytes / MIB


def _peak(row: BenchRow) -> float | None:
    return None if row.peak_resident_bytes is None else row.peak_resident_bytes / row.model_file_bytes


def _ratio(title: str, network: str, bound: float) -> Target:
    return Target(
        f"{title}, 32 callers, share of the limit", network, lambda row: row.ratio, bound, _share, 32, at_least=True
    )


def _rate(title: str, bound: float, frontends: int) -> Target:
    return Target(
        title,
        "lenet5",
        lambda row: row.throughput_per_second,
        bound,
        _whole("/s"),
        64,
        frontends=frontends,
        at_least=True,
    )


def _ready(title: str, network: str, bound: float) -> Target:
    return Target(f"{title}, start to ready", network, lambda row: row.start_to_ready_seconds, bound, _in("s"))


TARGETS = (
    _ratio("MobileNetV2", "mobilenet_v2", 0.92),
    _ratio("ResNet-50", "resnet50", 0.97),
    _ratio("VGG-16", "vgg16", 0.97),
    Target("MobileNetV2, 1 caller, p50 beyond the limit's", "mobilenet_v2", _p50_beyond_limit, 1.0, _in("ms"), 1),
    _rate("LeNet-5, 64 callers, one process", 6_500, 1),
    _rate("LeNet-5, 64 callers, two front ends", 11_300, 2),
    Target(
        "602 KB request, 32 callers, CPU beyond the network",
        "mobilenet_v2.float32",
        _cpu_beyond_network,
        800,
        _whole("µs"),
        32,
    ),
    Target(
        "1 KB request (LeNet-5), 64 callers, CPU beyond the network",
        "lenet5",
        _cpu_beyond_network,
        160,
        _whole("µs"),
        64,
    ),
    _ready("MobileNetV2", "mobilenet_v2", 0.6),
    _ready("VGG-16", "vgg16", 0.9),
    Target("VGG-16, anonymous memory", "vgg16", _anonymous, 250, _whole("MiB")),
    Target("VGG-16, peak memory ÷ file", "vgg16", _peak, 1.35, lambda value: f"{value:.2f}"),
)


def judge(rows: Sequence[BenchRow], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Return a verdict for each target whose network was measured."""
    networks = {row.network for row in rows}
    return [Verdict(target, _measured(target, rows)) for target in targets if target.network in networks]


def _measured(target: Target, rows: Sequence[BenchRow]) -> float | None:
    for row in rows:
        same_load = target.callers is None or (row.callers == target.callers and row.problem is None)
        if (row.network, row.frontends) == (target.network, target.frontends) and same_load:
            return target.figure(row)
    return None

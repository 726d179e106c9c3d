"""The cost card: what one model costs to ship, to hold, to start and to call, and what it gives for that.

Frozen records with units in their names (bytes, seconds, joules); None means not measured, and never zero. What was
measured several times keeps every value. `compare.comparison` writes and reads them as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from compare.measure import nearest_rank

MB = 10**6
MIB = 2**20


@dataclass(frozen=True)
class Repeated:
    """One figure as each round measured it, in the order of the rounds; at least one."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle."""
        return median(self.rounds)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.rounds)


@dataclass(frozen=True)
class Layer:
    """A layer of the graph with weights: what it holds and what it computes for one sample."""

    name: str
    op: str
    parameters: int
    bytes: int
    multiply_accumulates: int


@dataclass(frozen=True)
class Disk:
    """What the model takes to ship.

    Attributes:
        onnx_bytes: the graph and the weights beside it.
        compressed_bytes: the same through Zstandard at level 3; what an image registry would move.
        checkpoint_bytes: the training's checkpoint.
        layers: as the card of the export tells them, in the graph's order; empty where it does not.
    """

    onnx_bytes: int
    compressed_bytes: int | None = None
    checkpoint_bytes: int | None = None
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class ColdStart:
    """Seconds from starting the server's process to its first answer, cut without a gap; files in the page cache.

    Attributes:
        process: until the program's first line runs: the operating system and the interpreter.
        imports: until its modules are imported.
        session: opening the model: reading the graph, ONNX Runtime's optimisations, mapping the weights.
        warm_up: running it before anybody asks.
        other: the rest until the ready line: ports, the repository's scan.
        first_answer: from the ready line to the first answer, connecting included.
        total: all of it, by the clock of the one who waits.
    """

    process: Repeated
    imports: Repeated
    session: Repeated
    warm_up: Repeated
    other: Repeated
    first_answer: Repeated
    total: Repeated


@dataclass(frozen=True)
class Memory:
    """Bytes that the server's process holds, in the machine's memory or in the GPU's.

    Attributes:
        added_bytes: by loading and warming the model.
        process_bytes: the whole process, ready to serve this one model.
        peak_bytes: the most that the whole process held until the end of the measurement.
        given_back_bytes: by unloading the model after the measurement.
    """

    added_bytes: Repeated
    process_bytes: Repeated | None = None
    peak_bytes: Repeated | None = None
    given_back_bytes: Repeated | None = None


@dataclass(frozen=True)
class Latencies:
    """Raw latencies in seconds as the client saw them, one tuple for each round, in the order of arrival."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        """Samples in all."""
        return sum(len(samples) for samples in self.rounds)

    def percentile(self, percent: float) -> float:
        """Return the latency at `percent` (0..100) of all rounds' samples together, nearest rank; nan without any."""
        return nearest_rank([sample for samples in self.rounds for sample in samples], percent)

    def by_round(self, percent: float) -> Repeated:
        """Return the latency at `percent` (0..100) of each round, nearest rank."""
        return Repeated(tuple(nearest_rank(samples, percent) for samples in self.rounds if samples))


@dataclass(frozen=True)
class SingleStream:
    """One caller, batch 1, a request when the last is answered (MLPerf's SingleStream)."""

    latency: Latencies
    cpu_seconds: Repeated | None = None
    """Of the server for each inference, all its threads."""
    joules: Repeated | None = None
    """For each inference: the whole machine's (see `Energy`)."""


@dataclass(frozen=True)
class Saturation:
    """As many callers as keep the server busy, batch 1 each, a request when the last is answered."""

    callers: int
    inferences_per_second: Repeated
    p50_seconds: Repeated
    p99_seconds: Repeated
    cpu_seconds: Repeated | None = None
    """Of the server for each inference, all its threads."""
    joules: Repeated | None = None


@dataclass(frozen=True)
class Offline:
    """Large batches, back to back (MLPerf's Offline): what the server does when nobody waits for a single answer."""

    batch: int
    callers: int
    inferences_per_second: Repeated


@dataclass(frozen=True)
class Probe:
    """One try of a Poisson rate: arrivals by an exponential clock, whether or not earlier ones were answered.

    Attributes:
        round: of the comparison, from 0.
        rate: requests for each second that were due.
        seed: of the arrival times.
        seconds: over which requests were due.
        sent: requests.
        answered: of them, with status OK.
        p99_seconds: from the moment a request was due to its answer, nearest rank, unanswered ones as infinite: None.
        lateness_p99_seconds: by how much the caller sent later than due: its own part of the latency.
        met: whether the p99 stayed within the bound and every request was answered.
    """

    round: int
    rate: float
    seed: int
    seconds: float
    sent: int
    answered: int
    p99_seconds: float | None
    lateness_p99_seconds: float
    met: bool


@dataclass(frozen=True)
class Server:
    """The highest Poisson rate whose p99 stays under the bound (MLPerf's Server), found by bisection in each round.

    `highest_per_second` is 0 where not even the lowest rate tried stays under the bound.
    """

    bound_seconds: float
    highest_per_second: Repeated
    probes: tuple[Probe, ...]

    @property
    def gap(self) -> float:
        """The widest distance, of all rounds, from the rate found to the lowest above it that failed: what the search left open."""
        return max(
            min(
                (probe.rate for probe in self.probes if probe.round == number and not probe.met and probe.rate > met),
                default=met,
            )
            - met
            for number, met in enumerate(self.highest_per_second.rounds)
        )


@dataclass(frozen=True)
class BatchPoint:
    """One caller that sends batches of one size, back to back."""

    batch: int
    p50_seconds: Repeated
    inferences_per_second: Repeated


@dataclass(frozen=True)
class Accuracy:
    """Top-1 on held-out images, through the server.

    Attributes:
        correct: images whose label came back as the most probable class.
        images: how many there were.
        agreed: images to which the reference answered the same class; None: there is no reference, or it was not asked.
        reference: the model that this one was made from.
    """

    correct: int
    images: int
    agreed: int | None = None
    reference: str | None = None

    @property
    def top1(self) -> float:
        """The share that is right, 0..1."""
        return self.correct / self.images

    @property
    def agreement(self) -> float | None:
        """The share on which it agrees with the reference, 0..1."""
        return None if self.agreed is None else self.agreed / self.images


@dataclass(frozen=True)
class Published:
    """Accuracy as somebody else published it for the architecture, trained: never measured here."""

    top1_percent: float
    top5_percent: float | None
    data: str
    source: str


@dataclass(frozen=True)
class CostCard:
    """What one model, or one variant of it, costs and gives.

    Attributes:
        model: its name in the repository.
        version: that was measured.
        title: for people, such as "VGG-16".
        family: such as "VGG"; None: not known.
        variant: ``fp32``, ``int8``, ...
        reference: the model that a variant or a lighter head was made from.
        trained: False: random weights; None: not known, as of a model from elsewhere.
        adaptation: what was changed in the architecture, in words.
        provider: ONNX Runtime's execution provider.
        input: datatype and shape of one sample, such as ``UINT8 [224, 224, 3]``.
        parameters: of the deployed network.
        multiply_accumulates: for one sample.
        price_per_million: of inferences at saturation, at the hourly price in the comparison's settings.
        errors: requests of the timed windows that were not answered OK (the Poisson probes aside).
    """

    model: str
    version: int
    title: str
    family: str | None
    variant: str
    reference: str | None
    trained: bool | None
    adaptation: str | None
    provider: str | None
    input: str
    disk: Disk
    parameters: int | None = None
    multiply_accumulates: int | None = None
    cold_start: ColdStart | None = None
    memory: Memory | None = None
    gpu_memory: Memory | None = None
    single_stream: SingleStream | None = None
    saturation: Saturation | None = None
    offline: Offline | None = None
    server: Server | None = None
    batches: tuple[BatchPoint, ...] = ()
    accuracy: Accuracy | None = None
    published: Published | None = None
    price_per_million: float | None = None
    errors: int = 0


@dataclass(frozen=True)
class Caller:
    """What the caller itself reaches against a server that answers at once: no figure above this says anything.

    Attributes:
        request_bytes: of each request of this ceiling.
        latency_p50_seconds: one caller.
        requests_per_second: as many callers as at saturation.
    """

    request_bytes: int
    latency_p50_seconds: float
    requests_per_second: float


@dataclass(frozen=True)
class Busy:
    """What else the machine did during the measurement, in cores on the mean.

    Attributes:
        other_cores: CPU time of processes that are neither ours nor the servers that we started.
        stolen_cores: that the hypervisor kept for others (steal).
        is_busy: whether that may have changed the figures: more than a tenth of the usable cores.
    """

    other_cores: float
    stolen_cores: float
    is_busy: bool


@dataclass(frozen=True)
class Settings:
    """How the comparison measured.

    Attributes:
        plan: ``quick``, ``standard``, ``full``.
        rounds: repetitions, each through all models in turn, so that drift hits all alike.
        seconds: of each timed window, beside its warm-up.
        callers: at saturation.
        bound_seconds: the p99 that the Poisson rate must keep.
        hourly_price: of the machine, in whatever money; None: not given.
        seed: of images and arrivals.
        own_server: whether each model had a server of its own, started for it; otherwise a running one was asked.
    """

    plan: str
    rounds: int
    seconds: float
    callers: int
    bound_seconds: float
    hourly_price: float | None
    seed: int
    own_server: bool

"""The whole of stage 2: build, convert, verify, weigh, publish; then the same for each variant of the fp32 file."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from export import heldout as heldouts
from export import reuse
from export import verify as verification
from export.build import Built, Input, build
from export.card import compose, compose_variant
from export.convert import EXTERNAL_DATA_ABOVE_BYTES, OPSET, convert, metadata
from export.heldout import Accuracy, Heldout
from export.publish import MODEL, Publication, Signature, check, publish, staging
from export.weigh import weigh
from models.spec import NetweightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from export.calibration import Calibration
    from models.spec import Architecture, Weights

    Report = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How an export is made, but for its weights; each has the command line's default."""

    name: str | None = None
    """The model's; None: the architecture's."""
    classes: int | None = None
    """How many; None: as many as the weights know, or the architecture's own."""
    input: Input = "uint8"
    """``uint8`` puts preprocessing into the graph, ``float32`` leaves it to the client."""
    opset: int = OPSET
    external_data_above: float = EXTERNAL_DATA_ABOVE_BYTES
    """Bytes of weights from which on they lie beside the graph."""
    tolerance: float = verification.TOLERANCE
    """Of the fp32 file: the largest difference to torch, as a share of the output's scale; a variant has its own."""
    accept_parity: bool = False
    """Whether a file out of tolerance is published, its card saying so."""
    variants: tuple[str, ...] = ()
    """Names of `export.variants.VARIANTS`."""
    calibration: Calibration | None = None
    """Which images int8 takes the ranges of its activations from."""
    heldout: Path | None = None
    """Held-out images; None: those beside the checkpoint, where there are any."""
    fresh: bool = False
    """Whether fp32 is exported anew although its newest version has the same origin."""
    reference: Publication | None = None
    """The fp32 model that answers are held against; None: the network itself, exported as fp32."""


@dataclass(frozen=True)
class Exported:
    """What one export has published."""

    fp32: Publication
    """New, or the one that the variants were made from."""
    reused: bool = False
    """Whether `fp32` was there before."""
    variants: tuple[Publication, ...] = ()
    failures: tuple[str, ...] = ()
    """One line for each variant that could not be had."""


def export(
    architecture: Architecture,
    weights: Weights,
    repository: Path,
    *,
    report: Report = lambda _line: None,
    **options: Any,
) -> Exported:
    """Turn a network into the next version of a model in the repository, and each variant into one of its own model.

    Args:
        architecture: The network's record.
        weights: Where its weights come from; see `models.weights.parse`.
        repository: The model repository's directory, made where it is missing.
        report: Told each step when it begins, and again with its seconds when it is done.
        options: The fields of `Options`.

    Returns:
        What was published; a variant that failed is among its `failures` and does not undo the others.

    Raises:
        NetweightError: anything about the fp32 file that a user can mend; nothing was published then.
    """
    chosen = Options(**options)
    check_variants(chosen.variants)
    run = _prepare(architecture, weights, repository, chosen, report)
    there = run.newest()
    exported = Exported(there or run.publish_fp32(), reused=there is not None)
    for variant in chosen.variants:
        try:
            exported = replace(exported, variants=(*exported.variants, run.publish_variant(variant, exported.fp32)))
        except NetweightError as error:
            exported = replace(exported, failures=(*exported.failures, f"{run.name}.{variant}: {error}"))
    return exported


def check_variants(variants: Sequence[str]) -> None:
    """Refuse unknown variants before the work.

    Raises:
        NetweightError: which there are.
    """
    if not variants:
        return
    from export.variants import VARIANTS

    for variant in variants:
        if variant not in VARIANTS:
            raise NetweightError(f"unknown variant {variant!r}: expected one of {', '.join(VARIANTS)}")


def _prepare(architecture: Architecture, weights: Weights, repository: Path, options: Options, report: Report) -> _Run:
    """Build the network, and read the held-out images that it is measured on.

    Raises:
        NetweightError: the weights cannot be had, the name is taken by another kind of model, or the images are not its.
    """
    name = options.name or architecture.name
    with _step(report, f"{name}: build with {weights.kind} weights ({weights.source})"):
        built = build(architecture, weights, classes=options.classes, input=options.input)
        for note in built.notes:
            report(f"  {note}")
        if built.head and options.name is None:
            name = f"{name}.{built.head['kind']}"
        signature = Signature(options.input, built.image_shape, len(built.class_names))
        check(repository, name, signature)
        images = heldouts.find(weights, options.heldout)
        heldout = heldouts.read(images, built) if images else None
    return _Run(name, built, signature, repository, options, heldout, report)


@dataclass(frozen=True)
class _Run:
    """One network that is being exported."""

    name: str
    built: Built
    signature: Signature
    repository: Path
    options: Options
    heldout: Heldout | None
    report: Report

    def newest(self) -> Publication | None:
        """Return the newest fp32 version where only variants of it are wanted: made of the same by the same tools."""
        options = self.options
        if not options.variants or options.fresh:
            return None
        found = reuse.find(self.repository, self.name, self.built, options.opset)
        if found:
            self.report(
                f"{self.name}: version {found.version} was made from the same weights by the same tools, so only "
                "variants are added (--fresh exports fp32 again)"
            )
        return found

    def publish_fp32(self) -> Publication:
        """Convert the network and publish it."""
        options, built, name = self.options, self.built, self.name
        with staging(self.repository) as directory:
            with self.step(f"{name}: convert to ONNX, opset {options.opset}"):
                files = convert(
                    built.module,
                    built.images(2, seed=0),
                    directory / MODEL,
                    opset=options.opset,
                    external_data_above=options.external_data_above,
                    metadata=metadata(built),
                )
            random = verification.Unseen(built.images(max(verification.BATCHES), verification.SEED))
            parity = self._verify(name, files[0], random, options.tolerance)
            reference = options.reference
            accuracy = self._measure(name, files[0], reference.path / MODEL if reference else None)
            with self.step(f"{name}: weigh and publish in {self.repository}"):
                card = compose(built, files, options.opset, weigh(files[0]), parity, accuracy, reference)
                return publish(directory, self.repository, name, self.signature, built.class_names, card)

    def publish_variant(self, variant: str, fp32: Publication) -> Publication:
        """Make a variant from the published fp32 file, and publish it as a model of its own."""
        from export.variants import VARIANTS, make

        name = f"{self.name}.{variant}"
        check(self.repository, name, self.signature)
        with staging(self.repository) as directory:
            path = directory / MODEL
            with self.step(f"{name}: make from {fp32.name} version {fp32.version}"):
                facts = make(
                    variant,
                    fp32.path / MODEL,
                    path,
                    self.options.calibration,
                    external_data_above=self.options.external_data_above,
                )
            parity = self._verify(name, path, self._unseen(), VARIANTS[variant].tolerance)
            accuracy = self._measure(name, path, (self.options.reference or fp32).path / MODEL)
            with self.step(f"{name}: weigh and publish in {self.repository}"):
                files = sorted(directory.iterdir())
                card = compose_variant(fp32, variant, facts, files, weigh(path), parity, accuracy)
                return publish(directory, self.repository, name, self.signature, self.built.class_names, card)

    def step(self, what: str) -> AbstractContextManager[None]:
        """Report a step when it begins, and its seconds once it has succeeded."""
        return _step(self.report, what)

    def _verify(self, name: str, path: Path, unseen: verification.Unseen, tolerance: float) -> verification.Parity:
        """Hold a file against torch."""
        batches = ", ".join(map(str, verification.BATCHES))
        with self.step(f"{name}: verify against torch at batches {batches} ({unseen.inputs})"):
            accept = self.options.accept_parity
            parity = verification.verify(path, self.built.module, unseen, tolerance=tolerance, accept=accept)
        if parity.accepted:
            self.report(f"{name}: accepted although out of tolerance: {parity.complaint}")
        return parity

    def _unseen(self) -> verification.Unseen:
        """Return what a variant is verified with: held-out images where there are any, else random ones."""
        count, seed = max(verification.BATCHES), verification.SEED
        if self.heldout is None or len(self.heldout.labels) < count:
            return verification.Unseen(self.built.images(count, seed))
        return verification.Unseen(self.heldout.sample(count, seed), self.heldout.source, seed)

    def _measure(self, name: str, path: Path, fp32: Path | None) -> Accuracy | None:
        """Measure a file on the held-out images, beside the fp32 file (None: it is that itself)."""
        if self.heldout is None:
            return None
        with self.step(f"{name}: measure on {len(self.heldout.labels)} held-out images"):
            answered = heldouts.answers(path, self.heldout)
            return heldouts.accuracy(self.heldout, answered, self._fp32_answers(fp32) if fp32 else answered)

    def _fp32_answers(self, fp32: Path) -> NDArray[np.int64]:
        """Return what the fp32 file answers to the held-out images."""
        assert self.heldout is not None
        return heldouts.answers(fp32, self.heldout)


@contextmanager
def _step(report: Report, what: str) -> Iterator[None]:
    """Report a step when it begins, and its wall-clock seconds once it has succeeded."""
    report(f"{what} ...")
    start = time.perf_counter()
    yield
    report(f"  {time.perf_counter() - start:.1f} s")

"""Accuracy on held-out images, and on how many of them a model answers as the one that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compare.answers import HeldOutFiles, predictions
from compare.card import read_card, versions
from compare.cost import Accuracy
from compare.images import fit, input_tensor
from compare.place import max_batch_size
from server.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from compare.card import Reference
    from compare.place import Places
    from compare.subject import Subject


class Agreement:
    """Keeps what each model answered to which held-out file, and asks references that are not compared themselves."""

    def __init__(self, places: Places) -> None:
        """Store where references are served."""
        self._places = places
        self._files = HeldOutFiles()
        self._answered: dict[tuple[str, Path], NDArray[np.int64]] = {}
        self._accuracy: dict[str, Accuracy] = {}

    @property
    def files(self) -> HeldOutFiles:
        """The held-out files."""
        return self._files

    def keep(self, subject: Subject, path: Path) -> Accuracy:
        """Count which of a model's answers to a held-out file are right."""
        assert subject.predictions is not None
        labels = self._files.of(path).labels
        self._answered[subject.name, path] = subject.predictions
        counted = Accuracy(int(np.sum(subject.predictions == labels)), len(labels))
        self._accuracy[subject.name] = counted
        return counted

    def hold_against_reference(self, subject: Subject, path: Path) -> Accuracy | None:
        """Count the images to which the reference answers the same class; None: there is no such reference.

        The reference is asked at a server of its own, unless it answered the same images before.
        """
        reference = subject.card.reference
        if reference is None or subject.predictions is None or not self._is_served(reference):
            return None
        key = reference.name, path
        if key not in self._answered:
            self._answered[key] = self._ask(reference, path)
        agreed = int(np.sum(subject.predictions == self._answered[key]))
        counted = self._accuracy[subject.name]
        self._accuracy[subject.name] = Accuracy(counted.correct, counted.images, agreed, reference.name)
        return self._accuracy[subject.name]

    def of(self, subject: Subject) -> Accuracy | None:
        """Return what was counted of a model; None: it answered no held-out images."""
        return self._accuracy.get(subject.name)

    def _is_served(self, reference: Reference) -> bool:
        """Whether a server would serve this very version: the repository's newest one."""
        return versions(self._places.repository, reference.name)[-1:] == [reference.version]

    def _ask(self, reference: Reference, path: Path) -> NDArray[np.int64]:
        card = read_card(self._places.repository, reference.name, reference.version)
        with self._places.serve(reference.name) as place, Client(place.address) as client:
            tensor = input_tensor(reference.name, client.metadata(reference.name).inputs)
            images = fit(self._files.of(path).images, tensor, card.preprocessing)
            return predictions(client, tensor, images, max_batch_size(place.address, reference.name) or 0)

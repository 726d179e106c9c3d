"""How large a request may be in each respect, besides its bytes: held against it before anything is made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.pb import inference_pb2 as pb

MOST_DIMENSIONS = 32
"""Of a tensor."""
MOST_DETAILS_BYTES = 2000
"""Of a status' details, in UTF-8: they travel as a header, each byte as up to three, and callers take 8 KiB of those."""
SHOWN = 80
"""Characters of a name that messages show."""


@dataclass(frozen=True)
class Limits:
    """Of one ModelInfer."""

    tensors: int = 256
    """Inputs, and outputs asked for."""
    elements: int = 2**26
    """Of one tensor; the largest message by default holds so many UINT8."""
    listed_elements: int = 2**21
    """Of one tensor as BYTES or in typed contents, or of a classification: each is an object for a while."""
    parameters: int = 64
    """Of the request, and of each of its tensors."""
    string_characters: int = 4096
    """Of a name, a version, an id, a parameter's name or text."""

    def check_head(self, texts: tuple[str, str, str], inputs: int, outputs: int) -> None:
        """See that the model's name, its version and the request's id are short, and that there are not many tensors.

        Raises:
            InvalidArgumentError: it is otherwise; the message names the setting, as those of the other checks.
        """
        for text in texts:
            if len(text) > self.string_characters:
                self.check_text("a name, version or id", text)
        if inputs > self.tensors or outputs > self.tensors:
            raise _beyond("a request", max(inputs, outputs), "inputs or outputs", self.tensors, "--max-tensors")

    def check_text(self, where: str, text: str) -> None:
        """See that a text is short enough."""
        if len(text) > self.string_characters:
            raise _beyond(where, len(text), "characters", self.string_characters, "--max-string-characters")

    def check_elements(self, where: str, shape: tuple[int, ...], *, listed: bool) -> None:
        """See that a tensor has not too many dimensions or elements.

        Args:
            where: names the tensor.
            shape: its extents.
            listed: it is of BYTES or in typed contents.
        """
        if len(shape) > MOST_DIMENSIONS:
            raise InvalidArgumentError(f"{where} has {len(shape)} dimensions; expected at most {MOST_DIMENSIONS}")
        count = math.prod(shape)
        if count > self.elements:
            raise _beyond(where, count, "elements", self.elements, "--max-tensor-elements")
        if listed and count > self.listed_elements:
            what = "elements as BYTES or typed contents"
            raise _beyond(where, count, what, self.listed_elements, "--max-listed-elements")

    def check_classification(self, where: str, k: int) -> None:
        """See that not too many classes are asked for."""
        if k > self.listed_elements:
            raise _beyond(where, k, "classes", self.listed_elements, "--max-listed-elements")

    def check_parameters(self, where: str, parameters: Mapping[str, pb.InferParameter]) -> None:
        """See that there are not too many parameters, and that none is too long."""
        if len(parameters) > self.parameters:
            raise _beyond(where, len(parameters), "parameters", self.parameters, "--max-parameters")
        for name, value in parameters.items():
            self.check_text(f"{where}: a parameter's name", name)
            self.check_text(f"{where}: parameter {name[:SHOWN]!r}", value.string_param)


def shortened(details: str) -> str:
    """Return a status' details as they may be sent."""
    encoded = details.encode(errors="replace")
    if len(encoded) <= MOST_DETAILS_BYTES:
        return encoded.decode()
    return encoded[:MOST_DETAILS_BYTES].decode(errors="ignore") + "..."


def _beyond(where: str, got: int, what: str, most: int, option: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{where}: got {got} {what}; expected at most {most} (the server's {option})")

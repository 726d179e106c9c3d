"""What a case of the table is, and the few checks that cases share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

PATIENCE_SECONDS = 20.0
Check = Callable[[Any], None]
"""Asserts something of an answer."""


@dataclass(frozen=True)
class Step:
    """One call and what must come of it."""

    call: str
    """A method of tritonclient's `InferenceServerClient`, or a call's own name (`ModelInfer`): the bare message."""
    send: Mapping[str, Any] = field(default_factory=dict)
    """The method's arguments, or the request's fields."""
    status: str = "OK"
    check: Check | None = None
    """Of the answer, where the status is OK."""
    says: tuple[str, ...] = ()
    """What the message of a failure names: model, tensor, what was expected and came. Wording is each server's own, so
    that this is held against ours only."""
    ours: bool = False
    """Other servers answer this call otherwise, and are not judged by it."""
    patient: bool = False
    """What the call before this one began may take a moment: try again for `PATIENCE_SECONDS`."""

    @property
    def bare(self) -> bool:
        """Whether the message is sent as it stands, past the client's own methods."""
        return self.call[0].isupper()


@dataclass(frozen=True)
class Case:
    """Steps by one client, in order."""

    name: str
    steps: tuple[Step, ...]
    extension: str = ""
    """The extension of the protocol that it needs, as ServerMetadata names it; none: any server must pass."""
    ours: bool = False
    """Only this server promises it."""

    @property
    def bare(self) -> bool:
        """Whether a step is a bare message: then no other way of calling is worth trying."""
        return any(step.bare for step in self.steps)


def case(name: str, call: str, status: str = "OK", check: Check | None = None, **send: Any) -> Case:
    """Return a case of one step."""
    return Case(name, (Step(call, send, status, check),))


def tensor(name: str, array: Any) -> triton.InferInput:
    """Return an input that holds this array."""
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def fp32(*rows: tuple[float, ...]) -> Any:
    """Return FP32 [len(rows), len(row)]."""
    return np.array(rows, np.float32)


def x(*rows: tuple[float, ...]) -> list[triton.InferInput]:
    """Return the inputs of a model whose only one is x, FP32."""
    return [tensor("x", fp32(*rows))]


def gives(**outputs: Any) -> Check:
    """Check that an answer has these outputs, bit for bit."""

    def check(answer: Any) -> None:
        for name, want in outputs.items():
            got = answer.as_numpy(name)
            assert got is not None, f"no output {name}"
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_array_equal(got, want)

    return check


def equals(want: Any) -> Check:
    """Check that an answer is just this."""

    def check(answer: Any) -> None:
        assert answer == want

    return check


def holds(**want: Any) -> Check:
    """Check some fields of an answer, whether it is a message or, as JSON, a dict."""

    def check(answer: Any) -> None:
        for name, value in want.items():
            got = answer[name] if isinstance(answer, dict) else getattr(answer, name)
            assert (list(got) if isinstance(value, list) else got) == value, name

    return check

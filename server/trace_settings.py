"""Which requests are traced: for the whole server, and in its place for single models; changed by TraceSetting.

The words are Triton's in its mode `opentelemetry`. Only requests that begin a trace are counted here: one whose caller
traces it already is traced too, unless the level is OFF.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.errors import InvalidArgumentError, UnimplementedError

LEVELS = ("OFF", "TIMESTAMPS")
MODE = "opentelemetry"
FIXED = {"trace_mode": MODE, "trace_file": "", "log_frequency": "0"}
"""Settings of Triton that have one value here."""
WITHOUT_END = -1
LARGEST = 2**31 - 1


@dataclass
class Scope:
    """The settings of the server, or of one model; None: the server's."""

    level: str | None = None
    rate: int | None = None
    """Every rate-th request is traced; 0: none but those that their caller traces."""
    count: int | None = None
    """So many requests more are traced; -1: without end."""
    seen: int = 0
    """Requests that ``rate`` was asked about."""


class TraceSettings:
    """The settings of tracing.

    Args:
        on: whether the server was started with tracing; without it the level stays OFF.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._lock = threading.Lock()
        self._server = self._initial()
        self._models: dict[str, Scope] = {}

    def choose(self, model: str, *, parented: bool) -> bool:
        """Return whether a request is traced, and count it.

        Args:
            model: the name that it asks for.
            parented: whether its caller traces it.
        """
        with self._lock:
            own = self._models.get(model, self._server)
            if (own.level or self._server.level) == "OFF":
                return False
            return parented or self._choose_root(own)

    def show(self, model: str) -> dict[str, list[str]]:
        """Return a model's settings (the server's, if the name is empty) as they now are."""
        with self._lock:
            own = self._models.get(model, Scope())
            given = {
                "trace_level": own.level or self._server.level,
                "trace_rate": self._server.rate if own.rate is None else own.rate,
                "trace_count": self._server.count if own.count is None else own.count,
                "trace_mode": MODE,
            }
        return {key: [str(value)] for key, value in given.items()}

    def update(self, model: str, changes: Mapping[str, Sequence[str]]) -> None:
        """Change a model's settings (the server's, if the name is empty): all of them, or none if one is wrong.

        Args:
            model: its name.
            changes: texts by key; no text: back to the server's setting, or for the server to what it started with.

        Raises:
            InvalidArgumentError: an unknown key or a wrong value.
            UnimplementedError: a setting that is fixed here.
        """
        read = {key: self._read(key, list(values)) for key, values in changes.items()}
        with self._lock:
            own = self._models.get(model, Scope()) if model else self._server
            initial = Scope() if model else self._initial()
            for key, value in read.items():
                name = key.removeprefix("trace_")
                if key not in FIXED:
                    setattr(own, name, getattr(initial, name) if value is None else value)
            if "trace_rate" in read:
                own.seen = 0
            if model:
                self._models[model] = own
                if (own.level, own.rate, own.count) == (None, None, None):
                    del self._models[model]

    def _initial(self) -> Scope:
        return Scope("TIMESTAMPS" if self._on else "OFF", 1, WITHOUT_END)

    def _choose_root(self, own: Scope) -> bool:
        rated = self._server if own.rate is None else own
        assert rated.rate is not None
        rated.seen += 1
        if not rated.rate or rated.seen % rated.rate:
            return False
        counted = self._server if own.count is None else own
        assert counted.count is not None
        if counted.count > 0:
            counted.count -= 1
            return True
        return counted.count == WITHOUT_END

    def _read(self, key: str, values: list[str]) -> Any:
        """Return a setting's value; None: it is to be as it was before anybody set it."""
        if key not in READ and key not in FIXED:
            raise InvalidArgumentError(f"unknown trace setting {key!r}; expected one of {', '.join((*READ, *FIXED))}")
        if not values or values == [""]:
            return None
        if len(values) > 1:
            raise InvalidArgumentError(f"{key} came as {values}; expected one value")
        if key in FIXED:
            return _unchanged(key, values[0])
        value = READ[key](key, values[0])
        if value == "TIMESTAMPS" and not self._on:
            raise InvalidArgumentError(
                "trace_level cannot be TIMESTAMPS: this server was started without tracing; "
                "start it with --trace-endpoint http://COLLECTOR:4317"
            )
        return value


def _unchanged(key: str, value: str) -> str:
    if value != FIXED[key]:
        raise UnimplementedError(f"{key} is {FIXED[key]!r} and cannot be changed: spans go to --trace-endpoint only")
    return value


def _level(key: str, value: str) -> str:
    if value not in LEVELS:
        raise InvalidArgumentError(f"{key} is {value!r}; expected one of {', '.join(LEVELS)}")
    return value


def _whole(low: int) -> Callable[[str, str], int]:
    def read(key: str, value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= LARGEST:
            raise InvalidArgumentError(f"{key} is {value!r}; expected a whole number from {low} to {LARGEST}")
        return number

    return read


READ: dict[str, Callable[[str, str], Any]] = {
    "trace_level": _level,
    "trace_rate": _whole(0),
    "trace_count": _whole(WITHOUT_END),
}
"""How each setting that can be changed is read."""

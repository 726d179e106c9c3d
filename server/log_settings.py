"""How much is logged, and how: changed by LogSettings while the server runs. The words are Triton's.

Each severity is on or off by itself. Log lines go to standard error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from server.config import LogLevel
from server.errors import InvalidArgumentError, UnimplementedError

LogFormat = Literal["default", "ISO8601"]
LINE = "%(asctime)s %(levelname)s %(message)s"
ISO8601 = "%Y-%m-%dT%H:%M:%SZ"
Value: TypeAlias = "bool | int | str"


@dataclass(frozen=True)
class LogState:
    """All settings as they are; the protocol's names."""

    log_file: str = ""
    """Always empty: standard error."""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    """Above 0: debug lines too."""
    log_format: LogFormat = "default"
    """ISO8601: times in UTC."""

    @classmethod
    def of(cls, level: LogLevel) -> LogState:
        """Return the settings that the server's setting ``log_level`` stands for."""
        rank = get_args(LogLevel).index(level)
        return cls(log_info=rank <= 1, log_warning=rank <= 2, log_verbose_level=int(rank == 0))

    def shows(self, level: int) -> bool:
        """Return whether a line of this level of `logging` is written."""
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0

    def apply(self) -> None:
        """Have the root logger, and its handlers, log so."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        root = logging.getLogger()
        root.setLevel(next((level for level in levels if self.shows(level)), logging.CRITICAL + 1))
        formatter = logging.Formatter(LINE)
        if self.log_format == "ISO8601":
            formatter = logging.Formatter(LINE, ISO8601)
            formatter.converter = time.gmtime
        for handler in root.handlers:
            handler.setFormatter(formatter)
            for old in [each for each in handler.filters if isinstance(each, _Shown)]:
                handler.removeFilter(old)
            handler.addFilter(_Shown(self))


class _Shown(logging.Filter):
    """Lets the lines pass that a state shows."""

    def __init__(self, state: LogState) -> None:
        super().__init__()
        self._state = state

    def filter(self, record: logging.LogRecord) -> bool:
        return self._state.shows(record.levelno)


class LogSettings:
    """The log's settings while the server runs.

    Args:
        level: the server's setting.
        changed: told the state after each change.
    """

    def __init__(self, level: LogLevel, changed: Callable[[LogState], None]) -> None:
        self._state = LogState.of(level)
        self._changed = changed
        self._lock = threading.Lock()

    def show(self) -> dict[str, Value]:
        """Return all settings as they now are."""
        return asdict(self._state)

    def update(self, changes: Mapping[str, Value | None]) -> None:
        """Change settings: all of them, or none if one is wrong.

        Args:
            changes: by name; None: no value came.

        Raises:
            InvalidArgumentError: an unknown setting, a value of the wrong type or out of range.
            UnimplementedError: a log file.
        """
        for name, value in changes.items():
            _check(name, value)
        if not changes:
            return
        with self._lock:
            read: dict[str, Any] = dict(changes)
            self._state = replace(self._state, **read)
            self._state.apply()
            self._changed(self._state)


def _check(name: str, value: Value | None) -> None:
    initial = asdict(LogState())
    if name not in initial:
        raise InvalidArgumentError(f"unknown log setting {name!r}; expected one of {', '.join(initial)}")
    kind = type(initial[name])
    if type(value) is not kind:
        raise InvalidArgumentError(f"{name} is {value!r}; expected {NAMES[kind]}")
    if name == "log_format" and value not in get_args(LogFormat):
        raise InvalidArgumentError(f"log_format is {value!r}; expected one of {', '.join(get_args(LogFormat))}")
    if name == "log_file" and value:
        raise UnimplementedError(f"log_file is {value!r}: the log goes to standard error; expected the empty text")


NAMES = {bool: "a bool_param", int: "a uint32_param", str: "a string_param"}

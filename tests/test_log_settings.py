"""The log's settings: each severity by itself, the format, and what is refused."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from server.errors import InvalidArgumentError, ServerError, UnimplementedError
from server.log_settings import LINE, LogSettings, LogState, Value

INITIAL: dict[str, Value] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


@pytest.fixture(autouse=True)
def written() -> Iterator[io.StringIO]:
    """The root logger writes here, beside what pytest catches; afterwards all is as before."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(LINE))
    root.handlers = [handler]
    root.setLevel("INFO")
    yield stream
    for each in (*root.handlers, *handlers):  # pytest's own are the same for every test
        each.filters.clear()
    root.handlers = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    """Log one line of each severity; return those that were written, without their times."""
    stream.seek(0)
    stream.truncate()
    log = logging.getLogger("server.some")
    for say in (log.debug, log.info, log.warning, log.error):
        say("told")
    return re.findall(r"(\w+) told$", stream.getvalue(), re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["INFO", "WARNING", "ERROR"]),
        ({"log_verbose_level": 1}, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ({"log_info": False}, ["WARNING", "ERROR"]),
        ({"log_warning": False}, ["INFO", "ERROR"]),
        ({"log_verbose_level": 2, "log_info": False, "log_error": False}, ["DEBUG", "WARNING"]),
        ({"log_info": False, "log_warning": False, "log_error": False}, []),
    ],
)
def test_each_severity_is_switched_by_itself(
    written: io.StringIO, changes: dict[str, Any], expected: list[str]
) -> None:
    """A line is written if its own severity is on, and the settings show what was asked for."""
    settings = LogSettings("info", lambda _: None)
    settings.update(changes)
    assert lines(written) == expected
    assert settings.show() == {**INITIAL, **changes}
    settings.update({name: value for name, value in INITIAL.items() if name in changes})
    assert lines(written) == ["INFO", "WARNING", "ERROR"]


def test_times_are_in_utc_if_asked_for(written: io.StringIO) -> None:
    """ISO8601 writes times as UTC, and default goes back."""
    settings = LogSettings("info", lambda _: None)
    settings.update({"log_format": "ISO8601"})
    lines(written)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO told\n", written.getvalue())
    settings.update({"log_format": "default"})
    lines(written)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO told\n", written.getvalue())


@pytest.mark.parametrize(
    ("level", "differs"),
    [
        ("debug", {"log_verbose_level": 1}),
        ("info", {}),
        ("warning", {"log_info": False}),
        ("error", {"log_info": False, "log_warning": False}),
    ],
)
def test_the_servers_level_is_where_they_start(level: Any, differs: dict[str, Any]) -> None:
    """Each value of --log-level is shown as what it writes."""
    assert LogSettings(level, lambda _: None).show() == {**INITIAL, **differs}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"log_colour": True}, InvalidArgumentError, "unknown log setting 'log_colour'; expected one of log_file, "),
        ({"log_info": "yes"}, InvalidArgumentError, "log_info is 'yes'; expected a bool_param"),
        ({"log_info": 1}, InvalidArgumentError, "log_info is 1; expected a bool_param"),
        ({"log_error": None}, InvalidArgumentError, "log_error is None; expected a bool_param"),
        ({"log_verbose_level": True}, InvalidArgumentError, "log_verbose_level is True; expected a uint32_param"),
        ({"log_format": "xml"}, InvalidArgumentError, "log_format is 'xml'; expected one of default, ISO8601"),
        ({"log_file": "out.log"}, UnimplementedError, "log_file is 'out.log': the log goes to standard error"),
    ],
)
def test_wrong_changes_are_refused_whole(
    written: io.StringIO, changes: dict[str, Any], error: type[ServerError], text: str
) -> None:
    """A wrong setting is told, and the right ones beside it are not made either."""
    told: list[LogState] = []
    settings = LogSettings("info", told.append)
    with pytest.raises(error, match=text):
        settings.update({"log_warning": False, **changes})
    assert settings.show() == INITIAL
    assert not told
    assert lines(written) == ["INFO", "WARNING", "ERROR"]


def test_who_logs_too_is_told(written: io.StringIO) -> None:
    """Other processes hear of a change, and not of a question."""
    told: list[LogState] = []
    settings = LogSettings("info", told.append)
    settings.update({"log_info": False, "log_file": ""})
    settings.update({})
    assert told == [LogState(log_info=False)]

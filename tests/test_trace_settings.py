"""Which requests are traced: by level, rate and count, of the server and of single models."""

from __future__ import annotations

import pytest

from server.errors import InvalidArgumentError, ServerError, UnimplementedError
from server.trace_settings import TraceSettings

INITIAL = {
    "trace_level": ["TIMESTAMPS"],
    "trace_rate": ["1"],
    "trace_count": ["-1"],
    "trace_mode": ["opentelemetry"],
}


@pytest.fixture
def settings() -> TraceSettings:
    return TraceSettings(on=True)


def chosen(settings: TraceSettings, model: str = "m", requests: int = 6, *, parented: bool = False) -> str:
    """Return one letter for each request: y where it is traced."""
    return "".join("y" if settings.choose(model, parented=parented) else "n" for _ in range(requests))


def test_every_request_is_traced_at_first(settings: TraceSettings) -> None:
    """Without a change, each request is traced, and the settings say so for the server and for a model."""
    assert chosen(settings) == "yyyyyy"
    assert settings.show("") == settings.show("m") == INITIAL


def test_the_rate_chooses_every_nth(settings: TraceSettings) -> None:
    """Rate n traces each n-th request that begins a trace; 0 traces none of them; a caller's trace goes on."""
    settings.update("", {"trace_rate": ["3"]})
    assert chosen(settings) == "nnynny"
    settings.update("", {"trace_rate": ["0"]})
    assert chosen(settings) == "nnnnnn"
    assert chosen(settings, parented=True) == "yyyyyy"


def test_the_count_runs_down(settings: TraceSettings) -> None:
    """Count n traces n requests more, and shows how many are left; a caller's trace neither needs nor uses it."""
    settings.update("", {"trace_count": ["2"]})
    assert chosen(settings, parented=True) == "yyyyyy"
    assert chosen(settings, requests=1) == "y"
    assert settings.show("")["trace_count"] == ["1"]
    assert chosen(settings) == "ynnnnn"
    assert settings.show("")["trace_count"] == ["0"]


def test_the_rate_spares_the_count(settings: TraceSettings) -> None:
    """Only requests that are traced are taken off the count."""
    settings.update("", {"trace_rate": ["2"], "trace_count": ["2"]})
    assert chosen(settings) == "nynynn"


def test_off_stops_everything(settings: TraceSettings) -> None:
    """Level OFF traces nothing, not even what the caller traces."""
    settings.update("", {"trace_level": ["OFF"]})
    assert chosen(settings) == chosen(settings, parented=True) == "nnnnnn"


def test_a_model_has_settings_of_its_own(settings: TraceSettings) -> None:
    """A model's setting takes the server's place, one by one; other models keep the server's."""
    settings.update("m", {"trace_level": ["OFF"]})
    assert (chosen(settings), chosen(settings, "other")) == ("nnnnnn", "yyyyyy")
    assert settings.show("m") == {**INITIAL, "trace_level": ["OFF"]}
    assert settings.show("") == INITIAL
    settings.update("", {"trace_rate": ["2"]})
    assert settings.show("m")["trace_rate"] == ["2"]
    settings.update("m", {"trace_level": ["TIMESTAMPS"], "trace_count": ["1"]})
    assert (chosen(settings), chosen(settings, "other")) == ("nynnnn", "nynyny")


def test_a_cleared_setting_is_the_servers_again(settings: TraceSettings) -> None:
    """No value puts a model's setting back to the server's, and the server's to what it started with."""
    settings.update("", {"trace_rate": ["4"], "trace_count": ["7"]})
    settings.update("m", {"trace_rate": ["9"], "trace_count": ["3"], "trace_level": ["OFF"]})
    settings.update("m", {"trace_rate": [], "trace_count": [""], "trace_level": []})
    assert settings.show("m") == settings.show("")
    settings.update("", {"trace_rate": [], "trace_count": []})
    assert settings.show("m") == settings.show("") == INITIAL


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (
            {"trace_colour": ["red"]},
            InvalidArgumentError,
            "unknown trace setting 'trace_colour'; expected one of trace_l",
        ),
        (
            {"trace_level": ["TENSORS"]},
            InvalidArgumentError,
            "trace_level is 'TENSORS'; expected one of OFF, TIMESTAMPS",
        ),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, InvalidArgumentError, "expected one value"),
        ({"trace_rate": ["-1"]}, InvalidArgumentError, "trace_rate is '-1'; expected a whole number from 0"),
        ({"trace_rate": ["often"]}, InvalidArgumentError, "trace_rate is 'often'; expected a whole number"),
        ({"trace_count": ["-2"]}, InvalidArgumentError, "trace_count is '-2'; expected a whole number from -1"),
        ({"trace_count": ["99999999999"]}, InvalidArgumentError, "expected a whole number from -1 to 2147483647"),
        ({"trace_file": ["trace.json"]}, UnimplementedError, "trace_file is '' and cannot be changed"),
        ({"log_frequency": ["100"]}, UnimplementedError, "log_frequency is '0' and cannot be changed"),
        ({"trace_mode": ["triton"]}, UnimplementedError, "trace_mode is 'opentelemetry' and cannot be changed"),
    ],
)
def test_wrong_changes_are_refused_whole(
    settings: TraceSettings, changes: dict[str, list[str]], error: type[ServerError], text: str
) -> None:
    """A wrong setting is told, and the right ones beside it are not made either."""
    with pytest.raises(error, match=text):
        settings.update("m", {"trace_rate": ["5"], **changes})
    assert settings.show("m") == INITIAL


def test_fixed_settings_may_be_said(settings: TraceSettings) -> None:
    """Triton's other settings are tolerated with the one value that they have here, or with none."""
    settings.update("m", {"trace_mode": ["opentelemetry"], "trace_file": [""], "log_frequency": ["0"]})
    settings.update("", {"trace_mode": [], "trace_file": [], "log_frequency": []})
    assert settings.show("m") == INITIAL


def test_without_tracing_it_cannot_be_switched_on() -> None:
    """A server that was started without tracing says OFF, and how to start it to have more."""
    settings = TraceSettings(on=False)
    assert settings.show("") == {**INITIAL, "trace_level": ["OFF"]}
    with pytest.raises(InvalidArgumentError, match="start it with --trace-endpoint"):
        settings.update("m", {"trace_level": ["TIMESTAMPS"]})
    settings.update("m", {"trace_level": ["OFF"], "trace_rate": ["2"]})
    assert chosen(settings) == "nnnnnn"

"""Settings that can be read and changed while the server runs. What a case changes it puts back."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from tests.conformance.case import Case, Step


def has(*names: str) -> Any:
    """Check that these settings are among the answer's."""

    def check(answer: Any) -> None:
        settings = answer["settings"] if isinstance(answer, dict) else answer.settings
        assert set(names) <= set(settings)

    return check


def verbose(level: int) -> Any:
    """Check the log's verbosity."""

    def check(answer: Any) -> None:
        assert answer.settings["log_verbose_level"].uint32_param == level

    return check


def rate(*want: str) -> Any:
    """Check how many requests there are for each trace."""

    def check(answer: Any) -> None:
        assert list(answer.settings["trace_rate"].value) == list(want)

    return check


def log(status: str = "OK", check: Any = None, **settings: Any) -> Step:
    """Change the log's settings."""
    return Step("update_log_settings", {"settings": settings}, status, check)


def trace(status: str = "OK", check: Any = None, model: str | None = None, **settings: Any) -> Step:
    """Change the trace settings."""
    return Step("update_trace_settings", {"settings": settings, "model_name": model}, status, check)


def wrong(**settings: str) -> Step:
    """Send text where another type belongs, which the client's own method would refuse."""
    values = {name: pb.LogSettingsRequest.SettingValue(string_param=text) for name, text in settings.items()}
    return Step("LogSettings", {"settings": values}, INVALID)


INVALID = "INVALID_ARGUMENT"
LOG = ("log_info", "log_warning", "log_error", "log_verbose_level", "log_format")
TRACE = ("trace_level", "trace_rate")

CASES = (
    Case("log settings", (Step("get_log_settings", check=has(*LOG)),), "logging"),
    Case("log settings as JSON", (Step("get_log_settings", {"as_json": True}, check=has(*LOG)),), "logging"),
    Case(
        "change a log setting",
        (
            log(check=verbose(1), log_verbose_level=1),
            Step("get_log_settings", check=verbose(1)),
            log(check=verbose(0), log_verbose_level=0),
        ),
        "logging",
    ),
    Case("an unknown log setting", (log(INVALID, nosuch=True),), "logging", ours=True),
    Case("a log setting of a wrong type", (wrong(log_verbose_level="much"), wrong(log_info="yes")), "logging"),
    Case("trace settings", (Step("get_trace_settings", check=has(*TRACE)),), "trace"),
    Case("trace settings as JSON", (Step("get_trace_settings", {"as_json": True}, check=has(*TRACE)),), "trace"),
    Case(
        "trace settings of a model", (Step("get_trace_settings", {"model_name": "scale"}, check=has(*TRACE)),), "trace"
    ),
    Case(
        "change a trace setting",
        (
            trace(check=rate("77"), trace_rate="77"),
            Step("get_trace_settings", check=rate("77")),
            trace(trace_rate=None),
        ),
        "trace",
    ),
    Case("an unknown trace setting", (trace(INVALID, nosuch="1"),), "trace", ours=True),
    Case("a trace setting of a wrong value", (trace(INVALID, trace_rate="often"),), "trace"),
)

"""Settings: checked when built."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from server.config import Settings
from server.errors import StartError


def test_the_defaults_are_valid_and_told() -> None:
    """Every setting has a default that passes its own check, and a line of help."""
    Settings()
    assert all(field.metadata["help"].endswith(".") for field in fields(Settings))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("grpc_port", 65536, "grpc_port is 65536; expected 0 to 65535"),
        ("max_queue_size", 0, "max_queue_size is 0; expected at least 1"),
        ("provider", "tpu", "provider is 'tpu'; expected one of auto, cpu, cuda"),
        ("queue_timeout_seconds", -1.0, "queue_timeout_seconds is -1.0; expected at least 0"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, text: str) -> None:
    """A value outside its limits is refused with the limits."""
    with pytest.raises(StartError, match=text):
        Settings(**{name: value})

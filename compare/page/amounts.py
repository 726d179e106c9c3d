"""Amounts in words, each with its unit: MB are 10^6 bytes, MiB are 2^20."""

from __future__ import annotations

from compare.columns import show_number
from compare.cost import MB, MIB

GLUE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def megabytes(amount: float) -> str:
    """Return bytes as MB."""
    return f"{show_number(amount / MB)}{GLUE}MB"


def mebibytes(amount: float) -> str:
    """Return bytes as MiB."""
    return f"{show_number(amount / MIB)}{GLUE}MiB"


def duration(seconds: float) -> str:
    """Return a duration in milliseconds below one second, else in seconds."""
    return f"{show_number(seconds * 1e3)}{GLUE}ms" if seconds < 1 else f"{show_number(seconds)}{GLUE}s"


def rate(per_second: float) -> str:
    """Return inferences for each second."""
    return f"{show_number(per_second)}{GLUE}inferences/s"


def percent(share: float) -> str:
    """Return a share, 0..1, in percent with one digit."""
    return f"{share * 100:.1f}{GLUE}%"


def listed(names: list[str]) -> str:
    """Return names as a sentence tells them: ``a``, ``a and b``, ``a, b and c``."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)

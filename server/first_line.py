"""When this program's first line ran: netweight.py imports this before anything else, and nothing is imported here."""

from __future__ import annotations

import time

RAN = time.monotonic()
"""In `time.monotonic` seconds."""

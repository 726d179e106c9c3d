"""Callbacks after a delay, in order, in one thread."""

from __future__ import annotations

import threading

from server.timeouts import Timeouts


def test_callbacks_come_in_the_order_that_they_are_due() -> None:
    """What is due first is called first, whatever was asked for first; one that comes late is not forgotten."""
    timeouts = Timeouts()
    called: list[str] = []
    done = threading.Event()
    timeouts.after(0.15, done.set)
    timeouts.after(0.1, lambda: called.append("second"))
    timeouts.after(0.02, lambda: called.append("first"))
    assert done.wait(10)
    assert called == ["first", "second"]
    timeouts.close()


def test_close_forgets_the_rest() -> None:
    """After close nothing is called any more, and the thread has ended."""
    timeouts = Timeouts()
    called = threading.Event()
    timeouts.after(0.2, called.set)
    timeouts.close()
    assert not called.wait(0.4)


def test_close_without_a_callback() -> None:
    """Without a callback there was never a thread."""
    before = threading.active_count()
    timeouts = Timeouts()
    assert threading.active_count() == before
    timeouts.close()

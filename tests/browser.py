"""A real headless Chromium for tests of pages; skipped aloud where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium for the time of the context."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: expected one of {', '.join(NAMES)} in PATH; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, html: str, *, width: int = 1200, **context: Any) -> Iterator[Page]:
    """Show a page; whatever it says on the console as an error, throws or asks the network for fails the test."""
    window = browser.new_context(viewport={"width": width, "height": 900}, **context)
    complaints: list[str] = []
    page = window.new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
    page.on("request", lambda request: complaints.append(f"asked for {request.url}"))
    window.route("**/*", lambda route: route.abort())
    try:
        page.set_content(html)
        yield page
    finally:
        window.close()
    assert [each for each in complaints if not each.startswith("asked for data:")] == []

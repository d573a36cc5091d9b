"""The gateway's page in a browser, for tests: each page watched for what it must never do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.browser import CHROMIUM

WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `make tools` installs it")


@contextmanager
def opened(browser: Browser, url: str, status: str = "on", **context: Any) -> Iterator[Page]:
    """The gateway's page at `url`, once it shows that status of the server.

    When it is left, nothing may have failed in its code, nothing been blocked by its own policy, and nothing asked of
    any other host.
    """
    faults: list[str] = []
    with browser.new_context(**context) as own:
        page = own.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        page.on("request", lambda request: None if request.url.startswith(url) else faults.append(request.url))
        page.goto(url)
        page.wait_for_selector(f"#link[data-state={status}]")
        yield page
        assert faults == []


def _is_fault(message: Any) -> bool:
    """An answer with a status of an error is one that the page deals with."""
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")

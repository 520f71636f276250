"""A real browser for tests of pages: whatever a page complains of or fetches is seen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def watched(browser: Browser, own: str) -> Iterator[BrowserContext]:
    """A fresh browser; at the end nothing but `own` (a pattern of URLs) and data was fetched, and
    nothing was complained about."""
    context = browser.new_context(viewport={"width": 1300, "height": 850})
    requests: list[str] = []
    troubles: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    context.on("console", lambda message: troubles.append(message.text))
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    context.on("dialog", lambda dialog: troubles.append(dialog.message))
    yield context
    context.close()
    fetched = [url for url in requests if not re.match(rf"{own}|data:", url)]
    assert (fetched, troubles) == ([], [])

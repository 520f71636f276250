"""A browser for the report page, and a page opened in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.eval.report_data import Record

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser; at the end nothing was fetched and nothing was complained about."""
    own = browser.new_context(viewport={"width": 1300, "height": 850})
    requests: list[str] = []
    troubles: list[str] = []
    own.on("request", lambda request: requests.append(request.url))
    own.on("console", lambda message: troubles.append(message.text))
    own.on("weberror", lambda error: troubles.append(str(error.error)))
    own.on("dialog", lambda dialog: troubles.append(dialog.message))
    yield own
    own.close()
    fetched = [url for url in requests if not re.match(r"file://.*/report\.html|data:", url)]
    assert (fetched, troubles) == ([], [])


@pytest.fixture
def open_report(context: BrowserContext, tmp_path: Path) -> Callable[..., Page]:
    from eval.report.html import write_html
    from tests.eval.report_data import pictures, summarise

    def open_one(
        items: list[Record], summaries: list[Record] | None = None, state: str = ""
    ) -> Page:
        path = tmp_path / "report.html"
        write_html(path, summaries or [summarise(items)], items, pictures())
        page = context.new_page()
        page.goto(f"{path.as_uri()}#{state}")
        return page

    return open_one

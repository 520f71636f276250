"""A browser for the report page, and a page opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import browser, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.eval.report_data import Record

__all__ = ["browser"]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with watched(browser, r"file://.*/report\.html") as own:
        yield own


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

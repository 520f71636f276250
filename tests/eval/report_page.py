"""What tests of the report page do with it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from tests.browser import needs_browser
from tests.eval.report_data import Record

__all__ = ["needs_browser"]

Open = Callable[..., Page]


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def listed(page: Page) -> list[str]:
    """Ids of the first rows of the list, from the top."""
    rows = page.locator(".row").evaluate_all(
        "rows => rows.map(row => [row.getAttribute('aria-posinset'), row.dataset.key])"
    )
    return [key.split("/", 1)[1] for _, key in sorted((int(at), key) for at, key in rows)]


def open_item(page: Page, item: Record) -> None:
    page.fill("[name=q]", item["id"])
    # The list is made anew a moment after the last key; a click in its middle would be lost.
    held = "query => new URLSearchParams(location.hash.slice(1)).get('q') === query"
    page.wait_for_function(held, arg=item["id"])
    page.locator(f'.row[data-key="{item["benchmark"]}/{item["id"]}"]').click()


def told(items: list[Record], caption: Record, index: int = 0) -> Record:
    """The items' first video item, with one caption replaced in part."""
    item = next(i for i in items if i["benchmark"] == "clips")
    item["captions"][index] = item["captions"][index] | caption
    return item

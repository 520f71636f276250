"""The report page: scores, and every item with its captions, in one file that needs no server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprl_native.observe.page.document import (
    json_array,
    pictures_json,
    shared,
    template,
    write_page,
)

_PAGE = Path(__file__).with_name("page")
_SHARED = shared("elements.js", "search.js", "rows.js", "times.js", "browsing.js")
_SCRIPTS = ("figures", "summary", "items", "list", "item", "events")  # one scope, in this order


def write_html(
    path: Path,
    summaries: Sequence[Mapping[str, Any]],
    items: Iterable[Mapping[str, Any]],
    pictures: Mapping[str, str],
) -> None:
    """Writes the page; it appears whole or not at all.

    `summaries`: one per run, the first is the run itself. Their figures are in the benchmark's unit
    ("%": 0 to 100); the scores of items and verdicts are as the benchmark's rule gives them (for
    "%": 0 to 1). A benchmark of another scale may say with `full` what a wholly right answer
    scores. `items` are read once, in the order that the page shows. `pictures`: the data URIs that
    the items' media name.

    Raises ValueError where there is no run, for a figure that is not finite, and for a picture that
    is no data URI.
    """
    if not summaries:
        raise ValueError("a report needs the summary of one run at least")
    parts = {
        "SUMMARIES": json_array(summaries),
        "ITEMS": json_array(items),
        "PICTURES": pictures_json(pictures.items()),
    }
    write_page(path, _template(), parts)


def _template() -> str:
    """The page without data: the pieces in page/ and those of all pages as one document."""
    return template(
        _PAGE / "page.html",
        styles=[*shared("theme.css", "base.css"), _PAGE / "page.css"],
        scripts=[*_SHARED, *(_PAGE / f"{name}.js" for name in _SCRIPTS)],
    )

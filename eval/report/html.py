"""The report page: scores, and every item with its captions, in one file that needs no server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprl_native.files import atomic_write

_PAGE = Path(__file__).with_name("page")
_SCRIPTS = ("figures", "summary", "items", "list", "times", "item", "events")  # one scope, in order
_PLACE = re.compile(r"@@(POLICY|SUMMARIES|ITEMS|PICTURES)@@")
_OWN_CODE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
# What could end a script element, what older parsers take for a line's end, what UTF-8 has not.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


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
    template = _template()
    parts = {
        "POLICY": [_policy(template)],
        "SUMMARIES": _array(summaries),
        "ITEMS": _array(items),
        "PICTURES": _object(pictures),
    }
    with atomic_write(path) as file:
        for i, piece in enumerate(_PLACE.split(template)):
            file.writelines(parts[piece] if i % 2 else [piece])


def _template() -> str:
    """The page without data: the pieces in page/ as one document."""

    def read(name: str) -> str:
        return (_PAGE / name).read_text("utf-8")

    scripts = "\n".join(read(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    return read("page.html").replace("@@STYLE@@", read("page.css")).replace("@@SCRIPT@@", script)


def _policy(template: str) -> str:
    """A content security policy: the template's own script and style run, and nothing is fetched.

    A caption that got into the page as markup all the same would still be dead.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, code in _OWN_CODE.findall(template):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    sources = "; ".join(f"{kind}-src {' '.join(own)}" for kind, own in hashes.items())
    return f"default-src 'none'; img-src data:; {sources}; base-uri 'none'; form-action 'none'"


def _json(value: Any) -> str:
    """JSON that can stand in a script element and be written as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _array(values: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line per value, so that a page of thousands of items never stands in memory whole."""
    before = "["
    for value in values:
        yield f"{before}\n{_json(dict(value))}"
        before = ","
    yield "[]" if before == "[" else "\n]"


def _object(pictures: Mapping[str, str]) -> Iterator[str]:
    before = "{"
    for name, picture in pictures.items():
        if not picture.startswith("data:image/"):
            raise ValueError(f"picture {name!r} is no data URI of an image: {picture[:40]!r}")
        yield f"{before}\n{_json(name)}:{_json(picture)}"
        before = ","
    yield "{}" if before == "{" else "\n}"

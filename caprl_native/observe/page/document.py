"""Pages in one file that needs no server: the evaluation's, the curation's, a run's.

A page is a template with pieces of style and script from this folder and from its own, and blocks
of data. All that a model or a file wrote stands in data blocks, which no parser takes for markup,
or is escaped; what got into the page as markup all the same would be dead by its policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from caprl_native.files import atomic_write

SHARED = Path(__file__).parent
_PLACE = re.compile(r"@@([A-Z]+)@@")
_OWN_CODE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
# What could end a script element, what older parsers take for a line's end, what UTF-8 has not.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def template(page: Path, *, styles: Sequence[Path], scripts: Sequence[Path] = ()) -> str:
    """The page without data. `page` has places for the `@@STYLE@@`, the `@@SCRIPT@@` (the pieces
    share one scope), the `@@POLICY@@` and data."""
    style = "".join(path.read_text("utf-8") for path in styles)
    script = "\n".join(path.read_text("utf-8") for path in scripts)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    text = page.read_text("utf-8")
    return text.replace("@@STYLE@@", style).replace("@@SCRIPT@@", script)


def shared(*names: str) -> list[Path]:
    """Pieces of this folder."""
    return [SHARED / name for name in names]


def policy(page: str, *, asks: bool = False) -> str:
    """A content security policy: the template's own script and style run, and nothing is fetched.

    `asks`: the page may ask the server that it came from.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, code in _OWN_CODE.findall(page):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    sources = "; ".join(f"{kind}-src {' '.join(own)}" for kind, own in hashes.items() if own)
    sources += "; connect-src 'self'" if asks else ""
    return f"default-src 'none'; img-src data:; {sources}; base-uri 'none'; form-action 'none'"


def filled(page: str, parts: Mapping[str, Iterable[str]], *, asks: bool = False) -> Iterator[str]:
    """The page with its data, piece by piece; `parts`: by the names of their places."""
    known: dict[str, Iterable[str]] = {"POLICY": [policy(page, asks=asks)], **parts}
    for i, piece in enumerate(_PLACE.split(page)):
        yield from known[piece] if i % 2 else [piece]


def write_page(path: Path, page: str, parts: Mapping[str, Iterable[str]]) -> None:
    """Writes the page; it appears whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(filled(page, parts))


# --- data -------------------------------------------------------------------------------------


def json_text(value: Any) -> str:
    """JSON that can stand in a script element and be written as UTF-8.

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return json_safe(text)


def json_safe(text: str) -> str:
    """JSON from elsewhere as `json_text` writes it."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_array(values: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line per value, so that a page of thousands of items never stands in memory whole."""
    before = "["
    for value in values:
        yield f"{before}\n{json_text(dict(value))}"
        before = ","
    yield "[]" if before == "[" else "\n]"


def pictures_json(pictures: Iterable[tuple[str, str]]) -> Iterator[str]:
    """An object of data URIs by name. Raises ValueError for what is no picture's."""
    before = "{"
    for name, picture in pictures:
        if not picture.startswith("data:image/"):
            raise ValueError(f"picture {name!r} is no data URI of an image: {picture[:40]!r}")
        yield f"{before}\n{json_text(name)}:{json_text(picture)}"
        before = ","
    yield "{}" if before == "{" else "\n}"


def finite(value: Any) -> Any:
    """The value with null for each number in it that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list) else value


# --- markup -----------------------------------------------------------------------------------


def markup_text(value: Any) -> str:
    """Text of whatever origin as a page's markup can hold it."""
    return escape(_UNPRINTABLE.sub("\ufffd", str(value)), quote=True)

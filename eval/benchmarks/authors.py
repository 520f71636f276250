"""Image benchmarks in their authors' own files: which columns hold what.

Images are paths, or embedded: as Parquet files of the Hugging Face hub have them (an object with
`bytes`), as bytes, or in base64 as in VLMEvalKit's tables, where a row may name the row whose image
it shares.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from caprl_native.data.choices import LETTERS, parse_choices
from caprl_native.data.formats import FieldError
from caprl_native.types import MediaRef
from eval.benchmarks.base import Files, Row
from eval.items import Broken
from eval.scoring.relaxed import literal_list

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_PLACE = re.compile(r"<image ?\d*>")
_SPLIT = re.compile(r"\s*;\s*(?=[A-Z][.．、:)])")  # "A. one; B. two"
IMAGE = "[image]"


@dataclass(frozen=True)
class Columns:
    """Where an author's file has what a question consists of; of several names, the first there.

    `images`: names of one column, or several columns of one image each (`several`). `choices`: a
    list, a text that spells one as Python does, or labelled texts. `lettered`: columns of a choice
    each. `folders`: where paths of images may start, below the media root. `suffix`: of images that
    are named without one. `nested`: keys of a JSON object under which the records are.
    """

    question: tuple[str, ...] = ("question",)
    answer: tuple[str, ...] = ("answer",)
    images: tuple[str, ...] = ("image",)
    several: bool = False
    choices: tuple[str, ...] = ()
    lettered: tuple[tuple[str, ...], ...] = (tuple("ABCDEFGHIJ"),)
    folders: tuple[str, ...] = ("", "images")
    suffix: str = ""
    nested: tuple[str, ...] = ()

    def has(self, row: Row) -> bool:
        """Whether the row is of the authors' file: it has a question, or choices, in a column."""
        return any(_there(row.value.get(name)) for name in (*self.question, *self.choices))


def _there(value: Any) -> bool:
    return value is not None and value == value and value != ""


def first_of(row: Row, names: Iterable[str]) -> Any:
    """The first of these fields that is there. Raises `FieldError` where none is."""
    known = list(names)
    for name in known:
        if _there(row.value.get(name)):
            return row.value[name]
    raise FieldError(known[0], "missing or empty", f"give {' or '.join(known)}")


def question_of(row: Row, columns: Columns) -> str:
    """The question's text; "" where the image alone shows it. Its images' places say "[image]"."""
    return _PLACE.sub(IMAGE, row.text(*columns.question, default="")).strip()


def choices_in(row: Row, columns: Columns) -> tuple[str, ...]:
    """The choices that columns hold; none where they hold none, or their letters alone."""
    for name in columns.choices:
        value = row.value.get(name)
        if _there(value):
            return _parsed(name, value)
    for names in columns.lettered:
        found = [row.value.get(name) for name in names]
        while found and not _there(found[-1]):
            found.pop()
        if len(found) > 1:
            return _parsed(names[0], found)
    return ()


def _parsed(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        listed = literal_list(value)
        value = listed if listed is not None else _SPLIT.split(value.strip().rstrip(";"))
    if not isinstance(value, list):
        raise FieldError(name, f"expected a list, got {value!r:.60}", "give a list of texts")
    if not value or [str(v).strip(" ().") for v in value] == list(LETTERS[: len(value)]):
        return ()
    try:
        found = parse_choices(value)
    except ValueError as error:
        raise FieldError(name, str(error)) from error
    return tuple(_PLACE.sub(IMAGE, text) for text in found)


# --- images -----------------------------------------------------------------------------------


def images_of(row: Row, files: Files, columns: Columns) -> tuple[MediaRef, ...]:
    """The row's images. Raises `FieldError` where there are none."""
    if columns.several:
        values = [row.value[n] for n in columns.images if _there(row.value.get(n))]
    else:
        values = [first_of(row, columns.images)]
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    if not flat:
        raise FieldError(columns.images[0], "missing or empty", "give an image")
    return tuple(_image(row, files, columns, value) for value in flat)


def _image(row: Row, files: Files, columns: Columns, value: Any) -> MediaRef:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and _BASE64.fullmatch(value):
        try:
            value = base64.b64decode(value, validate=False)
        except binascii.Error as error:
            raise FieldError(columns.images[0], f"damaged base64: {error}") from error
    if isinstance(value, bytes) and value:
        return MediaRef("image", data=value, label=row.source)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise FieldError(columns.images[0], f"expected an image, got {value!r:.60}")
    if re.match(r"(https?|data):", value):
        raise FieldError(columns.images[0], f"{value!r:.60} is no local file", "download it")
    name = value.strip() + columns.suffix * ("." not in value)
    paths = [f"{folder}/{name}" if folder else name for folder in columns.folders]
    return MediaRef("image", files.medium(row.file, *paths))


# --- rows -------------------------------------------------------------------------------------


def unnested(rows: Iterator[Row | Broken], names: Sequence[str]) -> Iterator[Row | Broken]:
    """The records of JSON objects that have them in a list under one of these keys."""
    found = list(rows)
    lists = [r for r in found if isinstance(r, Row) and _key(r) in names]
    if not any(isinstance(row.value, list) for row in lists):
        yield from found
        return
    for row in lists:
        for number, record in enumerate(row.value, 1):
            yield Row(record, f"{row.source}:{number}", row.file)


def _key(row: Row) -> str:
    return row.source.removeprefix(f"{row.file}:")


def with_shared_images(rows: Iterator[Row | Broken]) -> Iterator[Row | Broken]:
    """Rows of a table whose image is another row's `index`, with that row's image.

    A row that comes later cannot be named.
    """
    images: dict[str, str] = {}
    for row in rows:
        if isinstance(row, Row) and isinstance(row.value, dict):
            image, index = str(row.value.get("image") or ""), str(row.value.get("index") or "")
            if _BASE64.fullmatch(image):
                images[index] = image
            elif image in images:
                row = Row({**row.value, "image": images[image]}, row.source, row.file)
        yield row

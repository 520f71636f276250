"""One record of a data file -> a `Sample`, in whichever format it is written.

The formats that plugins register are asked first, then those of `record_formats/` by name; a record
that is in none of them is read as the released ones are (`record_formats/plain.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from caprl_native.data.chats import DEFAULT_PROMPTS
from caprl_native.data.fields import FieldError, check_texts, kind_of
from caprl_native.data.invalid import WrongQuestion, never
from caprl_native.data.question_columns import QuestionColumns
from caprl_native.data.record_formats import FORMATS, PLAIN, Kind, Reading, parse_plain
from caprl_native.data.stage import stage_of
from caprl_native.types import Sample

__all__ = ["DEFAULT_PROMPTS", "FieldError", "Kind", "added_formats", "parse_record"]

# What a format raises on a record that it did not expect.
_UNEXPECTED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def parse_record(
    raw: Any,
    *,
    kind: Kind,
    source: str,
    default_id: str,
    media_root: str,
    prompt_override: str = "",
    max_media: int = 0,
    columns: QuestionColumns | None = None,
    dropped: list[WrongQuestion] | None = None,
    no_answer: Callable[[str], bool] = never,
    curriculum: str = "",
) -> Sample:
    """The sample that one decoded record describes; `max_media` 0: any number. Raises `FieldError`.

    With `columns` it may have no questions left, and so with a list `dropped`, into which those go
    that are wrong; without one they are errors. `curriculum`: the column that has its stage.

    Every text in the record is looked at, also in fields that are not used: half of a surrogate
    pair says that the file was damaged.
    """
    if not isinstance(raw, dict):
        raise FieldError("record", f"expected an object, got {kind_of(raw)}")
    check_texts(raw)
    reading = Reading(
        kind, source, default_id, media_root, prompt_override, max_media, dropped, no_answer
    )
    sample = _in_some_format(raw, reading)
    if curriculum:
        sample = replace(sample, stage=stage_of(raw, curriculum))
    if not columns or not sample.questions:
        return sample
    return columns.apply(sample, raw, [wrong.number for wrong in dropped or ()])


def _in_some_format(raw: dict[str, Any], reading: Reading) -> Sample:
    added = added_formats()
    for name in (*added, *(own for own in FORMATS if own not in (PLAIN, *added))):
        if (sample := _parsed(name, raw, reading)) is not None:
            return sample
    return parse_plain(raw, reading)


def added_formats() -> tuple[str, ...]:
    """The names of the formats that plugins add, in the order in which they are tried."""
    own = f"{FORMATS.package}."
    return tuple(
        name for name in FORMATS if not type(FORMATS[name].value).__module__.startswith(own)
    )


def _parsed(name: str, raw: dict[str, Any], reading: Reading) -> Sample | None:
    """The sample, None for a record in another format. Raises `FieldError`."""
    try:
        if not FORMATS[name].value.matches(raw):
            return None
        sample = FORMATS[name].value.parse(raw, reading)
    except FieldError:
        raise
    except _UNEXPECTED as error:
        problem = f"the format {name!r} cannot read it: {type(error).__name__}: {error!s:.200}"
        raise FieldError("record", problem) from error
    reading.check_some_media(list(sample.media))
    reading.check_not_too_many(list(sample.media))
    if reading.kind == "questions" and not sample.questions and not reading.dropped:
        raise FieldError("questions", f"the format {name!r} found none")
    if reading.kind == "response" and not sample.response:
        raise FieldError("response", f"the format {name!r} found none")
    return sample

"""What is wrong with a field of a record, and the checks that all fields share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from caprl_native.messages import cut, shown

_MAX_DEPTH = 100  # of nested lists and objects; a real record has five levels
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


class DataError(ValueError):
    """Data files are wrong; the message names file, line (or row), field, and the fix."""


class FieldError(ValueError):
    """A field of a record is wrong: which one, what is wrong, and how it is put right.

    `reason`: the few words that such faults are counted by, without what this record holds.
    """

    def __init__(self, field: str, problem: str, fix: str = "", reason: str = "") -> None:
        super().__init__(field, problem, fix, reason)
        self.field, self.problem, self.fix = field, problem, fix
        self.reason = reason or f"{re.split(r'[.[]', field)[0]}: cannot be used"

    def __str__(self) -> str:
        field, problem = cut(self.field, 120), cut(self.problem, 300)
        return f"{field}: {problem}" + (f"; {self.fix}" if self.fix else "")


class UnreadableFile(FieldError):
    """The rest of the file cannot be read either: no record of it may be left out silently."""


class QuestionError(FieldError):
    """One question of a record cannot be asked."""


def kind_of(value: Any) -> str:
    """A value that was not expected, in words."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}
    return names.get(type(value)) or shown(value, 60)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError saying what is wrong and where."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"malformed JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:  # Python converts no more than 4,300 digits
        raise ValueError("a number has thousands of digits") from error


def decoded(value: Any, where: str) -> Any:
    """The value itself, or what it holds if it is a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        found = loads(value)
    except ValueError as error:
        raise FieldError(where, f"is a text that is not JSON: {error}", "mend or unpack it") from (
            error
        )
    check_texts(found, where)
    return found


def check_texts(value: Any, where: str = "") -> None:
    """Raises FieldError for a text anywhere in a value that no file and no tokenizer takes.

    That is half of a surrogate pair (an emoji that was cut), or a NUL, or lists without end.
    """
    for place, text in _texts(value, where or "record", where):
        if found := _UNUSABLE.search(text):
            what = "a NUL character" if found[0] == "\0" else "half of a surrogate pair"
            raise FieldError(place, f"the text holds {what}", "remove it, or rewrite the text")


def _texts(value: Any, where: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(place, text) of all texts, names of fields included."""
    waiting = [(value, where, prefix, 0)]
    while waiting:
        value, where, prefix, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise FieldError(where.split(".")[0].split("[")[0], "nested too deeply")
        if isinstance(value, str):
            yield where, value
        elif isinstance(value, dict):
            for key, item in value.items():
                name = str(key)
                yield where, name
                inner = f"{prefix}.{name}" if prefix else name
                waiting.append((item, inner, inner, depth + 1))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                inner = f"{prefix or where}[{i}]"
                waiting.append((item, inner, inner, depth + 1))

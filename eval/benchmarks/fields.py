"""Fields that several annotation formats have: lists, choices, and the letter of the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caprl_native.data.choices import LETTERS, parse_choices
from caprl_native.data.formats import FieldError
from eval.benchmarks.base import Row
from eval.scoring.relaxed import literal_list


def list_of(row: Row, *names: str) -> list[Any]:
    """The first of these fields that is there: a list, or a text that spells one as Python does.

    Tables have the latter. Raises `FieldError` where none is there, or no list with an element.
    """
    name = next((n for n in names if row.value.get(n) is not None), None)
    if name is None:
        raise FieldError(names[0], "missing", f"give {' or '.join(names)}")
    value = row.value[name]
    found = literal_list(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not found:
        raise FieldError(name, f"expected a list, got {value!r:.60}", "give a list of texts")
    return found


def choices_of(row: Row, *names: str) -> tuple[str, ...]:
    """A list of choices, without labels "A. ". Raises `FieldError`."""
    raw = list_of(row, *names)
    try:
        return parse_choices(raw)
    except ValueError as error:
        raise FieldError(names[0], str(error)) from error


def letter_of(row: Row, name: str, choices: Sequence[str]) -> str:
    """The letter of the right choice. Raises `FieldError` for anything else."""
    text = row.text(name)
    letter = text.strip("(). ").upper()
    if len(letter) != 1 or letter not in LETTERS[: len(choices)]:
        last = LETTERS[len(choices) - 1]
        raise FieldError(name, f"{text!r} is no choice's letter", f"give a letter from A to {last}")
    return letter

"""The one description that a thinking model gives behind its thoughts, as a JSON object."""

from __future__ import annotations

import json
import re
from typing import Any

from caprl_native.text.thoughts import CLOSES

KEY = "description"
_FENCED = re.compile(r"```[A-Za-z]*\s*(\{.*\})\s*```", re.DOTALL)


class WrongForm(ValueError):
    """An output that gives no description; the text says why not."""


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its keys, those given twice included."""


def read_description(written: str) -> str:
    """The description in `THOUGHTS</think>{"description": TEXT}`, in a code fence or not.

    Raises:
        WrongForm: no or several closing marks, other keys, a text that is none or blank, or
            anything beside the object.
    """
    _, *answers = written.split(CLOSES)
    if len(answers) != 1:
        raise WrongForm(f"{len(answers)} closing think tags, expected one")
    answer = answers[0].strip()
    fenced = _FENCED.fullmatch(answer)
    try:
        found = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        raise WrongForm("no JSON object alone after the closing think tag") from None
    if not isinstance(found, _Object) or [key for key, _ in found] != [KEY]:
        raise WrongForm(f'expected a JSON object with the key "{KEY}" and no other')
    text = found[0][1]
    if not isinstance(text, str) or not text.strip():
        raise WrongForm("the description is no text, or a blank one")
    if not _is_unicode(text):
        raise WrongForm("the description holds half of a surrogate pair")
    return text.strip()


def description_in(written: str) -> str | None:
    """The same, or None."""
    try:
        return read_description(written)
    except WrongForm:
        return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""What a rollout remembers: one JSON object after its thoughts, {"description": "..."}."""

from __future__ import annotations

import json
import re
from typing import Any

from caprl_native.text.thoughts import CLOSES

KEY = "description"
_FENCED = re.compile(r"```(?:json)?[ \t]*\n?(.*?)\n?[ \t]*```", re.DOTALL)


class WrongForm(ValueError):
    """An output that is no memory; the text says why not."""


def read_memory(raw: str) -> str:
    """The description in an output, thoughts included.

    Exactly one closing think tag; after it, in a code fence or without, one JSON object with
    exactly the key "description" and a text that is not blank.

    Raises:
        WrongForm: it is anything else.
    """
    if (marks := raw.count(CLOSES)) != 1:
        raise WrongForm(f"{marks} closing think tags, expected one")
    answer = raw.partition(CLOSES)[2].strip()
    fenced = _FENCED.fullmatch(answer)
    try:
        pairs = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_Object, strict=False)
    except (ValueError, RecursionError):
        raise WrongForm("no JSON object alone after the closing think tag") from None
    if not isinstance(pairs, _Object) or [key for key, _ in pairs] != [KEY]:
        raise WrongForm(f'expected a JSON object with the key "{KEY}" and no other')
    text = pairs[0][1]
    if not isinstance(text, str) or not text.strip():
        raise WrongForm("the description is no text, or an empty one")
    if not _is_unicode(text):
        raise WrongForm("the description holds half of a surrogate pair")
    return text


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its keys, those given twice included."""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

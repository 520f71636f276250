"""The one description that a thinking model gives behind its thoughts, as a JSON object."""

from __future__ import annotations

import json
import re

from caprl_native.text.thoughts import CLOSES

KEY = "description"
_FENCE = re.compile(r"\A```[A-Za-z]*\s*\n(.*)\n\s*```\Z", re.DOTALL)


def description_in(written: str) -> str | None:
    """The description in `THOUGHTS</think>{"description": TEXT}`, in a code fence or not.

    None for anything else: no or several closing marks, other keys, a text that is none or blank,
    or anything beside the object.
    """
    _, *answers = written.split(CLOSES)
    if len(answers) != 1:
        return None
    answer = answers[0].strip()
    fenced = _FENCE.match(answer)
    try:
        found = json.loads(fenced[1] if fenced else answer, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], tuple):
        return None
    key, text = found[0]  # an object's pairs; a key that stands twice would be two of them
    if key != KEY:
        return None
    return text.strip() if isinstance(text, str) and text.strip() else None

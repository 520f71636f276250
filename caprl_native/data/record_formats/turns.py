"""What the turns of a chat must be like, in whichever layout they are written."""

from __future__ import annotations

from typing import Any

from caprl_native.data.fields import FieldError


def check_turns(turns: list[Any], name: str, *, speaker: str, content: str) -> None:
    """Of turns as `role` and `content`; the record calls these `speaker` and `content`.

    Raises `FieldError` where the assistant speaks first, or says nothing.
    """
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    first = next((i for i, role in enumerate(roles) if role != "system"), None)
    if first is not None and roles[first] == "assistant":
        problem, fix = "the assistant speaks first", "begin with what it is asked"
        raise FieldError(f"{name}[{first}].{speaker}", problem, fix, "first turn the assistant's")
    for i, turn in enumerate(turns):
        if roles[i] == "assistant" and _is_blank(turn.get("content")):
            fix = "give the answer, or remove the record"
            raise FieldError(f"{name}[{i}].{content}", "missing or empty", fix, "empty answer")


def _is_blank(content: Any) -> bool:
    if isinstance(content, list):
        return all(
            isinstance(part, dict) and "text" in part and _is_blank(part["text"])
            for part in content
        )
    return content is None or (isinstance(content, str) and not content.strip())

"""What the turns of a chat must be like, in whichever layout they are written.

`speaker` and `content` are what the layout calls a turn's two fields.
"""

from __future__ import annotations

from typing import Any

from caprl_native.data.chats import is_text_of_chat
from caprl_native.data.fields import FieldError, kind_of

# Of a turn, beside what it says: what would be lost, and what would make answers count differently.
_UNLEARNABLE = (
    "tool_calls", "function_call", "tool_call_id", "audio", "refusal", "reasoning_content",
)  # fmt: skip
_WEIGHTS = ("weight", "loss", "train")


def has_turns(value: Any, speaker: str) -> bool:
    """Whether a field holds a chat of this layout, or a JSON text of one."""
    if isinstance(value, str):  # decoded once it is known to be one
        return is_text_of_chat(value) and f'"{speaker}"' in value
    return isinstance(value, list) and any(
        isinstance(turn, dict) and turn.get(speaker) is not None for turn in value
    )


def check_turns(turns: list[Any], name: str, *, speaker: str, content: str) -> None:
    """Of turns that have been made into `role` and `content`.

    Raises `FieldError` where the assistant speaks first, or says nothing, or a turn has what would
    not be learnt.
    """
    for i, turn in enumerate(turns):
        if isinstance(turn, dict):
            _check_rest(turn, f"{name}[{i}]")
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    first = next((i for i, role in enumerate(roles) if role != "system"), None)
    if first is not None and roles[first] == "assistant":
        problem, fix = "the assistant speaks first", "begin with what it is asked"
        raise FieldError(f"{name}[{first}].{speaker}", problem, fix, "first turn the assistant's")
    for i, turn in enumerate(turns):
        if roles[i] == "assistant" and _is_blank(turn.get("content")):
            fix = "give the answer, or remove the record"
            raise FieldError(f"{name}[{i}].{content}", "missing or empty", fix, "empty answer")


def _check_rest(turn: dict[str, Any], where: str) -> None:
    for field in _UNLEARNABLE:
        if turn.get(field) not in (None, "", []):
            fix = "remove it, or the record"
            raise FieldError(
                f"{where}.{field}", f"{kind_of(turn[field])}, which is not learnt", fix
            )
    for field in _WEIGHTS:
        if turn.get(field) not in (None, 1):
            problem = "all answers of a record are learnt alike"
            raise FieldError(f"{where}.{field}", problem, "remove it, or the record")


def _is_blank(content: Any) -> bool:
    if isinstance(content, list):
        return all(
            isinstance(part, dict) and "text" in part and _is_blank(part["text"])
            for part in content
        )
    return content is None or (isinstance(content, str) and not content.strip())

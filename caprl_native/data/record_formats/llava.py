"""LLaVA's and ShareGPT's records: turns as `{"from": "human" | "gpt" | "system", "value": text}`.

    {"id": 7, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nWhat?"},
                                                   {"from": "gpt", "value": "A cat."}]}

`image` or `video`: a path or a list of them; `<image>` or `<video>` in a value stands for the next.
A record without media is a text. In supervised data the last turn is what is learnt.
"""

from __future__ import annotations

from typing import Any

from caprl_native.data.chats import PROMPT_FIELDS, chat_in
from caprl_native.data.fields import FieldError, kind_of
from caprl_native.data.record_formats.base import FORMATS, Reading, RecordFormat
from caprl_native.data.record_formats.plain import parse_plain
from caprl_native.data.record_formats.turns import check_turns, has_turns
from caprl_native.types import Sample

LLAVA = "llava"
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


class Llava(RecordFormat):
    """LLaVA's and ShareGPT's: `conversations` of `from` and `value`."""

    def matches(self, raw: dict[str, Any]) -> bool:
        return any(has_turns(raw.get(name), "from") for name in PROMPT_FIELDS)

    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        name = next(name for name in PROMPT_FIELDS if has_turns(raw.get(name), "from"))
        turns = chat_in(raw[name], name)
        if isinstance(turns, list):
            turns = [_turn(turn, f"{name}[{i}]") for i, turn in enumerate(turns)]
            check_turns(turns, name, speaker="from", content="value")
        return parse_plain(raw | {name: turns}, reading)


FORMATS.add(LLAVA, Llava())


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") is None and turn.get("from") is not None


def _turn(turn: Any, where: str) -> Any:
    """The turn as `role` and `content`."""
    if not _is_turn(turn):
        return turn
    speaker, value = turn["from"], turn.get("value")
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        said = f"{speaker!r:.60}" if isinstance(speaker, str) else kind_of(speaker)
        raise FieldError(f"{where}.from", f"{said} is no role", "one of human, gpt, system")
    if not isinstance(value, str | list) or not value:
        reason = "empty answer" if role == "assistant" else ""
        raise FieldError(f"{where}.value", "missing or empty", "give a text", reason)
    return turn | {"role": role, "content": value}

"""OpenAI's chats: `messages` of `role` and `content`, and LLaMA-Factory's form of them.

    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}},
                                               {"type": "text", "text": "What?"}]},
                  {"role": "assistant", "content": "A cat."}]}

`content`: a text or parts. A part names its file itself (`url`: a path, `file://` or a data URL),
or `<image>` and `<video>` in a text stand for the files in `images` and `videos`. In supervised
data the last message is what is learnt.
"""

from __future__ import annotations

from typing import Any

from caprl_native.data.chats import chat_in
from caprl_native.data.fields import FieldError, kind_of
from caprl_native.data.record_formats.base import FORMATS, Reading, RecordFormat
from caprl_native.data.record_formats.plain import parse_plain
from caprl_native.data.record_formats.turns import check_turns
from caprl_native.types import Sample

OPENAI = "openai"
_UNLEARNABLE = ("tool_calls", "function_call", "tool_call_id", "audio", "refusal")


class OpenAI(RecordFormat):
    """OpenAI's: `messages` of `role` and `content`, a text or parts."""

    def matches(self, raw: dict[str, Any]) -> bool:
        return raw.get("messages") is not None

    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        turns = chat_in(raw["messages"], "messages")
        if isinstance(turns, list):
            turns = [_turn(turn, f"messages[{i}]") for i, turn in enumerate(turns)]
            check_turns(turns, "messages", speaker="role", content="content")
        return parse_plain(raw | {"messages": turns}, reading)


FORMATS.add(OPENAI, OpenAI())


def _turn(turn: Any, where: str) -> Any:
    """The message; what it says beside its content would be lost, and is an error."""
    if not isinstance(turn, dict):
        return turn
    for name in _UNLEARNABLE:
        if turn.get(name) not in (None, "", []):
            fix = "remove it, or the record"
            raise FieldError(f"{where}.{name}", f"{kind_of(turn[name])}, which is not learnt", fix)
    if turn.get("weight") not in (None, 1):
        problem = "all answers of a record are learnt alike"
        raise FieldError(f"{where}.weight", problem, "remove it, or the record")
    return turn | {"role": "system"} if turn.get("role") == "developer" else turn

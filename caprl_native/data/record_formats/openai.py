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

from caprl_native.data.chats import PROMPT_FIELDS, chat_in
from caprl_native.data.record_formats.base import FORMATS, Reading, RecordFormat
from caprl_native.data.record_formats.plain import parse_plain
from caprl_native.data.record_formats.turns import check_turns, has_turns
from caprl_native.types import Sample

OPENAI = "openai"


class OpenAI(RecordFormat):
    """OpenAI's: turns of `role` and `content`, a text or parts, in whichever field."""

    def matches(self, raw: dict[str, Any]) -> bool:
        return any(has_turns(raw.get(name), "role") for name in PROMPT_FIELDS)

    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        name = next(name for name in PROMPT_FIELDS if has_turns(raw.get(name), "role"))
        turns = chat_in(raw[name], name)
        if isinstance(turns, list):
            turns = [_turn(turn) for turn in turns]
            check_turns(turns, name, speaker="role", content="content")
        return parse_plain(raw | {name: turns}, reading)


FORMATS.add(OPENAI, OpenAI())


def _turn(turn: Any) -> Any:
    """The message, `developer` as `system`."""
    is_developer = isinstance(turn, dict) and turn.get("role") == "developer"
    return turn | {"role": "system"} if is_developer else turn

"""Marks of a model's own, such as `<|im_end|>`, in texts that came from elsewhere.

A tokenizer makes one control token of such a mark wherever it stands: a caption that spells
`<|im_end|>` would end the user's turn, and what follows it would be read as instructions. Here such
a text stays text. In process it is tokenized letter by letter; for an endpoint, whose tokenizer is
not ours, the mark gets a blank: `< |im_end|>`. Texts without a mark are left as they are, byte for
byte and token for token.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, Any]  # `content`: a text, or a list of parts

# What common chat templates are made of; an endpoint's own marks are not known here.
_COMMON = re.compile(
    r"<\|[^\s<>|]{1,40}\|>|<｜[^<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn|start_of_image|end_of_image)>"
)
_PRIVATE = range(0xE000, 0xF8FF)  # characters that mean nothing to anybody


@functools.lru_cache(maxsize=8)
def _special(tokenizer: Any) -> tuple[re.Pattern[str] | None, frozenset[int]]:
    """What finds a tokenizer's control tokens in a text, and their ids, the unknown token aside."""
    tokens = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    names = sorted(set(tokens.values()) - {""}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names))) if names else None
    return pattern, frozenset(tokens) - {tokenizer.unk_token_id}


def control_token_in(tokenizer: Any, text: str) -> str | None:
    """The first control token that a text spells, or None."""
    pattern, _ = _special(tokenizer)
    found = pattern.search(text) if pattern else None
    return found[0] if found else None


def without_control_tokens(messages: Sequence[Message]) -> list[Message]:
    """A chat for an endpoint: `< |im_end|>` for `<|im_end|>` in what the user says."""
    return [_changed(m, parted) if m.get("role") == "user" else m for m in messages]


def parted(text: str) -> str:
    """The text with a blank in each of the common control tokens that it spells."""
    return _COMMON.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def spaced_control_tokens(tokenizer: Any, text: str) -> str:
    """`< |im_end|>` for every control token that a text spells; those that a blank cannot part
    become one."""
    pattern, _ = _special(tokenizer)
    if pattern is None:
        return text
    text = pattern.sub(lambda f: f"{f[0][0]} {f[0][1:]}", text)
    return pattern.sub(" ", text)


def opened_chat(tokenizer: Any, messages: Sequence[Message], opening: str) -> str:
    """A chat as text up to the model's turn, which `opening` opens; no thinking aloud."""
    chat = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return chat + opening


def tokenized_chats(
    tokenizer: Any, chats: Sequence[Sequence[Message]], opening: str
) -> list[list[int]]:
    """Token ids of chats up to the model's turn; what their messages say is text, all of it."""
    if not chats:
        return []
    spelling = [
        any(control_token_in(tokenizer, text) for m in chat for text in _texts(m)) for chat in chats
    ]
    plain = [c for c, spells in zip(chats, spelling, strict=True) if not spells]
    texts = [opened_chat(tokenizer, chat, opening) for chat in plain]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    return [
        _with_spelt(tokenizer, chat, opening) if spells else next(ids)
        for chat, spells in zip(chats, spelling, strict=True)
    ]


def _with_spelt(tokenizer: Any, chat: Sequence[Message], opening: str) -> list[int]:
    """A chat that spells control tokens: each is put aside while the template is filled in."""
    pattern, _ = _special(tokenizer)
    assert pattern is not None
    said = "".join(text for m in chat for text in _texts(m))
    left, right = [c for c in map(chr, _PRIVATE) if c not in said][:2]
    spelt: list[str] = []

    def aside(found: re.Match[str]) -> str:
        spelt.append(found[0])
        return f"{left}{len(spelt) - 1}{right}"

    marked = [_changed(m, lambda text: pattern.sub(aside, text)) for m in chat]
    pieces = re.split(f"{left}(\\d+){right}", opened_chat(tokenizer, marked, opening))
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            ids += _letters(tokenizer, spelt[int(piece)])
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def _letters(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that spells a control token, none of them that token's."""
    _, special = _special(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if special.isdisjoint(ids):
        return ids
    return [i for c in text for i in tokenizer(c, add_special_tokens=False)["input_ids"]]


def _texts(message: Message) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part.get("type") == "text"]


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": change(content)}
    parts = [{**p, "text": change(p["text"])} if p.get("type") == "text" else p for p in content]
    return {**message, "content": parts}

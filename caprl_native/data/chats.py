"""What the policy is asked: the chat of a record, in any of the known layouts.

- `prompt`: a chat, a JSON text of one, or a plain text;
- `messages`: an OpenAI-style chat; its parts may name their files themselves;
- `conversations`: the same (LLaVA's turns are made into it, `record_formats/llava.py`);
- `problem`: a plain text, as TRL's and R1-V's sets have it.

A record has one of them or none; then it gets the default prompt of its medium. `system`, a text,
stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from caprl_native.data.fields import FieldError, decoded, kind_of
from caprl_native.types import MediaRef

Part = dict[str, Any]
MediaKind = Literal["image", "video"]
Medium = Callable[[Any, MediaKind, str], MediaRef]  # of a value, its kind, and where it stands

PROMPT_FIELDS = ("prompt", "messages", "conversations", "problem")
LOOK_LIKE_PROMPTS = (
    "instruction", "instructions", "query", "question", "text", "input", "inputs", "user",
    "user_prompt", "task", "request", "content", "chat", "chats",
    "conversation", "dialog", "dialogue", "dialogs", "turns", "message", "prompts", "problems",
)  # fmt: skip
# Beside the chat: what would change it and is not read, and what to do.
_NOT_READ = {
    "system_prompt": 'rename it to "system", or remove it',
    "tools": "remove it, or the record",
    "functions": "remove it, or the record",
    "audios": "remove it, or the record",
}
DEFAULT_PROMPTS = {
    "image": "Please describe this image in detail.",
    "video": "Please describe this video in detail.",
}
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_PLACEHOLDER = re.compile(r"<(image|video)>")
_ROLES = ("system", "user", "assistant")
_MEDIA_PARTS: dict[str, MediaKind] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}
_FILE_KEYS = ("image", "video", "image_url", "video_url", "path", "url", "bytes")
_OTHER_KEYS = ("type", "text", "detail", "cache_control", "id")


@dataclass
class Chat:
    """The turns of a prompt, and the files that their parts name, in order."""

    name: str  # of the field it stood in
    turns: list[dict[str, Any]]
    files: list[MediaRef] = field(default_factory=list)


def prompt_of(
    raw: dict[str, Any],
    media: list[MediaRef],
    override: str,
    medium: Medium,
    *,
    takes_reply: bool,
) -> tuple[list[dict[str, Any]], list[MediaRef], str | None]:
    """The chat, the media in the order in which its parts name them, and the reply that ends it.

    `override` takes the place of what the user says; only with `takes_reply` may the assistant
    have the last word. Raises `FieldError`.
    """
    chat = _chat(raw, media, bool(override), medium)
    if chat.files and media:
        raise FieldError(
            chat.name,
            "the parts name files, and the record has media fields, too",
            "keep one of the two",
        )
    _take_system(raw, chat)
    media = media or chat.files
    reply = _reply(chat) if takes_reply else None
    turns = chat.turns[:-1] if reply is not None else chat.turns
    if override:
        turns = [m for m in turns if m["role"] == "system"] + [_turn("user", _parts(override))]
    if not turns or turns[-1]["role"] != "user":
        raise FieldError(
            chat.name, "the last turn is not the user's", "end the chat with a user turn"
        )
    return *_placed(chat.name, turns, media), reply


def _take_system(raw: dict[str, Any], chat: Chat) -> None:
    """The record's field `system` as the chat's first turn. Raises `FieldError`, as for other
    fields of which the chat would not be told."""
    for name, fix in _NOT_READ.items():
        if raw.get(name) not in (None, "", [], "[]"):
            raise FieldError(name, "is no part of the prompt, and would be lost", fix)
    system = raw.get("system")
    if system in (None, "", []):
        return
    if not isinstance(system, str):
        raise FieldError("system", f"expected a text, got {kind_of(system)}", "give a text")
    if any(turn["role"] == "system" for turn in chat.turns):
        raise FieldError("system", "the chat has a system turn, too", "keep one of the two")
    chat.turns.insert(0, _turn("system", [{"type": "text", "text": system}]))


def _reply(chat: Chat) -> str | None:
    """What the assistant says at the end. Raises `FieldError` unless that is text alone."""
    last = chat.turns[-1]
    if last["role"] != "assistant":
        return None
    if kind := next((p["type"] for p in last["content"] if p["type"] != "text"), None):
        problem = f"the last answer has a placeholder <{kind}>, where nothing can be learnt"
        raise FieldError(chat.name, problem, "remove it, or the record")
    return "".join(p["text"] for p in last["content"])


def _placed(
    name: str, turns: list[dict[str, Any]], media: list[MediaRef]
) -> tuple[list[dict[str, Any]], list[MediaRef]]:
    """Every medium gets its part: those that the chat names, or all before the first user text."""
    named = [p["type"] for m in turns for p in m["content"] if p["type"] != "text"]
    if not named:
        first = next(m for m in turns if m["role"] == "user")
        first["content"] = [{"type": m.kind} for m in media] + first["content"]
        return turns, media
    queues = {kind: [m for m in media if m.kind == kind] for kind in ("image", "video")}
    for kind, queue in queues.items():
        if named.count(kind) != len(queue):
            raise FieldError(
                name,
                f"{named.count(kind)} <{kind}> placeholder(s) for {len(queue)} {kind}(s)",
                f"write one <{kind}> for each {kind}, or none at all",
                "placeholders and media differ" if media else "no media",
            )
    return turns, [queues[kind].pop(0) for kind in named]


def _chat(raw: dict[str, Any], media: list[MediaRef], overridden: bool, medium: Medium) -> Chat:
    given = [name for name in PROMPT_FIELDS if raw.get(name) is not None]
    if len(given) > 1:
        raise FieldError(given[1], f"the record has {given[0]}, too", "keep one of the two")
    if not given:
        return Chat("prompt", [_turn("user", _parts(_default(raw, media, overridden)))])
    name = given[0]
    value = chat_in(raw[name], name)
    if isinstance(value, str) and value.strip() and name != "conversations":
        return Chat(name, [_turn("user", _parts(value))])
    if not isinstance(value, list) or not value:
        raise FieldError(name, "missing or empty", "give a text or a list of messages")
    chat = Chat(name, [])
    for i, message in enumerate(value):
        _message(message, f"{name}[{i}]", chat, medium)
    return chat


def chat_in(value: Any, name: str) -> Any:
    """The value of a field, or the chat that it is a JSON text of. Raises `FieldError`."""
    return decoded(value, name) if isinstance(value, str) and is_text_of_chat(value) else value


def is_text_of_chat(text: str) -> bool:
    """Whether a text is a list of objects by how it begins, on one line or indented."""
    return _LIST_OF_OBJECTS.match(text) is not None


def _default(raw: dict[str, Any], media: list[MediaRef], overridden: bool) -> str:
    """The default prompt, where nothing in the record looks like one."""
    for name, value in raw.items():
        if name.lower() in LOOK_LIKE_PROMPTS and value not in (None, "", []) and not overridden:
            raise FieldError(
                name,
                "looks like a prompt and would not be used",
                'rename it to "prompt", remove it, or set data.prompt',
            )
    if not media and not overridden:
        raise FieldError("prompt", "missing or empty", "give a text or a list of messages")
    return DEFAULT_PROMPTS["video" if "video" in {m.kind for m in media} else "image"]


def _message(message: Any, where: str, chat: Chat, medium: Medium) -> None:
    """One turn: `role` and `content`."""
    if not isinstance(message, dict):
        raise FieldError(where, f"expected a message, got {kind_of(message)}", "give role, content")
    role, value = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        said = f"{role!r:.60}" if isinstance(role, str) else kind_of(role)
        raise FieldError(f"{where}.role", f"{said} is no role", f"one of {', '.join(_ROLES)}")
    parts: list[Part] = []
    if isinstance(value, str):
        parts = _parts(value)
    elif isinstance(value, list):
        for i, part in enumerate(value):
            parts += _part(part, f"{where}.content[{i}]", chat, medium)
    if not parts:
        raise FieldError(f"{where}.content", "missing or empty", "give a text or a list of parts")
    chat.turns.append(_turn(role, parts))


def _part(part: Any, where: str, chat: Chat, medium: Medium) -> list[Part]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return [{"type": "text", "text": part["text"]}]
    if not isinstance(kind, str) or kind not in _MEDIA_PARTS:
        raise FieldError(
            where, "unknown part", 'one of {"type": "text", "text": ...}, "image", "video"'
        )
    given = {k: v for k, v in part.items() if v is not None and k not in _OTHER_KEYS}
    if unknown := [k for k in given if k not in _FILE_KEYS]:
        raise FieldError(f"{where}.{unknown[0]}", "is not known", "remove it")
    if given:
        chat.files.append(_own_file(given, _MEDIA_PARTS[kind], where, medium))
    return [{"type": _MEDIA_PARTS[kind]}]


def _own_file(given: dict[str, Any], kind: MediaKind, where: str, medium: Medium) -> MediaRef:
    """The file that a part names: a path, `{"url": path}`, or an embedded file."""
    if "bytes" in given:
        return medium(given, kind, where)
    if len(given) > 1:
        raise FieldError(where, f"names several files: {', '.join(given)}", "keep one")
    ((name, value),) = given.items()
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        value = value["url"]
    return medium(value, kind, f"{where}.{name}")


def _parts(text: str) -> list[Part]:
    """A text cut at its placeholders; what stands between them is kept as it is."""
    pieces = _PLACEHOLDER.split(text)  # text, kind, text, kind, ..., text
    parts = [
        {"type": "text", "text": p} if i % 2 == 0 else {"type": p} for i, p in enumerate(pieces)
    ]
    return [p for p in parts if p.get("text") != ""]


def _turn(role: str, parts: list[Part]) -> dict[str, Any]:
    return {"role": role, "content": parts}

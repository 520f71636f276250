"""One record of a data file -> a `Sample`: the released formats, told apart by their content.

- CapRL-QA: `image` or `images` (paths, or embedded files as `{"bytes", "path"}`), `prompt` (a chat
  with `<image>` placeholders), `reward_model.ground_truth = [{question, choices, answer}]`.
- CapRL-Video-QA: the same with `videos`.
- Plain: `image` | `images` | `video` | `videos`, `prompt` (a chat or a text), `questions`.
- Supervised: any of these with `response` (or `caption`) instead of questions; media optional.

Nothing is read from disk here, and nothing is repaired: what is wrong is a `FieldError`.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Literal

from caprl_native.data.choices import parse_answer, parse_choices
from caprl_native.types import MediaRef, Question, Sample

Kind = Literal["questions", "response"]
Part = dict[str, Any]

MEDIA_FIELDS: dict[str, Literal["image", "video"]] = {
    "image": "image",
    "images": "image",
    "video": "video",
    "videos": "video",
}
DEFAULT_PROMPTS = {
    "image": "Please describe this image in detail.",
    "video": "Please describe this video in detail.",
}
_PLACEHOLDER = re.compile(r"<(image|video)>")
_ROLES = ("system", "user", "assistant")


class FieldError(ValueError):
    """A field of a record is wrong: which one, what is wrong, and how it is put right."""

    def __init__(self, field: str, problem: str, fix: str = "") -> None:
        super().__init__(field, problem, fix)
        self.field, self.problem, self.fix = field, problem, fix

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


def parse_record(
    raw: Any,
    *,
    kind: Kind,
    source: str,
    default_id: str,
    media_root: str,
    prompt_override: str = "",
) -> Sample:
    """The sample that one decoded record describes. Raises `FieldError`."""
    if not isinstance(raw, dict):
        raise FieldError("record", f"expected an object, got {_kind_of(raw)}")
    media = _media(raw, media_root, source)
    if kind == "questions" and not media:
        raise FieldError("images", "no image and no video", "give image, images, video or videos")
    messages, media = _prompt(raw, media, prompt_override)
    given = raw.get("id")
    return Sample(
        id=str(given) if given not in (None, "") else default_id,
        media=tuple(media),
        messages=tuple(messages),
        questions=_questions(raw) if kind == "questions" else (),
        response=_response(raw) if kind == "response" else None,
        source=source,
    )


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}
    return names.get(type(value), f"{value!r:.40}")


# Media


def _media(raw: dict[str, Any], root: str, source: str) -> list[MediaRef]:
    """The record's media: all images, then all videos."""
    found = []
    for field, kind in MEDIA_FIELDS.items():
        value = raw.get(field)
        if value is None:
            continue
        several = isinstance(value, list)
        for i, item in enumerate(value if several else [value]):
            where = f"{field}[{i}]" if several else field
            found.append(_medium(item, kind, where, root, source))
    return found


def _medium(
    item: Any, kind: Literal["image", "video"], where: str, root: str, source: str
) -> MediaRef:
    path = item.get("path") if isinstance(item, dict) else item
    data = item.get("bytes") if isinstance(item, dict) else None
    if isinstance(item, bytes):
        path, data = None, item
    if isinstance(data, bytes):
        return MediaRef(kind, data=data, label=f"{source}#{where}" + (f" ({path})" if path else ""))
    if data is not None:
        raise FieldError(where, "bytes are not binary", "embed files in Parquet, or give paths")
    if not isinstance(path, str) or not path:
        raise FieldError(
            where,
            f"expected a path or an embedded file, got {_kind_of(item)}",
            "give a file's path",
        )
    if re.match(r"(https?|s3|data):", path):
        raise FieldError(where, f"{path!r:.60} is not a local file", "download it, give its path")
    return MediaRef(kind, path=os.path.join(root, path.removeprefix("file://")))


# Prompt


def _prompt(
    raw: dict[str, Any], media: list[MediaRef], override: str
) -> tuple[list[dict[str, Any]], list[MediaRef]]:
    """The chat, and the media in the order in which its parts name them."""
    messages = _chat(raw.get("prompt"), media)
    if override:
        messages = [m for m in messages if m["role"] == "system"] + [
            _turn("user", _parts(override))
        ]
    if messages[-1]["role"] != "user":
        raise FieldError(
            "prompt", "the last turn is not the user's", "end the chat with a user turn"
        )
    named = [p["type"] for m in messages for p in m["content"] if p["type"] != "text"]
    if not named:
        first = next(m for m in messages if m["role"] == "user")
        first["content"] = [{"type": m.kind} for m in media] + first["content"]
        return messages, media
    queues = {kind: [m for m in media if m.kind == kind] for kind in ("image", "video")}
    for kind, queue in queues.items():
        if named.count(kind) != len(queue):
            raise FieldError(
                "prompt",
                f"{named.count(kind)} <{kind}> placeholder(s) for {len(queue)} {kind}(s)",
                f"write one <{kind}> for each {kind}, or none at all",
            )
    return messages, [queues[kind].pop(0) for kind in named]


def _chat(value: Any, media: list[MediaRef]) -> list[dict[str, Any]]:
    """The turns of a prompt given as a chat, as a JSON text of one, as a text, or left out."""
    if value is None and media:
        kinds = {m.kind for m in media}
        value = DEFAULT_PROMPTS["video" if "video" in kinds else "image"]
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _decoded(value, "prompt")
    if isinstance(value, str) and value.strip():
        return [_turn("user", _parts(value))]
    if not isinstance(value, list) or not value:
        raise FieldError("prompt", "missing or empty", "give a text or a list of messages")
    return [_message(message, f"prompt[{i}]") for i, message in enumerate(value)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise FieldError(
            where, f"expected a message, got {_kind_of(message)}", "give role, content"
        )
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise FieldError(f"{where}.role", f"{role!r} is no role", f"one of {', '.join(_ROLES)}")
    if isinstance(content, str):
        parts = _parts(content)
    elif isinstance(content, list):
        parts = [q for i, p in enumerate(content) for q in _part(p, f"{where}.content[{i}]")]
    else:
        parts = []
    if not parts:
        raise FieldError(f"{where}.content", "missing or empty", "give a text or a list of parts")
    return _turn(role, parts)


def _part(part: Any, where: str) -> list[Part]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return [{"type": "text", "text": part["text"]}]
    if kind not in ("image", "video"):
        raise FieldError(
            where, "unknown part", 'one of {"type": "text", "text": ...}, "image", "video"'
        )
    if any(value is not None for key, value in part.items() if key not in ("type", "text")):
        raise FieldError(where, "the part itself names a file", f'list the file in "{kind}s"')
    return [{"type": kind}]


def _parts(text: str) -> list[Part]:
    """A text cut at its placeholders; what stands between them is kept as it is."""
    pieces = _PLACEHOLDER.split(text)  # text, kind, text, kind, ..., text
    parts = [
        {"type": "text", "text": p} if i % 2 == 0 else {"type": p} for i, p in enumerate(pieces)
    ]
    return [p for p in parts if p.get("text") != ""]


def _turn(role: str, parts: list[Part]) -> dict[str, Any]:
    return {"role": role, "content": parts}


# What the reward or the supervised loss needs


def _questions(raw: dict[str, Any]) -> tuple[Question, ...]:
    value, where = raw.get("questions"), "questions"
    if value is None and raw.get("reward_model") is not None:
        outer = _decoded(raw["reward_model"], "reward_model")
        value = outer.get("ground_truth") if isinstance(outer, dict) else None
        where = "reward_model.ground_truth"
    value = _decoded(value, where)
    if not isinstance(value, list):
        raise FieldError(
            where,
            f"expected a list of questions, got {_kind_of(value)}",
            "give question, choices, answer",
        )
    if not value:
        raise FieldError(where, "the list is empty", "give a question, or remove the record")
    return tuple(_question(item, f"{where}[{i}]") for i, item in enumerate(value))


def _question(item: Any, where: str) -> Question:
    if not isinstance(item, dict):
        raise FieldError(where, f"expected an object, got {_kind_of(item)}")
    text = item.get("question")
    if not isinstance(text, str) or not text.strip():
        raise FieldError(f"{where}.question", "missing or empty", "give the question's text")
    raw = item.get("choices")
    if isinstance(raw, dict):  # Parquet gives every record the keys of all
        raw = {label: choice for label, choice in raw.items() if choice is not None}
    if not isinstance(raw, list | dict | str):
        raise FieldError(f"{where}.choices", "missing", "give 2 to 26 choices")
    field = "choices"
    try:
        choices = parse_choices(raw)
        field = "answer"
        answer = parse_answer(item.get("answer"), choices)
    except ValueError as error:
        raise FieldError(f"{where}.{field}", str(error)) from error
    return Question(text.strip(), choices, answer)


def _response(raw: dict[str, Any]) -> str:
    value = raw.get("response") if raw.get("response") is not None else raw.get("caption")
    if not isinstance(value, str) or not value.strip():
        raise FieldError("response", "missing or empty", "give the text to learn")
    return value


def _decoded(value: Any, where: str) -> Any:
    """The value itself, or what it holds if it is a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise FieldError(
            where, f"is a text that is not JSON: {error}", "mend or unpack it"
        ) from error

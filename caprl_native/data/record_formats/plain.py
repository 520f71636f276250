"""The released formats, told apart by their content.

- CapRL-QA: `image` or `images` (paths, or embedded files as `{"bytes", "path"}`), `prompt` (a chat
  with `<image>` placeholders), `reward_model.ground_truth = [{question, choices, answer}]`.
- CapRL-Video-QA: the same with `videos`.
- Plain: `image` | `images` | `video` | `videos`, a prompt (see `data/chats.py`), `questions`.
- Any of these without questions, where no term of the reward asks them.
- Supervised: any of these with `response` (or `caption`, or a chat that the assistant ends)
  instead of questions; media optional, also as `image_path` or `video_path`.

In all of them `start` and `end` (seconds) choose a clip of the record's videos.

Nothing is read from disk here, and nothing is repaired: what is wrong is a `FieldError`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from caprl_native.data.chats import PROMPT_FIELDS, prompt_of
from caprl_native.data.choices import CANNOT_BE_ANSWERED, ChoiceError, marked, parse_choices
from caprl_native.data.data_urls import PREFIX, decoded_url
from caprl_native.data.fields import FieldError, QuestionError, decoded, kind_of
from caprl_native.data.invalid import WrongQuestion
from caprl_native.data.record_formats.base import FORMATS, Reading, RecordFormat
from caprl_native.types import MediaRef, Question, Sample

PLAIN = "plain"

MEDIA_FIELDS: dict[str, Literal["image", "video"]] = {
    "image": "image",
    "images": "image",
    "video": "video",
    "videos": "video",
}
_LIST_OF_TEXTS = re.compile(r'\s*[\[{]\s*"')  # and of mappings; in JSON, whole or not
_PATHS: dict[str, Literal["image", "video"]] = {"image_path": "image", "video_path": "video"}
ALL_MEDIA_FIELDS = MEDIA_FIELDS | _PATHS


class Plain(RecordFormat):
    """The released formats; what no other format claims is read as one of these."""

    def matches(self, raw: dict[str, Any]) -> bool:
        return True

    def parse(self, raw: dict[str, Any], reading: Reading) -> Sample:
        return parse_plain(raw, reading)


FORMATS.add(PLAIN, Plain())


def parse_plain(raw: dict[str, Any], reading: Reading) -> Sample:
    """The sample that a record in one of the released formats describes. Raises `FieldError`."""
    kind = reading.kind
    medium = partial(_medium, root=reading.media_root, source=reading.source)
    media = _media(raw, medium) or (_media(raw, medium, _PATHS) if kind == "response" else [])
    if not media and all(raw.get(name) is None for name in PROMPT_FIELDS):
        reading.check_some_media(media)  # no chat can name them either
    replies = kind == "response" and _given_response(raw) is None
    messages, media, reply = prompt_of(
        raw, media, reading.prompt_override, medium, takes_reply=replies
    )
    reading.check_some_media(media)
    reading.check_not_too_many(media)
    media = clips_of(raw, media)
    return Sample(
        id=identity_of(raw.get("id"), reading.default_id),
        media=tuple(media),
        messages=tuple(messages),
        questions=() if kind == "response" else _questions(raw, reading),
        response=_response(raw, reply) if kind == "response" else None,
        source=reading.source,
    )


def identity_of(given: Any, default: str) -> str:
    """A record's id as a text. Raises `FieldError`."""
    if given in (None, ""):
        return default
    if not isinstance(given, str | int | float):
        raise FieldError("id", f"expected a text or a number, got {kind_of(given)}")
    return str(given)


# Media


def media_in(
    raw: dict[str, Any],
    *,
    media_root: str,
    source: str,
    fields: Mapping[str, Literal["image", "video"]] = MEDIA_FIELDS,
) -> list[MediaRef]:
    """The media that a record's fields name or hold: all images, then all videos.

    Raises:
        FieldError: one of them is neither a path nor an embedded file.
    """
    return _media(raw, partial(_medium, root=media_root, source=source), fields)


def _media(
    raw: dict[str, Any],
    medium: Callable[..., MediaRef],
    fields: Mapping[str, Literal["image", "video"]] = MEDIA_FIELDS,
) -> list[MediaRef]:
    """The record's media: all images, then all videos."""
    found: list[MediaRef] = []
    used: dict[str, str] = {}  # which field has those of a kind
    for field, kind in fields.items():
        value = raw.get(field)
        if value in (None, []) or (kind in used and field in _PATHS):
            continue
        if kind in used:
            raise FieldError(field, f"the record has {used[kind]}, too", "keep one of the two")
        used[kind] = field
        several = isinstance(value, list)
        for i, item in enumerate(value if several else [value]):
            where = f"{field}[{i}]" if several else field
            found.append(medium(item, kind, where))
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
            f"expected a path or an embedded file, got {_nothing_in(item)}",
            "give a file's path",
        )
    if path.startswith(PREFIX):
        data = decoded_url(path, kind, where)
        return MediaRef(kind, data=data, label=f"{source}#{where} ({len(data)} bytes)")
    if re.match(r"(https?|s3):", path):
        raise FieldError(where, f"{path!r:.60} is not a local file", "download it, give its path")
    return MediaRef(kind, path=os.path.join(root, path.removeprefix("file://")))


def clips_of(raw: dict[str, Any], media: list[MediaRef]) -> list[MediaRef]:
    """The media, of videos what lies from `start` to `end` (s). Raises `FieldError`."""
    if all(medium.kind != "video" for medium in media):
        return media
    start, end = _seconds(raw, "start"), _seconds(raw, "end")
    if start is not None and end is not None and end <= start:
        raise FieldError("end", f"{end:g} is not after start, {start:g}", "give seconds")
    return [replace(m, start=start, end=end) if m.kind == "video" else m for m in media]


def _seconds(raw: dict[str, Any], name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 <= value < math.inf:
        raise FieldError(
            name, f"expected seconds, got {kind_of(value)}", "give a number of 0 or more"
        )
    return float(value)


def _nothing_in(item: Any) -> str:
    return "one without path and bytes" if isinstance(item, dict) else kind_of(item)


# What the reward or the supervised loss needs


def _questions(raw: dict[str, Any], reading: Reading) -> tuple[Question, ...]:
    """The questions on the media; none, if they may be missing and the record has none.

    With `reading.dropped` the wrong ones go there.
    """
    value, where = raw.get("questions"), "questions"
    if value is None and raw.get("reward_model") is not None:
        outer = decoded(raw["reward_model"], "reward_model")
        value = outer.get("ground_truth") if isinstance(outer, dict) else None
        where = "reward_model.ground_truth"
    value = decoded(value, where)
    if reading.kind == "media" and value in (None, []):
        return ()
    if not isinstance(value, list):
        raise FieldError(
            where,
            f"expected a list of questions, got {kind_of(value)}",
            "give question, choices, answer",
            "no questions",
        )
    if not value:
        fix = "give a question, or remove the record"
        raise FieldError(where, "the list is empty", fix, "no questions")
    found = []
    for i, item in enumerate(value):
        try:
            found.append(_question(item, f"{where}[{i}]", reading.no_answer))
        except QuestionError as error:
            if reading.dropped is None:
                raise
            reading.dropped.append(WrongQuestion(i, error))
    return tuple(found)


def _question(item: Any, where: str, no_answer: Callable[[str], bool]) -> Question:
    if not isinstance(item, dict):
        problem = f"expected an object, got {kind_of(item)}"
        raise QuestionError(where, problem, reason="not an object")
    text = item.get("question")
    if not isinstance(text, str) or not text.strip():
        fix = "give the question's text"
        raise QuestionError(f"{where}.question", "missing or empty", fix, "empty text")
    raw = _choices_in(item.get("choices"), f"{where}.choices")
    if isinstance(raw, dict):  # Parquet gives every record the keys of all
        raw = {label: choice for label, choice in raw.items() if choice is not None}
    if not isinstance(raw, list | dict | str):
        raise QuestionError(f"{where}.choices", "missing", "give 2 to 26 choices", "no choices")
    field = "choices"
    try:
        choices = parse_choices(raw)
        field = "answer"
        choices, answer = marked(item.get("answer"), choices)
    except ChoiceError as error:
        raise QuestionError(f"{where}.{field}", str(error), reason=error.reason) from error
    if no_answer(choices[answer]):
        problem = f"{choices[answer]!r:.100} is the right choice: it would reward an empty caption"
        raise QuestionError(f"{where}.answer", problem, "remove the question", CANNOT_BE_ANSWERED)
    return Question(text.strip(), choices, answer)


def _choices_in(value: Any, where: str) -> Any:
    """The value of the field, or the list or mapping that it is a JSON text of."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return decoded(value, where)
    except FieldError as error:
        if _LIST_OF_TEXTS.match(value):
            raise QuestionError(where, error.problem, error.fix, "no choices") from error
        return value  # "[A] red", a choice per line


def _given_response(raw: dict[str, Any]) -> Any:
    return raw.get("response") if raw.get("response") is not None else raw.get("caption")


def _response(raw: dict[str, Any], reply: str | None) -> str:
    """What is learnt: the reply that ended the chat, or the field that holds it."""
    value = _given_response(raw) if reply is None else reply
    if not isinstance(value, str) or not value.strip():
        fix = "give the text to learn"
        raise FieldError("response", "missing or empty", fix, "empty answer")
    return value

"""Questions written as JSON: a list or an object, in a code fence or bare, whole or cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from caprl_native.curation.extraction.raw import RawQuestion, shortened
from caprl_native.data.choices import ChoiceError, parse_choices

_QUESTION = (
    "question",
    "q",
    "query",
    "question_text",
    "\u95ee\u9898",
    "\u9898\u76ee",
    "\u9898\u5e72",
)
_CHOICES = (
    "options",
    "choices",
    "option",
    "\u9009\u9879",
    "\u5907\u9009\u9879",
    "\u5907\u9009\u7b54\u6848",
)
_ANSWER = (
    "answer", "correct_answer", "correctanswer", "correct_option", "correctoption", "correct",
    "right_answer", "ans", "label", "\u7b54\u6848", "\u6b63\u786e\u7b54\u6848",
    "\u6b63\u786e\u9009\u9879",
)  # fmt: skip
_TRAILING_COMMA = re.compile(r",(\s{0,200}[\]}])")
_OBJECT = re.compile(r"\{\s{0,200}\"")
_MOST_TRIES, MOST = 200, 100


def read_objects(text: str) -> list[RawQuestion]:
    """The questions of an output in JSON; none where it is not written so.

    Objects are found one by one, so that an output that was cut off loses its last one alone:
    that one has neither options nor an answer, and its text.
    """
    found: list[RawQuestion] = []
    start = _OBJECT.search(text)
    if not start or not _looks_like_json(text):
        return []
    for position, value, end in _objects(text, start.start()):
        if isinstance(value, Mapping):
            found += _questions(value, text, position, end)
        elif found or '"question"' in text[position : position + 400]:
            line = text.count("\n", 0, position) + 1
            found.append(RawQuestion("", line, text=shortened(text[position:])))
        if len(found) > MOST:
            break
    return found


def _looks_like_json(text: str) -> bool:
    """Whether some field that a question has stands in it as a key."""
    return any(f'"{name}"' in text.lower() for name in _QUESTION)


def _objects(text: str, position: int) -> Iterator[tuple[int, Any, int]]:
    """Objects and where they stand; None as the last where one has no end."""
    decoder, tries = json.JSONDecoder(strict=False), 0
    while tries < _MOST_TRIES and (start := _OBJECT.search(text, position)):
        value, end = _decoded(decoder, text, start.start())
        if value is None and _is_list_of(text, start.start()):
            position = start.start() + 1  # {"questions": [ ... cut off: its objects one by one
            tries += 1
            continue
        yield start.start(), value, end
        if value is None:
            tries += 1
        position = end


def _decoded(decoder: json.JSONDecoder, text: str, start: int) -> tuple[Any, int]:
    """The object that begins there and its end; None, and a place to go on from, if it is none."""
    if whole := _raw(decoder, text, start):
        return whole
    following = text.find("\n{", start + 1)
    piece = text[start : start + 20_000]
    mended = _TRAILING_COMMA.sub(r"\1", piece)
    if mended != piece and (found := _raw(decoder, mended, 0)):
        value, end = found
        return value, start + min(len(piece), end + len(piece) - len(mended))
    return None, following if following > 0 else len(text)


def _raw(decoder: json.JSONDecoder, text: str, start: int) -> tuple[Any, int] | None:
    """The value that begins there and its end; None where it is no JSON."""
    try:
        return decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def _is_list_of(text: str, start: int) -> bool:
    """Whether an object opens with a key whose value is a list of objects."""
    return bool(
        re.match(
            r'\{\s{0,200}"[^"\n]{1,40}"\s{0,20}:\s{0,20}\[\s{0,200}\{', text[start : start + 600]
        )
    )


def _questions(value: Mapping[str, Any], text: str, start: int, end: int) -> Iterator[RawQuestion]:
    """The question that an object is, or those in its lists."""
    given = {str(key).strip().lower().replace(" ", "_"): item for key, item in value.items()}
    if _first(given, _QUESTION) is None:
        for item in given.values():
            for inner in item if isinstance(item, list) else [item]:
                if isinstance(inner, Mapping):
                    yield from _inner(inner, text, start, end)
        return
    yield _question(given, text, start, end)


def _inner(value: Mapping[str, Any], text: str, start: int, end: int) -> Iterator[RawQuestion]:
    """One level down, and no further."""
    given = {str(key).strip().lower().replace(" ", "_"): item for key, item in value.items()}
    if isinstance(question := _first(given, _QUESTION), str):
        place = text.find(question[:40], start)
        yield _question(given, text, place if place >= 0 else start, end)


def _question(given: Mapping[str, Any], text: str, start: int, end: int) -> RawQuestion:
    question, answer = _first(given, _QUESTION), _first(given, _ANSWER)
    raw = RawQuestion(
        question.strip() if isinstance(question, str) else "",
        text.count("\n", 0, start) + 1,
        is_closed=True,
        text=shortened(json.dumps(given, ensure_ascii=False)),
    )
    choices = _first(given, _CHOICES)
    if choices is None:
        letters = sorted(key for key in given if len(key) == 1 and key.isalpha())
        choices = {key: given[key] for key in letters} or None
    _take_choices(raw, choices)
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, list):
        raw.answers = [str(item) for item in answer]
    elif isinstance(answer, Mapping):
        raw.answers = [") ".join(str(item) for item in answer.values())]
    elif answer is not None and not isinstance(answer, bool):
        raw.answers = [str(answer).strip()]
    return raw


def _take_choices(raw: RawQuestion, choices: Any) -> None:
    if isinstance(choices, list) and choices and all(isinstance(c, Mapping) for c in choices):
        choices = [_of_pair(c) for c in choices]
    if not isinstance(choices, list | str | Mapping):
        return
    try:
        raw.choices = list(parse_choices(choices))
    except ChoiceError as error:
        listed = list(choices.values()) if isinstance(choices, Mapping) else choices
        raw.choices = [str(c) for c in listed] if isinstance(listed, list) else [listed]
        raw.in_order = "label" not in error.reason


def _of_pair(choice: Mapping[str, Any]) -> str:
    """{"label": "A", "text": "red"} as "A) red"."""
    values = [str(value) for value in choice.values() if not isinstance(value, bool)]
    return ") ".join(values[:2])


def _first(given: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)

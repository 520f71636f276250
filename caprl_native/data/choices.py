"""Choices and answers of multiple-choice questions, as data sets write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)

# "A) x", "A. x", "A: x", "(A) x", with or without the space; not "A.M.".
_LABEL = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])(?:[):]|\.(?![A-Za-z]\.)))\s*")


def parse_choices(raw: Sequence[str | None] | str | Mapping[str, str | None]) -> tuple[str, ...]:
    """The choices of a record without their labels, in the order of the labels.

    `raw` is a list, a mapping from letters to texts, or one string with a choice per line. Labels
    ("A) x", "A. x", "A: x", "(A) x", either case) are stripped only where they run A, B, C, ...
    over all choices; anything else is the choice's own text, and null is an empty text. Raises
    ValueError for labels that repeat or change order, and unless there are 2 to 26 choices.
    """
    if isinstance(raw, Mapping):
        texts = _from_mapping(raw)
    else:
        lines = [line for line in raw.splitlines() if line.strip()] if isinstance(raw, str) else raw
        texts = _without_labels([_text(item) for item in lines])
    if not MIN_CHOICES <= len(texts) <= MAX_CHOICES:
        raise ValueError(f"{len(texts)} choices; valid: {MIN_CHOICES} to {MAX_CHOICES}")
    return tuple(texts)


def _text(item: object) -> str:
    if item is None:
        return ""
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise ValueError(f"a choice must be a text, not {type(item).__name__}")
    return str(item).strip()


def _from_mapping(raw: Mapping[str, str | None]) -> list[str]:
    by_letter = {str(key).strip(" ().:").upper(): _text(value) for key, value in raw.items()}
    expected = list(LETTERS[: len(raw)])
    if sorted(by_letter) != expected:
        raise ValueError(f"choices are keyed {list(raw)}; valid: the letters {', '.join(expected)}")
    return [by_letter[letter] for letter in expected]


def _without_labels(texts: list[str]) -> list[str]:
    labels = [match for text in texts if (match := _LABEL.match(text))]
    if len(labels) < len(texts):
        return texts
    letters = "".join(_letter(label) for label in labels)
    if letters == LETTERS[: len(texts)]:
        return [text[label.end() :].strip() for text, label in zip(texts, labels, strict=True)]
    # "A) x, A) y, B) z": which one an answer letter means cannot be known. Labels that go
    # beyond the number of choices ("J. Smith", "T. Hardy") are initials, thus text.
    if set(letters) <= set(LETTERS[: len(texts)]):
        raise ValueError(
            f"choices are labelled {', '.join(letters)}; valid: A to {LETTERS[len(texts) - 1]} "
            "once each, in order, or no labels"
        )
    return texts


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def parse_answer(raw: str, choices: Sequence[str]) -> int:
    """Index of the right choice, from its letter ("B", "b.", "(B)"), its text, or both ("B) x").

    Raises ValueError when nothing or more than one choice is meant, and when the right text stands
    twice among the choices, since the reader could then be right with either letter.
    """
    valid = f"valid: a letter from A to {LETTERS[len(choices) - 1]}, or the text of a choice"
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"the answer is {raw!r}; {valid}")
    answer = raw.strip()
    found = {i for i in (_by_letter(answer, choices), _by_text(answer, choices)) if i is not None}
    if not found:
        raise ValueError(f"the answer {raw!r} is not among the choices {list(choices)}; {valid}")
    if len(found) > 1:
        raise ValueError(f"the answer {raw!r} is the letter of one choice and the text of another")
    index = found.pop()
    if [squeezed(c) for c in choices].count(squeezed(choices[index])) > 1:
        raise ValueError(
            f"the right choice {choices[index]!r} stands more than once in the choices"
        )
    return index


def squeezed(text: str) -> str:
    """The text with runs of white space made one blank each."""
    return " ".join(text.split())


def _by_letter(answer: str, choices: Sequence[str]) -> int | None:
    match = re.fullmatch(r"\(?([A-Za-z])\s*[).:]{0,2}", answer)
    rest = None
    if match is None and (match := _LABEL.match(answer)):
        rest = squeezed(answer[match.end() :]).casefold()
    if match is None:
        return None
    index = LETTERS.index(_letter(match))
    if index >= len(choices) or (rest and rest != squeezed(choices[index]).casefold()):
        return None
    return index


def _by_text(answer: str, choices: Sequence[str]) -> int | None:
    """Exact first, so that "Red" and "red" may both be choices; then ignoring case."""
    for fold in (squeezed, lambda text: squeezed(text).casefold()):
        hits = [i for i, choice in enumerate(choices) if fold(choice) == fold(answer)]
        if hits and len({squeezed(choices[i]) for i in hits}) == 1:
            return hits[0]
    return None

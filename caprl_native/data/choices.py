"""Choices and answers of multiple-choice questions, as data sets write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)

# "A) x", "A. x", "A: x", "(A) x", "A - x", with or without the space; not "A.M.". Those in `sure`
# open nothing but a label; "A. Lincoln" may be a name.
_A = r"[A-Za-z\uff21-\uff3a\uff41-\uff5a]"
_LABEL = re.compile(
    rf"\s*(?:(?P<sure>[(\uff08\[]\s?(?P<inner>{_A})\s?[)\uff09\]]"
    rf"|(?P<outer>{_A})\s?[):\uff09\uff1a])"
    rf"|(?P<dotted>{_A})(?:[\uff0e\u3001]|\.(?!{_A}\.))|(?P<dashed>{_A})\s+[-\u2013]\s)"
    r"(?!\s*(?:and|or|only|&|,)(?:\s|$))\s*"  # "(A) and (B)" is a text
)
_NUMBER = re.compile(r"\s*(?:\(([0-9]{1,2})\)|([0-9]{1,2})\))\s*")


def parse_choices(raw: Sequence[str | None] | str | Mapping[str, str | None]) -> tuple[str, ...]:
    """The choices of a record without their labels, in the order of the labels.

    `raw` is a list, a mapping from letters to texts, or one string with a choice per line. Labels
    ("A) x", "A. x", "A: x", "(A) x", "A - x", either case) are stripped where they run A, B, C, ...
    over all choices, in any order, or over some of them; "1) x" only where they run over all in
    order. What may be a name ("J. Smith", "A. Lincoln" among other names) is the choice's own
    text, and null is an empty text. Raises ValueError for labels that repeat or leave one out, and
    unless there are 2 to 26 choices.
    """
    if isinstance(raw, Mapping):
        texts = _from_mapping(raw)
    else:
        lines = [line for line in raw.splitlines() if line.strip()] if isinstance(raw, str) else raw
        texts = [_text(item) for item in lines]
        texts = _without_labels(texts) if MIN_CHOICES <= len(texts) <= MAX_CHOICES else texts
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
    texts = [by_letter[letter] for letter in expected]
    labels = _labels(texts)
    sure = all(label and label["sure"] for label in labels)
    return _stripped(texts, labels) if sure or _in_place(labels) else texts


def _labels(texts: Sequence[str]) -> list[re.Match[str] | None]:
    return [_LABEL.match(text) for text in texts]


def _without_labels(texts: list[str]) -> list[str]:
    """The texts in the order of their labels, without these; or as they are, if none are labels."""
    labels = _labels(texts)
    found = [label for label in labels if label]
    if not found:
        return _without_numbers(texts)
    behind = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    if not any(behind) or (len(found) < len(texts) and not all(behind)):
        return texts  # "(A)", "(B)", "both": what the question's text calls so
    if _in_place(labels):
        return _stripped(texts, labels)
    letters = [_letter(label) for label in found]
    valid = set(LETTERS[: len(texts)])
    whole = len(found) == len(texts)
    sure = all(label["sure"] for label in found)
    if set(letters) <= valid and (whole or sure):
        if len(set(letters)) < len(letters):
            # "A) x, A) y, B) z": which one an answer letter means cannot be known.
            raise _not_in_order(letters, len(texts))
        return _ordered(_stripped(texts, labels), labels)
    # Labels beyond the number of choices are initials ("J. Smith", "T. Hardy"), thus text; but
    # "A) x, C) y" leaves out a choice, and an answer "C" is not the third one.
    if whole and sure and letters[0] == "A":
        raise _not_in_order(letters, len(texts))
    return texts


def _in_place(labels: Sequence[re.Match[str] | None]) -> bool:
    """True where labels are the letters of their places: all, two or more, or one that is sure."""
    found = [(LETTERS[i], label) for i, label in enumerate(labels[:MAX_CHOICES]) if label]
    if not found or any(_letter(label) != letter for letter, label in found):
        return False
    undashed = [label for _, label in found if not label["dashed"]]
    return (
        len(found) == len(labels) or len(undashed) > 1 or any(label["sure"] for label in undashed)
    )


def _stripped(texts: Sequence[str], labels: Sequence[re.Match[str] | None]) -> list[str]:
    return [
        text[label.end() :].strip() if label else text
        for text, label in zip(texts, labels, strict=True)
    ]


def _ordered(texts: Sequence[str], labels: Sequence[re.Match[str] | None]) -> list[str]:
    """Labelled texts in the places of their letters, the others in the places between."""
    labelled = {_letter(label): text for text, label in zip(texts, labels, strict=True) if label}
    others = iter([text for text, label in zip(texts, labels, strict=True) if not label])
    places = LETTERS[: len(texts)]
    return [labelled[place] if place in labelled else next(others) for place in places]


def _without_numbers(texts: list[str]) -> list[str]:
    """The texts without "1)", "(1)" where these count all of them and are not all they say."""
    numbers = [_NUMBER.match(text) for text in texts]
    counted = all(n and int(n[1] or n[2]) == i for i, n in enumerate(numbers, 1))
    behind = [text[n.end() :].strip() for text, n in zip(texts, numbers, strict=True) if n]
    return behind if counted and all(behind) else texts


def _not_in_order(letters: Sequence[str], count: int) -> ValueError:
    return ValueError(
        f"choices are labelled {', '.join(letters)}; valid: A to {LETTERS[count - 1]} "
        "once each, or no labels"
    )


def _letter(match: re.Match[str]) -> str:
    letter = match["inner"] or match["outer"] or match["dotted"] or match["dashed"]
    return unicodedata.normalize("NFKC", letter).upper()


def parse_answer(raw: Any, choices: Sequence[str]) -> int:
    """Index of the right choice, from its letter ("B", "b.", "(B)"), its text, or both ("B) x").

    Raises ValueError when nothing or more than one choice is meant, and when the right text stands
    twice among the choices, since the reader could then be right with either letter.
    """
    valid = f"valid: a letter from A to {LETTERS[len(choices) - 1]}, or the text of a choice"
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"the answer is {raw!r}; {valid}")
    answer = raw.strip()
    ways = (_by_letter, _by_number, _by_text)
    found = {i for way in ways if (i := way(answer, choices)) is not None}
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
    answer = unicodedata.normalize("NFKC", answer)
    match = re.fullmatch(r"[(\[]?\s?([A-Za-z])\s*[).:\]]{0,2}", answer)
    letter, rest = (match[1].upper(), None) if match else ("", None)
    if match is None and (match := _LABEL.match(answer)):
        letter, rest = _letter(match), squeezed(answer[match.end() :]).casefold()
    if match is None:
        return None
    index = LETTERS.index(letter)
    if index >= len(choices) or (rest and rest != squeezed(choices[index]).casefold()):
        return None
    return index


def _by_number(answer: str, choices: Sequence[str]) -> int | None:
    """Of "2) blue", where the second choice is "blue"."""
    match = _NUMBER.match(answer)
    index = int(match[1] or match[2]) - 1 if match else -1
    if match is None or not 0 <= index < len(choices):
        return None
    same = squeezed(answer[match.end() :]).casefold() == squeezed(choices[index]).casefold()
    return index if same else None


def _by_text(answer: str, choices: Sequence[str]) -> int | None:
    """Exact first, so that "Red" and "red" may both be choices; then ignoring case."""
    for fold in (squeezed, lambda text: squeezed(text).casefold()):
        hits = [i for i, choice in enumerate(choices) if fold(choice) == fold(answer)]
        if hits and len({squeezed(choices[i]) for i in hits}) == 1:
            return hits[0]
    return None

"""Choices and answers of multiple-choice questions, as data sets write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)


class ChoiceError(ValueError):
    """Choices or an answer are wrong; `reason`: the few words that such faults are counted by."""

    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(problem)
        self.reason = reason


# "A) x", "A. x", "A: x", "(A) x", "A - x", with or without the space, "Option A: x", "**A.** x";
# not "A.M.". Those in `sure` open nothing but a label; "A. Lincoln" may be a name.
_A = r"[A-Za-z\uff21-\uff3a\uff41-\uff5a]"
_LABEL = re.compile(
    rf"\s*(?:(?P<sure>[(\uff08\[\u3010]\s?(?P<inner>{_A})\s?[)\uff09\]\u3011]"
    rf"|(?P<outer>{_A})\s?[):\uff09\uff1a]"
    rf"|(?i:option|choice)\s+(?P<word>{_A})\s?[).:\uff1a]"
    rf"|\*\*\(?(?P<bold>{_A})\s?[).:]?\*\*[).:]?)"
    rf"|(?P<dotted>{_A})(?:[\uff0e\u3001\u3002]|\.(?!{_A}\.))|(?P<dashed>{_A})\s+[-\u2013]\s)"
    r"(?!\s*(?:and|or|only|&|,)(?:\s|$))\s*"  # "(A) and (B)" is a text
)
CANNOT_BE_ANSWERED = "the right answer is that it cannot be answered"
_LABELS = "labels repeated or out of order"
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
        problem = f"{len(texts)} choices; valid: {MIN_CHOICES} to {MAX_CHOICES}"
        raise ChoiceError(problem, _few(texts))
    return tuple(texts)


def _few(texts: Sequence[str]) -> str:
    return {0: "no choices", 1: "one choice"}.get(len(texts), f"more than {MAX_CHOICES} choices")


def _text(item: object) -> str:
    if item is None:
        return ""
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise ChoiceError(f"a choice must be a text, not {type(item).__name__}", "no texts")
    return str(item).strip()


def _from_mapping(raw: Mapping[str, str | None]) -> list[str]:
    by_letter = {_key(key): _text(value) for key, value in raw.items()}
    expected = list(LETTERS[: len(raw)])
    if sorted(by_letter) != expected:
        raise ChoiceError(
            f"choices are keyed {list(raw)}; valid: the letters {', '.join(expected)}", _LABELS
        )
    texts = [by_letter[letter] for letter in expected]
    labels = _labels(texts)
    sure = all(label and label["sure"] for label in labels)
    return _stripped(texts, labels) if sure or _in_place(labels) else texts


def _key(key: object) -> str:
    return unicodedata.normalize("NFKC", str(key)).strip(" ().:").upper()


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
    sure = [bool(label["sure"]) for label in found]
    if set(letters) <= valid and (whole or any(sure)):
        if len(set(letters)) < len(letters):
            # "A) x, A) y, B) z": which one an answer letter means cannot be known.
            raise _not_in_order(letters, len(texts))
        return _ordered(_stripped(texts, labels), labels)
    # Labels beyond the number of choices are initials ("J. Smith", "T. Hardy"), thus text; but
    # "A) x, C) y" leaves out a choice, and an answer "C" is not the third one.
    if all(sure) and "A" in letters:
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


def _not_in_order(letters: Sequence[str], count: int) -> ChoiceError:
    return ChoiceError(
        f"choices are labelled {', '.join(letters)}; valid: A to {LETTERS[count - 1]} "
        "once each, or no labels",
        _LABELS,
    )


def _letter(match: re.Match[str]) -> str:
    kinds = ("inner", "outer", "word", "bold", "dotted", "dashed")
    letter = next(match[kind] for kind in kinds if match[kind])
    return unicodedata.normalize("NFKC", letter).upper()


def marked(raw: Any, choices: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The choices and the index of the right one, which `raw` means as in `parse_answer`.

    Where the right text stands more than once either letter is right: its first copy is kept.
    Raises `ChoiceError`; "E" behind A to D is the published prompt's "cannot be answered".
    """
    index = _meant(raw, choices)
    right = squeezed(choices[index])
    if not right:
        raise ChoiceError("the right choice is empty", "empty text")
    copies = [i for i, choice in enumerate(choices) if squeezed(choice) == right]
    kept = tuple(c for i, c in enumerate(choices) if i not in copies[1:])
    if len(kept) < MIN_CHOICES:
        raise ChoiceError(f"all {len(choices)} choices say {right!r}", _few(kept))
    return kept, copies[0]


def parse_answer(raw: Any, choices: Sequence[str]) -> int:
    """Index of the right choice, from its letter ("B", "b.", "(B)"), its text, or both ("B) x").

    Raises ValueError when nothing or more than one choice is meant, and when the right text stands
    twice among the choices, since the reader could then be right with either letter.
    """
    index = _meant(raw, choices)
    if [squeezed(c) for c in choices].count(squeezed(choices[index])) > 1:
        raise ChoiceError(
            f"the right choice {choices[index]!r} stands more than once in the choices",
            "right choice twice",
        )
    return index


def _meant(raw: Any, choices: Sequence[str]) -> int:
    """The first choice that an answer means."""
    valid = f"valid: a letter from A to {LETTERS[len(choices) - 1]}, or the text of a choice"
    if not isinstance(raw, str) or not raw.strip():
        raise ChoiceError(f"the answer is {raw!r}; {valid}", "no answer")
    answer = raw.strip()
    ways = (_by_letter, _by_number, _by_text)
    found = {i for way in ways if (i := way(answer, choices)) is not None}
    if not found:
        unanswerable = len(choices) == 4 and answer.strip("()[]. ").upper() == "E"
        raise ChoiceError(
            f"the answer {raw!r} is not among the choices {list(choices)}; {valid}",
            CANNOT_BE_ANSWERED if unanswerable else "answer outside the choices",
        )
    if len({squeezed(choices[i]) for i in found}) > 1:
        raise ChoiceError(
            f"the answer {raw!r} is the letter of one choice and the text of another",
            "answer of two meanings",
        )
    return min(found)


def squeezed(text: str) -> str:
    """The text with runs of white space made one blank each."""
    return " ".join(text.split())


def _by_letter(answer: str, choices: Sequence[str]) -> int | None:
    answer = unicodedata.normalize("NFKC", answer)
    match = re.fullmatch(r"[(\[\u3010]?\s?([A-Za-z])\s*[).:\]\u3001\u3002\u3011]{0,2}", answer)
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

"""Multiple-choice questions: parse them, shuffle and letter them, read the reader's letter."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caprl_native.rewards.prompts import CANNOT_ANSWER, LETTERS
from caprl_native.types import Question

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
    if [_squeezed(c) for c in choices].count(_squeezed(choices[index])) > 1:
        raise ValueError(
            f"the right choice {choices[index]!r} stands more than once in the choices"
        )
    return index


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _by_letter(answer: str, choices: Sequence[str]) -> int | None:
    match = re.fullmatch(r"\(?([A-Za-z])\s*[).:]{0,2}", answer)
    rest = None
    if match is None and (match := _LABEL.match(answer)):
        rest = _squeezed(answer[match.end() :]).casefold()
    if match is None:
        return None
    index = LETTERS.index(_letter(match))
    if index >= len(choices) or (rest and rest != _squeezed(choices[index]).casefold()):
        return None
    return index


def _by_text(answer: str, choices: Sequence[str]) -> int | None:
    """Exact first, so that "Red" and "red" may both be choices; then ignoring case."""
    for fold in (_squeezed, lambda text: _squeezed(text).casefold()):
        hits = [i for i, choice in enumerate(choices) if fold(choice) == fold(answer)]
        if hits and len({_squeezed(choices[i]) for i in hits}) == 1:
            return hits[0]
    return None


@dataclass(frozen=True)
class ShownQuestion:
    """A question as the reader sees it: `choices[i]` under `letters[i]`.

    `answer` is the right letter; `cannot` that of the cannot-answer choice, None if there is none.
    """

    question: str
    choices: tuple[str, ...]
    letters: str
    answer: str
    cannot: str | None


def draw(
    question: Question,
    rng: random.Random,
    cannot_answer: bool = True,
    text: str = CANNOT_ANSWER,
) -> ShownQuestion:
    """Shuffle the choices with `rng` and put the cannot-answer choice last, on the next letter.

    A choice that already says `text` takes its place instead of being doubled, and may be the right
    one. With 26 choices no letter is left, and the cannot-answer choice is left out.
    """
    order = list(range(len(question.choices)))
    rng.shuffle(order)
    cannot: str | None = None
    if cannot_answer:
        own = [i for i in order if _squeezed(question.choices[i]) == _squeezed(text)]
        order = [i for i in order if i not in own] + own
        if not own and len(order) < MAX_CHOICES:
            order.append(-1)
        cannot = LETTERS[len(order) - 1] if own or order[-1] == -1 else None
    return ShownQuestion(
        question=question.question,
        choices=tuple(text if i == -1 else question.choices[i] for i in order),
        letters=LETTERS[: len(order)],
        answer=LETTERS[order.index(question.answer)],
        cannot=cannot,
    )


# A letter on its own: nothing alphanumeric around it, not the end of "don't" or start of "I'm".
_ALONE = r"(?<![A-Za-z0-9])(?<![A-Za-z]['\u2019.])([A-Za-z])(?![A-Za-z0-9]|['\u2019][A-Za-z])"
_OPENING = re.compile(r"[^A-Za-z0-9]*([A-Za-z])(?:\s*[*_`\"'\]}]*\s*[).:]|[^A-Za-z0-9\n]*(?:\n|$))")
_CUED = re.compile(
    r"(?:answer|option|choice|\u7b54\u6848|\u9009\u9879)(?:\s+(?:is|was|would be))?[^A-Za-z0-9]*?"
    + _ALONE,
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"(?:\bnot|n['\u2019]t|\bneither|\bnor|\bexcept|\brather than|\binstead of)\s+"
    r"(?:(?:the\s+)?(?:answer|option|choice)\s+)?[\"'(*`]*" + _ALONE,
    re.IGNORECASE,
)
_MORE = re.compile(r"[^A-Za-z0-9]*(?:(?:or|and)\b|[,/&])\s*[(\"'*`]*" + _ALONE, re.IGNORECASE)
# After these, "A" or "I" is a choice and not a word of the sentence.
_VERBS = {"is", "was", "because", "since", "as", "or", "and", "would", "seems", "but", "not"}


def parse_letter(output: str, letters: Sequence[str]) -> str | None:
    """The one letter of `letters` that the reader means, upper case; None if none or several.

    `output` goes on after "The answer is": " B", "B.", "(C)", "**D**", "b) blue", or a sentence
    ("I think B", "Answer: C", "Not A, but B"). The article "A" and the pronoun "I" are no answers.
    """
    text = unicodedata.normalize("NFKC", output)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()
    text = re.sub(r"\b(?:(?:[A-Za-z]\.){2,}|[Nn]/[Aa]\b)", " ", text)  # U.S.A., a.m., N/A
    allowed = {letter.upper() for letter in letters}
    words = [word for word in re.findall(r"[A-Za-z0-9]+", text) if not word.isdigit()]
    if all(len(word) == 1 for word in words):
        return _only(
            {word.upper() for word in words}, allowed
        )  # "A B C D" lists, it does not choose
    opening = _OPENING.match(text)
    if opening and not _MORE.match(text, opening.end(1)):
        return _only({opening.group(1).upper()}, allowed)
    kept = _REFUSED.sub(" ", text)
    cued = [m for m in _CUED.finditer(kept) if not _is_word(kept, m)]
    if cued:
        more = [_MORE.match(kept, m.end(1)) for m in cued]
        return _only({m.group(1).upper() for m in [*cued, *more] if m}, allowed)
    loose = [m for m in re.finditer(_ALONE, kept) if m.group(1).isupper() and not _is_word(kept, m)]
    return _only({m.group(1) for m in loose}, allowed)


def _only(found: set[str], allowed: set[str]) -> str | None:
    found &= allowed
    return found.pop() if len(found) == 1 else None


def _is_word(text: str, match: re.Match[str]) -> bool:
    """True for "a man", "A man", "I think": the letter is an article or a pronoun."""
    following = re.match(r"\s+([A-Za-z]+)", text[match.end(1) :])
    if match.group(1).upper() not in "AI" or not following:
        return False
    return following.group(1).islower() and following.group(1) not in _VERBS

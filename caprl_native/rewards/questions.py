"""Multiple-choice questions as the reader sees them: shuffled and lettered; and its answer read."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from caprl_native.data.choices import LETTERS, MAX_CHOICES, squeezed
from caprl_native.rewards.prompts import CANNOT_ANSWER
from caprl_native.types import Question


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
        own = [i for i in order if squeezed(question.choices[i]) == squeezed(text)]
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


def read_answer(output: str, question: ShownQuestion) -> str | None:
    """The letter that the reader chose; None if it chose none, or several.

    A reader that repeats one choice's text instead of its letter ("red." where C is "red") has
    chosen it. A choice such as "vitamin A" is thereby not taken for the letter in it.
    """
    said = _plain(output)
    named = [
        letter
        for letter, choice in zip(question.letters, question.choices, strict=True)
        if len(said) > 1 and _plain(choice) == said
    ]
    return named[0] if len(named) == 1 else parse_letter(output, question.letters)


def _plain(text: str) -> str:
    return squeezed(text).casefold().strip(" .\"'*`")


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

"""Questions as the reference's protocol writes them: one text with the choices in it, and a letter.

What colour is the cat?
   - A) red
   - B) blue
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from caprl_native.data.choices import LETTERS, MAX_CHOICES, MIN_CHOICES, squeezed
from caprl_native.rewards.prompts import CANNOT_ANSWER, says_cannot_answer
from caprl_native.types import Question

# "   - A) red", "A) red", "A. red", "(A) red" at the start of a line.
_CHOICE = re.compile(r"\s*(?:-\s+)?(?:\(([A-Za-z])\)|([A-Za-z])[).:])(?:\s+(.*)|$)")


@dataclass(frozen=True)
class AsGiven:
    """A question whose choices could not be told apart: it is asked as it is, letters included."""

    text: str
    letter: str


def question_text(question: Question) -> str:
    """The question and a line for each choice, as the reference's client sends them."""
    lines = [
        f"   - {letter}) {squeezed(choice)}"
        for letter, choice in zip(LETTERS, question.choices, strict=False)
    ]
    return "\n".join([squeezed(question.question), *lines])


def parse_question(text: str, letter: str) -> Question | AsGiven:
    """The question with its choices, labels removed, in the order given.

    A choice that says that the caption does not tell becomes this project's own, so that it is
    not offered twice. `AsGiven` where there are no choices, labels repeat, or none is `letter`.
    """
    asked, labels, choices = _split(text)
    right = letter.upper()
    plain = [squeezed(choice) for choice in choices]
    if (
        not asked
        or not MIN_CHOICES <= len(choices) <= MAX_CHOICES
        or len(set(labels)) < len(labels)
        or right not in labels
        or plain.count(plain[labels.index(right)]) > 1
    ):
        return AsGiven(text.strip(), right)
    return Question(asked, tuple(choices), labels.index(right))


def _split(text: str) -> tuple[str, list[str], list[str]]:
    """What stands before the choices, their labels, and their texts."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if i and _CHOICE.match(line)), len(lines))
    labels: list[str] = []
    choices: list[str] = []
    for line in lines[first:]:
        if found := _CHOICE.match(line):
            labels.append((found[1] or found[2]).upper())
            choices.append(_without_label(found[3] or "", labels[-1]))
        elif line.strip():
            choices[-1] = f"{choices[-1]}\n{line.strip()}"
    return "\n".join(lines[:first]).strip(), labels, [_own_words(choice) for choice in choices]


def _without_label(choice: str, label: str) -> str:
    """ "A. Black" of "A) A. Black": the label would show which letter it had."""
    choice = choice.strip()
    repeated = re.match(rf"(?:\({label}\)|{label}[).:])\s+(?=\S)", choice, re.IGNORECASE)
    return choice[repeated.end() :] if repeated else choice


def _own_words(choice: str) -> str:
    return CANNOT_ANSWER if says_cannot_answer(choice) else choice

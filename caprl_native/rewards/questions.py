"""Multiple-choice questions as the reader sees them: shuffled and lettered; and its answer read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from caprl_native.data.choices import LETTERS, MAX_CHOICES, squeezed
from caprl_native.rewards.letter import MAX_CHARS, parse_letter
from caprl_native.rewards.prompts import CANNOT_ANSWER, says_cannot_answer
from caprl_native.text.plain_text import bounded
from caprl_native.text.thoughts import without_thoughts
from caprl_native.types import Question

_ADDED = -1  # the place of the choice that is none of the question's


@dataclass(frozen=True)
class ShownQuestion:
    """A question as the reader sees it: `choices[i]` under `letters[i]`.

    `answer` is the right letter; `cannot` that of the cannot-answer choice, None if there is none;
    `weight`: how much its answer counts beside the others'.
    """

    question: str
    choices: tuple[str, ...]
    letters: str
    answer: str
    cannot: str | None
    weight: float = 1.0


def chosen(questions: Sequence[Question], count: int, rng: random.Random) -> list[Question]:
    """So many draws with replacement, by the questions' weights; 0: each question once.

    The weights of what is returned say how much an answer counts: as much as any other's where
    weights were drawn by, or are all equal.
    """
    weights = [question.weight for question in questions]
    alike = len(set(weights)) < 2
    if not (count or alike):
        return [question for question in questions if question.weight]
    if alike:
        drawn = [rng.choice(questions) for _ in range(count)] or questions
    else:
        drawn = rng.choices(questions, weights, k=count)
    return [replace(question, weight=1.0) for question in drawn]


def draw(
    question: Question,
    rng: random.Random,
    cannot_answer: bool = True,
    text: str = CANNOT_ANSWER,
    shuffle: bool = True,
) -> ShownQuestion:
    """Shuffle the choices with `rng` and put the cannot-answer choice last, on the next letter.

    Without `shuffle` they stay in the record's order. A choice of the data that says so already
    (`CANNOT_ANSWER_TEXTS`) is shown as `text`, last, instead of being doubled, also where none is
    to be added, and may be the right one. With 26 choices no letter is left, and no cannot-answer
    choice is added.
    """
    order = list(range(len(question.choices)))
    if shuffle:
        rng.shuffle(order)
    own = [i for i in order if says_cannot_answer(question.choices[i])]
    own = [question.answer] if question.answer in own else own[:1]
    order = [i for i in order if not says_cannot_answer(question.choices[i])] + own
    if cannot_answer and not own and len(order) < MAX_CHOICES:
        order.append(_ADDED)
    pinned = bool(own) or order[-1] == _ADDED
    return ShownQuestion(
        question=question.question,
        choices=tuple(text if i in (_ADDED, *own) else question.choices[i] for i in order),
        letters=LETTERS[: len(order)],
        answer=LETTERS[order.index(question.answer)],
        cannot=LETTERS[len(order) - 1] if pinned else None,
        weight=question.weight,
    )


def rotations(question: ShownQuestion, count: int) -> list[ShownQuestion]:
    """The question with its choices in up to `count` orders, each the one before turned on.

    With as many as there are choices each stands in each place once; fewer are spread evenly. The
    cannot-answer choice stays last.
    """
    turning = [i for i, letter in enumerate(question.letters) if letter != question.cannot]
    count = min(count, len(turning))
    return [_turned(question, turning, i * len(turning) // count) for i in range(count)]


def _turned(question: ShownQuestion, turning: list[int], by: int) -> ShownQuestion:
    order = turning[by:] + turning[:by]
    order += [i for i in range(len(question.letters)) if i not in turning]
    answer = question.letters.index(question.answer)
    return replace(
        question,
        choices=tuple(question.choices[i] for i in order),
        answer=question.letters[order.index(answer)],
    )


def read_answer(output: str, question: ShownQuestion) -> str | None:
    """The letter that the reader chose, its thoughts aside; None if it chose none, or several.

    A reader that repeats one choice's text instead of its letter ("red." where C is "red") has
    chosen it. A choice such as "vitamin A" is thereby not taken for the letter in it.
    """
    output = without_thoughts(output)
    said = _plain(bounded(output, MAX_CHARS))
    named = [
        letter
        for letter, choice in zip(question.letters, question.choices, strict=True)
        if len(said) > 1 and _plain(choice) == said
    ]
    return named[0] if len(named) == 1 else parse_letter(output, question.letters)


def _plain(text: str) -> str:
    return squeezed(text).casefold().strip(" .\"'*`")

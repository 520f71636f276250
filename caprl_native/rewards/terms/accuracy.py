"""The accuracy reward: does a reader that sees the caption alone answer its questions rightly?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal

from pydantic import Field

from caprl_native.rewards.base import (
    TERMS,
    Caption,
    RewardTerm,
    Score,
    TermContext,
    TermOptions,
    gathered,
    missing,
)
from caprl_native.rewards.outcomes import (
    Outcome,
    mean,
    outcome_of_letter,
    outcome_of_probabilities,
)
from caprl_native.rewards.prompts import CANNOT_ANSWER, reader_messages
from caprl_native.rewards.questions import (
    ShownQuestion,
    chosen,
    draw,
    read_answer,
    rotations,
)
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.seeds import rng_of, seed_of
from caprl_native.text.thoughts import CUT_OFF, said


class AccuracyOptions(TermOptions):
    """How many questions a reader answers rightly that sees the caption alone."""

    reads = True
    measures = {
        "right": "Share, or probability, of the reader's right answers.",
        "misled": "Share, or probability, of the reader's wrong answers: it was led astray.",
        "abstained": 'Share, or probability, of answers that "it cannot be answered".',
        "sampled": "Share of answers that the reader wrote, as no probabilities were told.",
    }
    type: Literal["accuracy"] = "accuracy"
    questions: Literal["each", "shared", "own"] = Field(
        "each",
        description='"each": every question once; "shared": one draw for all captions of a prompt; '
        '"own": every caption draws for itself, as published.',
    )
    draws: int = Field(
        0,
        ge=0,
        description='shared, own: questions drawn, with replacement; 0 with "each".',
    )
    answers: Literal["sampled", "expected"] = Field(
        "expected",
        description='"sampled": the reader draws one answer; "expected": the probability of its '
        "answers, from one pass.",
    )
    shuffle: bool = Field(
        True,
        description="Shuffle the choices of each question; false: the record's order, as in "
        "CapRL 1.0.",
    )
    shuffles: int = Field(
        1,
        ge=1,
        description="Orders of the choices that each question is asked in, one turned on after the "
        "other, so that their places count alike; as many as there are choices at most.",
    )
    cannot_answer: bool = Field(
        True, description='Offer one more choice: "cannot be answered from the caption".'
    )
    misled_weight: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="What a wrong answer costs, as a share of what a right one earns; one that "
        '"cannot be answered" costs nothing. 0: as published.',
    )
    readers: Literal["mean", "minimum"] = Field(
        "mean", description="Of several readers: their mean on each question, or the worst of them."
    )

    def conflicts(self) -> Iterator[tuple[str, ...]]:
        if self.questions == "each" and self.draws:
            yield "draws", '0, or questions = "own" or "shared" to draw them', "questions"
        if self.questions != "each" and not self.draws:
            yield "draws", '1 or more, or questions = "each"', "questions"


@TERMS.register(AccuracyOptions)
class Accuracy(RewardTerm[AccuracyOptions]):
    """Share of right answers (CapRL's visual utility reward), less `misled_weight` times that of
    wrong ones. Logs both, and the share of questions that "cannot be answered"."""

    def __init__(self, options: AccuracyOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.readers = [context.reader, *context.further_readers]
        self.collective = any(reader.collective for reader in self.readers)

    def for_evaluation(self, draws: int) -> Accuracy:
        kind = "own" if draws else "each"
        changed = self.options.model_copy(update={"questions": kind, "draws": draws})
        return Accuracy(changed, self.context)

    def submit(self, caption: Caption) -> Future[Score]:
        """Gives the readers the questions on one caption."""
        asked = [rotations(q, self.options.shuffles) for q in self._draw(caption)]
        shown = list(chain(*asked))
        asks = [self._ask(caption, question, i) for i, question in enumerate(shown)]
        answers = [reader.ask(asks) for reader in self.readers]
        return gathered(list(chain(*answers)), partial(self._score, [len(q) for q in asked], shown))

    def _draw(self, caption: Caption) -> list[ShownQuestion]:
        """The questions of one caption, the same whenever it is scored again."""
        options = self.options
        key = caption.key if options.questions == "own" else caption.key[:-1]
        rng = rng_of("draw", *key)
        questions = caption.sample.questions
        drawn = chosen(questions, options.draws, rng)
        return [
            draw(q, rng, options.cannot_answer, CANNOT_ANSWER, shuffle=options.shuffle)
            for q in drawn
        ]

    def _ask(self, caption: Caption, question: ShownQuestion, number: int) -> Ask:
        choices = list(question.choices)
        return Ask(
            reader_messages(caption.sample.modality, caption.text, question.question, choices),
            seed_of("answer", *caption.key, number),
            question.choices if self.options.answers == "expected" else (),
        )

    def _score(
        self, orders: Sequence[int], shown: Sequence[ShownQuestion], answers: Sequence[Answer]
    ) -> Score:
        """The weighted mean over a caption's questions, of which `orders` says how many orders each
        was asked in; missing if any of them got no answer at all."""
        read: list[_Read] = []
        for question, answer in zip([*shown] * len(self.readers), answers, strict=True):
            if failure := _failure(answer):
                return missing(failure)
            read.append(_read(question, answer))
        outcomes = iter([r.outcome for r in read])
        by_reader = [
            [mean([next(outcomes) for _ in range(n)]) for n in orders] for _ in self.readers
        ]
        weights = [shown[start].weight for start in accumulate([0, *orders[:-1]])]
        total = mean([self._together(its) for its in zip(*by_reader, strict=True)], weights)
        parts = {"right": total.right, "misled": total.misled, "abstained": total.abstained}
        if self.options.answers == "expected":
            parts["sampled"] = sum(answer.text is not None for answer in answers) / len(answers)
        reading = [r.entry for r in read]
        if len(self.readers) > 1:
            reading = [{"reader": i // len(shown)} | entry for i, entry in enumerate(reading)]
        return Score(total.value(self.options.misled_weight), reading=reading, parts=parts)

    def _together(self, outcomes: Sequence[Outcome]) -> Outcome:
        """What all readers make of one question."""
        if self.options.readers == "mean":
            return mean(outcomes)
        return min(outcomes, key=lambda outcome: outcome.value(self.options.misled_weight))


@dataclass(frozen=True)
class _Read:
    """What an answer comes to, and what the rollout log says of it."""

    outcome: Outcome
    entry: dict[str, Any]


def _failure(answer: Answer) -> str:
    """Why an answer is missing; empty where it is not."""
    if answer.probabilities is not None:
        return ""
    if answer.text is None:
        return answer.failure or "the reader gave no answer"
    if said(answer.text).cut_off:
        return f"answer: {CUT_OFF}; raise reward.reader.max_tokens"
    return ""


def _read(question: ShownQuestion, answer: Answer) -> _Read:
    asked = {
        "question": question.question,
        "choices": list(question.choices),
        "right": question.answer,
    } | ({} if question.weight == 1 else {"weight": question.weight})
    if answer.probabilities is not None:
        probable = {
            letter: round(probability, 4)
            for letter, probability in zip(question.letters, answer.probabilities, strict=True)
        }
        outcome = outcome_of_probabilities(question, answer.probabilities)
        return _Read(outcome, asked | {"probabilities": probable} | _told(outcome))
    letter = read_answer(answer.text or "", question)
    outcome = outcome_of_letter(question, letter)
    return _Read(outcome, asked | {"answer": answer.text, "letter": letter} | _told(outcome))


def _told(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The outcome as the rollout log has it: what is not 0."""
    return {"outcome": {k: round(v, 4) for k, v in asdict(outcome).items() if v}}

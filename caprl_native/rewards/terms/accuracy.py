"""Utility of a caption: how often a reader that sees only it answers questions rightly."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Literal

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
from caprl_native.rewards.prompts import CANNOT_ANSWER, reader_messages
from caprl_native.rewards.questions import ShownQuestion, draw, read_answer
from caprl_native.rewards.readers.base import Answer, Ask
from caprl_native.seeds import rng_of, seed_of
from caprl_native.text.thoughts import CUT_OFF, said


class AccuracyOptions(TermOptions):
    """How many questions a reader answers rightly that sees the caption alone."""

    reads = True
    type: Literal["accuracy"] = "accuracy"
    draws: int = Field(
        8,
        ge=0,
        description="Questions drawn per caption, with replacement; 0: each question once.",
    )
    cannot_answer: bool = Field(
        True, description='Offer one more choice: "cannot be answered from the caption".'
    )


@TERMS.register(AccuracyOptions)
class Accuracy(RewardTerm[AccuracyOptions]):
    """Share of right answers over the drawn questions (CapRL's visual utility reward)."""

    def __init__(self, options: AccuracyOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.reader = context.reader
        self.collective = self.reader.collective

    def for_evaluation(self, draws: int) -> Accuracy:
        return Accuracy(self.options.model_copy(update={"draws": draws}), self.context)

    def submit(self, caption: Caption) -> Future[Score]:
        """Gives the reader the questions on one caption."""
        shown = self._draw(caption)
        modality, text = caption.sample.modality, caption.text
        asks = [
            Ask(
                reader_messages(modality, text, q.question, list(q.choices)),
                seed_of("answer", *caption.key, i),
            )
            for i, q in enumerate(shown)
        ]
        return gathered(self.reader.ask(asks), partial(_score, shown))

    def _draw(self, caption: Caption) -> list[ShownQuestion]:
        """The questions of one caption, the same whenever it is scored again."""
        rng = rng_of("draw", *caption.key)
        questions = caption.sample.questions
        chosen = [rng.choice(questions) for _ in range(self.options.draws)] or questions
        return [
            draw(q, rng, cannot_answer=self.options.cannot_answer, text=CANNOT_ANSWER)
            for q in chosen
        ]


def _score(shown: list[ShownQuestion], answers: list[Answer]) -> Score:
    """The mean over a caption's questions; missing if any of them got no answer at all."""
    reading, right = [], 0
    for question, answer in zip(shown, answers, strict=True):
        if answer.text is None:
            return missing(answer.failure or "the reader gave no answer")
        if said(answer.text).cut_off:
            return missing(f"answer: {CUT_OFF}; raise reward.reader.max_tokens")
        letter = read_answer(answer.text, question)
        right += letter == question.answer
        reading.append(
            {
                "question": question.question,
                "choices": list(question.choices),
                "right": question.answer,
                "answer": answer.text,
                "letter": letter,
            }
        )
    return Score(right / len(answers), reading=reading)

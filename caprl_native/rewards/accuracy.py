"""Utility of a caption: how often a reader that sees only it answers questions rightly."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from caprl_native.config.schema import AccuracyConfig
from caprl_native.rewards.base import Caption, Score
from caprl_native.rewards.prompts import CANNOT_ANSWER, reader_messages
from caprl_native.rewards.questions import ShownQuestion, draw, read_answer
from caprl_native.rewards.reader import Answer, Ask, Reader
from caprl_native.seeds import rng_of, seed_of
from caprl_native.text.thoughts import CUT_OFF, said


@dataclass
class Reading:
    """A caption in the reader's hands: the questions as they were asked, and answers to come."""

    shown: list[ShownQuestion]
    answers: list[Future[Answer]]

    def score(self) -> Score:
        """Waits for the answers."""
        answers = [answer.result() for answer in self.answers]
        return _score(list(zip(self.shown, answers, strict=True)))


@dataclass
class AccuracyReward:
    """Share of right answers over the drawn questions (CapRL's visual utility reward)."""

    reader: Reader
    config: AccuracyConfig

    def __call__(self, captions: Sequence[Caption]) -> list[Score]:
        readings = [self.ask(caption) for caption in captions]
        self.reader.finish()
        return [reading.score() for reading in readings]

    def ask(self, caption: Caption) -> Reading:
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
        return Reading(shown, self.reader.ask(asks))

    def _draw(self, caption: Caption) -> list[ShownQuestion]:
        """The questions of one caption, the same whenever it is scored again."""
        rng = rng_of("draw", *caption.key)
        questions = caption.sample.questions
        chosen = [rng.choice(questions) for _ in range(self.config.draws)] or questions
        return [
            draw(q, rng, cannot_answer=self.config.cannot_answer, text=CANNOT_ANSWER)
            for q in chosen
        ]


def _score(answered: list[tuple[ShownQuestion, Answer]]) -> Score:
    """The mean over a caption's questions; missing if any of them got no answer at all."""
    reading, right = [], 0
    for question, answer in answered:
        if answer.text is None:
            return Score(None, failure=answer.failure)
        if said(answer.text).cut_off:
            return Score(None, failure=f"answer: {CUT_OFF}; raise reward.reader.max_tokens")
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
    return Score(right / len(answered), reading=reading)
